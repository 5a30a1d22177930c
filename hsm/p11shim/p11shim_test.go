package p11shim_test

import (
	"testing"

	"github.com/keygate/keygate/hsm/p11shim"
)

func TestTally(t *testing.T) {
	d := p11shim.Tally{"C_Encrypt": 5, "C_EncryptInit": 5, "C_Login": 1}.Since(p11shim.Tally{"C_Encrypt": 2, "C_EncryptInit": 2, "C_Login": 1})
	if len(d) != 2 || d.Of([]string{"C_Encrypt"}) != 3 || d.Of([]string{"C_Encrypt", "C_EncryptInit", "C_Login"}) != 6 {
		t.Errorf("%v", d)
	}
	if got := d.List(p11shim.Functions); got != "C_EncryptInit 3, C_Encrypt 3" {
		t.Errorf("the list is %q", got)
	}
	if len(p11shim.Functions) != 68 { // PKCS#11 v2.40
		t.Errorf("%d functions", len(p11shim.Functions))
	}
}

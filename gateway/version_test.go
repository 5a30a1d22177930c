package gateway_test

import (
	"crypto/fips140"
	"testing"
)

func TestCR21_TheVersionSaysWhetherTheModeIsFIPS(t *testing.T) {
	w := newWorld(t)
	var got map[string]any
	w.client(w.app).get("GET", "/version", "", &got)
	module, there := got["fips_module"]
	if got["fips"] != fips140.Enabled() || there != fips140.Enabled() || there && module != fips140.Version() {
		t.Errorf("version is %v, FIPS mode is %v, of module %s", got, fips140.Enabled(), fips140.Version())
	}
}

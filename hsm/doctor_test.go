package hsm_test

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

func TestTheDoctorFindsAGoodTokenGood(t *testing.T) {
	f, cfg := initialised(t)
	report, err := hsm.Doctor(t.Context(), cfg)
	ok(t, err)
	if !report.OK || report.Module != f.Module || report.Token.Label != f.Label || report.Token.Serial == "" {
		t.Errorf("the report is %+v", report)
	}
	for _, check := range report.Checks {
		if !check.OK || check.Why != "" {
			t.Errorf("%+v", check)
		}
	}
	text, err := json.Marshal(report)
	ok(t, err)
	for _, want := range []string{"CKM_AES_GCM", "CKA_EXTRACTABLE", "CKA_DECRYPT", "CKA_UNWRAP_TEMPLATE", hsm.DefaultKEK, hsm.DefaultRecordKey} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no word of %s in %s", want, text)
		}
	}
	if strings.Contains(string(text), f.PIN) {
		t.Error("the PIN is in the report")
	}
}

func TestTheDoctorFindsAnEmptyTokenWanting(t *testing.T) {
	report, err := hsm.Doctor(t.Context(), hsmtest.Empty(t))
	ok(t, err)
	if report.OK {
		t.Errorf("the report is %+v", report)
	}
}

func TestHS23_AMissingMechanismIsNamed(t *testing.T) {
	s, cfg := shimmed(t)
	cfg.Wrapping = "aes-kw"
	s.fail("C_GetMechanismList", fault{code: pkcs11.CKR_OK, times: forever}) // of no mechanisms
	err := refused(t, cfg)
	for _, name := range []string{"CKM_AES_GCM", "CKM_AES_KEY_WRAP", "CKM_AES_KEY_GEN", "CKM_GENERIC_SECRET_KEY_GEN", "CKM_SHA256_HMAC"} {
		says(t, err, name)
	}
}

// A token that was initialised anew under the same label, with new root keys,
// is not the one that the stored keys are wrapped for.
func TestHS15_AnotherTokenUnderTheSameLabelIsRefused(t *testing.T) {
	util, err := exec.LookPath("softhsm2-util")
	if err != nil {
		unable(t, err)
	}
	f := openFaulty(t)
	token := f.fixture
	out, err := exec.Command(util, "--delete-token", "--token", token.Label).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// As another process, since this one's library still has the old token.
	out, err = exec.Command(util, "--init-token", "--free", "--label", token.Label, "--pin", token.PIN, "--so-pin", "officer").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f.fail("C_GetSlotList", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
	f.fail("C_SignInit", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
	_, err = f.root.MAC(t.Context(), nil, nil)
	is(t, err, kms.ErrUnavailable) // it has no root keys

	_, err = hsm.Init(t.Context(), configOf(token))
	ok(t, err)
	waitFor(t, func() bool {
		_, err = f.root.MAC(t.Context(), nil, nil)
		return err != nil && strings.Contains(err.Error(), "key than before")
	})
	is(t, err, kms.ErrDenied)
	if _, err := f.root.Encrypt(t.Context(), f.handle, nil, nil); err == nil {
		t.Error("it encrypts with keys of another token")
	}
}

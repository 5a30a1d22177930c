package hsm_test

import (
	"encoding/json"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/softhsm"
)

func TestTheDoctorFindsAGoodTokenGood(t *testing.T) {
	f, cfg := initialised(t)
	report, err := hsm.Examine(t.Context(), cfg, hsm.Examination{Latencies: true})
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

func TestTheDoctorTellsWhatATokenIs(t *testing.T) {
	report, err := hsm.Examine(t.Context(), hsmtest.Config(t), hsm.Examination{Latencies: true})
	ok(t, err)
	d := report.Details
	if d.Cryptoki != "2.40" || d.Slot == 0 || d.Firmware == "" || !slices.Contains(d.Flags, "LOGIN_REQUIRED") || d.MinPIN == 0 || d.MaxPIN < d.MinPIN || !d.Sessions.NoEnd {
		t.Errorf("the details are %+v", d)
	}
	i := slices.IndexFunc(report.Mechanisms, func(m hsm.Mechanism) bool { return m.Name == "CKM_AES_GCM" })
	if i < 0 || report.Mechanisms[i].MaxKey != 32 || !report.Mechanisms[i].Needed || !slices.Contains(report.Mechanisms[i].Flags, "ENCRYPT") {
		t.Errorf("the mechanisms are %+v", report.Mechanisms)
	}
	if i := slices.IndexFunc(report.Mechanisms, func(m hsm.Mechanism) bool { return m.Name == "CKM_AES_KEY_WRAP" }); i < 0 || !report.Mechanisms[i].Needed {
		t.Error("the mechanism that wraps is not marked as used")
	}
	var calls []string
	for _, l := range report.Latencies {
		calls = append(calls, l.Call)
		if l.Calls < 1 || l.P50 <= 0 || l.P90 < l.P50 || l.P99 < l.P90 || l.Max < l.P99 {
			t.Errorf("%+v", l)
		}
	}
	want := []string{"C_OpenSession", "C_GenerateRandom", "C_EncryptInit + C_Encrypt", "C_DecryptInit + C_Decrypt", "C_SignInit + C_Sign", "C_UnwrapKey"}
	if !slices.Equal(calls, want) {
		t.Errorf("it measures %q", calls)
	}
}

// To examine a token is one login, and leaves no session and no object.
func TestTheDoctorLogsInOnceAndLeavesNothing(t *testing.T) {
	s, cfg := shimmed(t)
	_, err := hsm.Examine(t.Context(), cfg, hsm.Examination{Latencies: true})
	ok(t, err)
	if n := s.calls("C_Login"); n != 1 {
		t.Errorf("%d logins", n)
	}
	if opened, closed := s.calls("C_OpenSession"), s.calls("C_CloseSession"); opened != closed || opened < 100 {
		t.Errorf("%d sessions opened, %d closed", opened, closed)
	}
	made := s.calls("C_UnwrapKey") + s.calls("C_GenerateKey") + s.calls("C_CreateObject")
	if gone := s.calls("C_DestroyObject"); gone != made-11 { // the link's own key ends with its session, and ten unwraps are refused
		t.Errorf("%d objects made, %d destroyed", made, gone)
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

func TestTheDoctorGivesNoVerdictWithoutALogin(t *testing.T) {
	cfg := hsmtest.Config(t)
	cfg.PIN.File = filepath.Join(t.TempDir(), "none")
	report, err := hsm.Doctor(t.Context(), cfg)
	is(t, err, fs.ErrNotExist)
	if report.OK || report.Unfinished != err.Error() || report.Details == nil {
		t.Errorf("without a PIN the report is %+v", report)
	}
	if report, err = hsm.Doctor(t.Context(), hsmtest.Empty(t)); err != nil || report.OK || report.Unfinished != "" {
		t.Errorf("the report of a token without keys is %+v, %v", report, err)
	}
}

// Doctor says of a KEK with or without an unwrap template what Open does with it.
func TestHS18_TheDoctorTakesWhatOpenTakes(t *testing.T) {
	with, without := softhsm.Token(t), softhsm.Token(t)
	_, err := hsm.Init(t.Context(), configOf(with))
	ok(t, err)
	as(t, without, func(r raw) {
		r.make(kek, nil)
		r.make(recordKey, nil)
	})
	for _, test := range []struct {
		f      softhsm.Fixture
		accept []string
		found  string
		taken  bool
	}{
		{with, nil, "there", true},
		{with, []string{"CKA_UNWRAP_TEMPLATE"}, "there", true},
		{without, nil, "empty", false},
		{without, []string{"CKA_UNWRAP_TEMPLATE"}, "empty, accepted by root.pkcs11.accept", true},
	} {
		cfg := configOf(test.f)
		cfg.Accept = test.accept
		r, openErr := hsm.Open(t.Context(), cfg, quiet())
		if openErr == nil {
			ok(t, r.Close())
		}
		report, err := hsm.Doctor(t.Context(), cfg)
		ok(t, err)
		if report.OK != test.taken || (openErr == nil) != test.taken {
			t.Errorf("accept %q, template %q: the doctor says %v, Open %v", test.accept, test.found, report.OK, openErr)
		}
		if c := templateCheck(t, report); c.Found != test.found || c.OK != test.taken {
			t.Errorf("accept %q: the check is %+v, not %q", test.accept, c, test.found)
		}
	}
}

// A KEK that wraps no key, since all stay in the token, gives none away.
func TestHS18_AKEKThatWrapsNothingNeedsNoTemplate(t *testing.T) {
	f := softhsm.Token(t)
	as(t, f, func(r raw) {
		r.make(kek, nil)
		r.make(recordKey, nil)
	})
	s, cfg := shimBefore(t, f, f.Module, configOf(f))
	s.fail("C_WrapKey", fault{code: pkcs11.CKR_KEY_NOT_WRAPPABLE, times: forever})
	cfg.Residency = "token"
	ok(t, hsmtest.Open(t, cfg).Status(t.Context()))
	report, err := hsm.Doctor(t.Context(), cfg)
	ok(t, err)
	if c := templateCheck(t, report); !report.OK || !c.OK || c.Found != "empty" {
		t.Errorf("Open takes the token, and the doctor says %v, %+v", report.OK, c)
	}
}

func templateCheck(t *testing.T, report hsm.Report) hsm.Check {
	t.Helper()
	i := slices.IndexFunc(report.Checks, func(c hsm.Check) bool { return strings.HasSuffix(c.What, "CKA_UNWRAP_TEMPLATE") })
	if i < 0 {
		t.Fatalf("the template was not looked at: %+v", report.Checks)
	}
	return report.Checks[i]
}

// Only a token that says so does not know the attribute: one that fails to answer may
// have a KEK without a template.
func TestHS18_AFaultIsNoUnknownAttribute(t *testing.T) {
	s, cfg := shimmed(t)
	begin := s.calls("C_GetAttributeValue")
	_, err := hsm.Doctor(t.Context(), cfg)
	ok(t, err)
	reads := s.calls("C_GetAttributeValue") - begin
	for i := range 20 { // the template is among those that are read last
		s.fail("C_GetAttributeValue", fault{code: pkcs11.CKR_DEVICE_ERROR, times: 1, skip: reads - 1 - i})
		report, err := hsm.Doctor(t.Context(), cfg)
		s.heal()
		for _, c := range report.Checks {
			if strings.Contains(c.Found, "not known to the token") && strings.HasSuffix(c.What, "CKA_UNWRAP_TEMPLATE") {
				t.Errorf("read %d failed: %+v", reads-1-i, c)
			}
		}
		if err == nil && report.OK {
			t.Errorf("read %d failed, and the token is found good", reads-1-i)
		}
	}
}

// Tokens that were each given root keys of their own are no group, as Open says.
func TestHS16_TheDoctorTellsTokensWithOtherRootKeys(t *testing.T) {
	one := softhsm.Token(t)
	_, err := hsm.Init(t.Context(), configOf(one))
	ok(t, err)
	clone, other, same := softhsm.Clone(t, one), softhsm.Token(t), softhsm.Token(t)
	_, err = hsm.Init(t.Context(), configOf(other))
	ok(t, err)
	as(t, same, func(r raw) { // a token that is refused is not what the others are compared with
		r.make(kek, nil)
		r.make(recordKey, nil)
	})
	for _, test := range []struct {
		tokens []softhsm.Fixture
		taken  []bool
	}{
		{[]softhsm.Fixture{one, clone}, []bool{true, true}},
		{[]softhsm.Fixture{one, other}, []bool{true, false}},
		{[]softhsm.Fixture{one, other, clone}, []bool{true, false, true}},
		{[]softhsm.Fixture{same, one, clone}, []bool{false, true, true}},
	} {
		cfg := hsm.Config{Module: one.Module}
		for _, f := range test.tokens {
			cfg.Tokens = append(cfg.Tokens, hsm.TokenConfig{Module: softhsm.CopyOfModule(t, f), Token: f.Label, PIN: &hsm.PIN{File: f.PINFile}})
		}
		r, openErr := hsm.Open(t.Context(), cfg, quiet())
		if openErr == nil {
			ok(t, r.Close())
		}
		reports, err := hsm.ExamineEach(t.Context(), cfg, hsm.Examination{})
		ok(t, err)
		all := true
		for i, report := range reports {
			all = all && report.OK
			why := hsm.Check{}
			for _, c := range report.Checks {
				if !c.OK {
					why = c
				}
			}
			if report.OK != test.taken[i] || test.tokens[i] == other && (!strings.Contains(why.Why, "another record key") || !strings.Contains(why.Why, other.Label)) {
				t.Errorf("token %d of %d: %v, %+v", i, len(reports), report.OK, why)
			}
		}
		if all != (openErr == nil) || len(reports) != len(test.tokens) {
			t.Errorf("%d reports, all good: %v, and Open says %v", len(reports), all, openErr)
		}
	}
}

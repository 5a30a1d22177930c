package hsm_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

// A dry run tells each attribute that Init then gives, and leaves the token as it was.
func TestHS18_ADryRunTellsWhatInitDoes(t *testing.T) {
	cfg := hsmtest.Empty(t)
	plan, err := hsm.PlanInit(t.Context(), cfg, hsm.InitOptions{})
	ok(t, err)
	again, err := hsm.PlanInit(t.Context(), cfg, hsm.InitOptions{})
	ok(t, err)
	if !plan.OK() || len(plan.Make) != 2 || !reflect.DeepEqual(plan, again) {
		t.Fatalf("the plan is %+v, and then %+v", plan, again)
	}
	kek, record := plan.Make[0], plan.Make[1]
	if kek.Label != hsm.DefaultKEK || kek.Mechanism != "CKM_AES_KEY_GEN" || record.Label != hsm.DefaultRecordKey || record.Mechanism != "CKM_GENERIC_SECRET_KEY_GEN" {
		t.Errorf("it would make %+v", plan.Make)
	}
	for _, want := range []string{"CKA_CLASS=CKO_SECRET_KEY", "CKA_KEY_TYPE=CKK_AES", "CKA_VALUE_LEN=32", "CKA_TOKEN=true", "CKA_PRIVATE=true",
		"CKA_SENSITIVE=true", "CKA_EXTRACTABLE=false", "CKA_MODIFIABLE=false", "CKA_WRAP=true", "CKA_UNWRAP=true", "CKA_DECRYPT=false"} {
		if !strings.Contains(attributes(kek.Template), want) {
			t.Errorf("the KEK has no %s in %s", want, attributes(kek.Template))
		}
	}
	for _, want := range []string{"CKA_SENSITIVE=true", "CKA_WRAP_WITH_TRUSTED=true"} {
		if o := attributes(kek.Optional); !strings.HasPrefix(o, "CKA_UNWRAP_TEMPLATE={") || !strings.Contains(o, want) {
			t.Errorf("the optional attributes of the KEK are %s", o)
		}
	}

	made, err := hsm.Init(t.Context(), cfg)
	ok(t, err)
	if !made.KEK || !made.RecordKey {
		t.Errorf("the dry runs made keys: Init made %+v", made)
	}
	after, err := hsm.PlanInit(t.Context(), cfg, hsm.InitOptions{})
	ok(t, err)
	if len(after.Make) != 0 || !after.OK() {
		t.Errorf("after Init it would make %+v, and finds %+v", after.Make, after.Checks)
	}
	found := make(map[string]string) // of the keys that Init made
	for _, c := range after.Checks {
		what := strings.SplitN(c.What, ": ", 2)
		if len(what) == 2 {
			found[what[0]+" "+what[1]] = c.Found
		}
	}
	told := 0
	for _, key := range plan.Make {
		for _, a := range append(key.Template, key.Optional...) {
			for _, name := range []string{"KEK", "record key"} {
				have, checked := found[name+" \""+key.Label+"\" "+a.Name]
				if checked && (a.Value == "true" || a.Value == "false") {
					told++
					if have != a.Value {
						t.Errorf("%s: %s was told to be %s and is %s", name, a.Name, a.Value, have)
					}
				}
			}
		}
	}
	if told < 20 {
		t.Errorf("only %d attributes could be compared", told)
	}
	if text, err := json.Marshal(plan); err != nil || strings.Contains(string(text), "1234") {
		t.Errorf("%v, %s", err, text)
	}
}

func attributes(all []hsm.PlannedAttribute) string {
	var text []string
	for _, a := range all {
		text = append(text, a.Name+"="+a.Value)
	}
	return strings.Join(text, " ")
}

func TestHS14_ADryRunLogsInOnceAndMakesNothing(t *testing.T) {
	s, cfg := shimmed(t)
	cfg.KEK, cfg.RecordKey = "another KEK", "another record key"
	before := s.calls("C_Login")
	plan, err := hsm.PlanInit(t.Context(), cfg, hsm.InitOptions{})
	ok(t, err)
	if len(plan.Make) != 2 {
		t.Errorf("the plan is %+v", plan)
	}
	if n := s.calls("C_Login") - before; n != 1 {
		t.Errorf("%d logins", n)
	}
	for _, f := range []string{"C_SetAttributeValue", "C_InitToken", "C_InitPIN", "C_SetPIN"} {
		if n := s.calls(f); n != 0 {
			t.Errorf("%d calls of %s", n, f)
		}
	}
	r := hsmtest.Open(t, s.cfg)
	ok(t, r.OnSession(t.Context(), func(c hsm.Calls) {
		// PKCS#11 v2.40 base 5.7.3: of all token objects.
		ok(t, c.FindObjectsInit(c.Session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)}))
		found, _, err := c.FindObjects(c.Session, 10)
		ok(t, err)
		ok(t, c.FindObjectsFinal(c.Session))
		if len(found) != 2 {
			t.Errorf("the token has %d objects, not its two root keys", len(found))
		}
	}))
}

func TestADryRunRefusesWhatInitRefuses(t *testing.T) {
	cfg := hsmtest.Config(t)
	cfg.KEK = "lost"
	_, err := hsm.PlanInit(t.Context(), cfg, hsm.InitOptions{})
	is(t, err, kms.ErrDenied)
	_, initErr := hsm.Init(t.Context(), cfg)
	if initErr == nil || initErr.Error() != err.Error() {
		t.Errorf("Init says %v, and a dry run %v", initErr, err)
	}
}

package hsm

import (
	"maps"
	"testing"
)

// What is asked of the root keys, by name: also what no test can make a token do
// wrong, as that a key with CKA_TOKEN false is found.
var (
	wantOfBoth = map[string]bool{
		"CKA_TOKEN": true, "CKA_PRIVATE": true, "CKA_SENSITIVE": true, "CKA_EXTRACTABLE": false, "CKA_ALWAYS_SENSITIVE": true,
		"CKA_NEVER_EXTRACTABLE": true, "CKA_LOCAL": true, "CKA_MODIFIABLE": false, "CKA_COPYABLE": false, "CKA_DESTROYABLE": false,
		"CKA_ENCRYPT": false, "CKA_DECRYPT": false, "CKA_DERIVE": false,
	}
	wantOfKEK       = map[string]bool{"CKA_WRAP": true, "CKA_UNWRAP": true, "CKA_SIGN": false, "CKA_VERIFY": false}
	wantOfRecordKey = map[string]bool{"CKA_WRAP": false, "CKA_UNWRAP": false, "CKA_SIGN": true}
	// What tokens may not know: of PKCS#11 v2.20 and later, or what they do not
	// let such a key do.
	mayBeUnknown = map[string]bool{
		"CKA_MODIFIABLE": true, "CKA_COPYABLE": true, "CKA_DESTROYABLE": true, "CKA_VERIFY": true, "CKA_DERIVE": true,
	}
)

func TestHS18_TheRulesAreComplete(t *testing.T) {
	for _, key := range []struct {
		name    string
		rules   []rule
		its     map[string]bool
		unknown []string
	}{
		{"KEK", kekRules, wantOfKEK, []string{"CKA_SIGN"}},
		{"record key", recordRules, wantOfRecordKey, []string{"CKA_WRAP", "CKA_UNWRAP"}},
	} {
		want, optional := maps.Clone(wantOfBoth), maps.Clone(mayBeUnknown)
		maps.Copy(want, key.its)
		for _, name := range key.unknown {
			optional[name] = true
		}
		for _, r := range key.rules {
			value, known := want[r.name]
			if !known || value != r.want || optional[r.name] != r.optional || r.why == "" {
				t.Errorf("%s: the rule of %s is %+v", key.name, r.name, r)
			}
			delete(want, r.name)
		}
		for name := range want {
			t.Errorf("%s: no rule of %s", key.name, name)
		}
	}
}

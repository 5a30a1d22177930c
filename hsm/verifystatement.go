package hsm

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// ErrStatement says that an attestation is not what it should be: not signed by the
// key, or no statement.
var ErrStatement = errors.New("hsm: the attestation is not authentic")

// VerifyStatement returns the statement that e holds, if it is signed by one of keys,
// each ECDSA or RSA, and that is the key which it names.
func VerifyStatement(e Envelope, keys ...crypto.PublicKey) (Statement, error) {
	var st Statement
	if e.PayloadType != StatementType {
		return st, fmt.Errorf("%w: its type is %q", ErrStatement, e.PayloadType)
	}
	digest := sha256.Sum256(e.encoded())
	q := signature{Hash: crypto.SHA256}
	for _, key := range keys {
		for _, s := range e.Signatures {
			if q.verifies(key, digest[:], s.Sig) {
				return readStatement(e.Payload, key)
			}
		}
	}
	return st, fmt.Errorf("%w: none of the keys has signed it", ErrStatement)
}

func readStatement(payload []byte, key crypto.PublicKey) (st Statement, err error) {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	if err := d.Decode(&st); err != nil {
		return st, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	switch {
	case err != nil:
		return st, err
	case st.Version != 1:
		return st, fmt.Errorf("%w: version %d is not known", ErrStatement, st.Version)
	case !bytes.Equal(der, st.SigningKey):
		return st, fmt.Errorf("%w: it names another key than the one that signed it", ErrStatement)
	}
	return st, nil
}

// What a signing key that was made here is, beyond privateRules.
var signingRules = append(append(secret[:len(secret):len(secret)], privateRules...),
	rule{pkcs11.CKA_DECRYPT, "CKA_DECRYPT", false, whyUsage, true},
	rule{pkcs11.CKA_UNWRAP, "CKA_UNWRAP", false, whyUsage, true},
	rule{pkcs11.CKA_DERIVE, "CKA_DERIVE", false, whyUsage, true},
)

// Weak says what is wrong with the keys of the statement, by the rules that Open and
// Doctor have for them, with nothing accepted.
func (st Statement) Weak() []string {
	weak := []string{}
	rules := map[string][]rule{roleKEK: kekRules, roleOtherKEK: kekRules, roleRecord: recordRules, roleSigning: signingRules}
	seen := make(map[string]bool)
	for _, k := range st.Keys {
		seen[k.Role] = true
		for _, r := range rules[k.Role] {
			if text := k.breaks(r); text != "" && !seen[k.Role+k.Label+text] {
				seen[k.Role+k.Label+text] = true
				weak = append(weak, fmt.Sprintf("%s key %q: %s", k.Role, k.Label, text))
			}
		}
	}
	for _, role := range []string{roleKEK, roleRecord, roleSigning} {
		if !seen[role] {
			weak = append(weak, "the statement has no "+role+" key")
		}
	}
	if n := st.TrustedKeys; n != nil && *n > 0 {
		weak = append(weak, fmt.Sprintf("%d keys have CKA_TRUSTED and wrap, and are no KEKs: who can unwrap what they wrap can read all keys", *n))
	}
	return weak
}

// breaks says how k breaks r; empty: it does not.
func (k StatementKey) breaks(r rule) string {
	is := k.Attributes[r.name]
	switch {
	case is == nil && r.optional, is != nil && *is == r.want:
		return ""
	case is == nil:
		return fmt.Sprintf("%s is not known to the token, and must be %v: %s", r.name, r.want, r.why)
	}
	return fmt.Sprintf("%s is %v, and must be %v: %s", r.name, *is, r.want, r.why)
}

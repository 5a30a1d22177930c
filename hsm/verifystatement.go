package hsm

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

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
// Doctor have for them, with nothing accepted, and what it should tell and does not. It
// also names a KEK that gives keys away in a token that does not know
// CKA_UNWRAP_TEMPLATE, which Open takes.
func (st Statement) Weak() []string {
	weak := []string{}
	seen := make(map[string]bool)
	for _, k := range st.Keys {
		seen[k.Role] = true
		for _, text := range k.weak() {
			if text = fmt.Sprintf("%s key %q: %s", k.Role, k.Label, text); !slices.Contains(weak, text) {
				weak = append(weak, text)
			}
		}
	}
	for _, role := range []string{roleKEK, roleRecord, roleSigning} {
		if !seen[role] {
			weak = append(weak, "the statement has no "+role+" key")
		}
	}
	return append(append(weak, st.weakTrust()...), st.weakRules()...)
}

// weak says what is wrong with a key.
func (k StatementKey) weak() (weak []string) {
	rules := map[string][]rule{roleKEK: kekRules, roleOtherKEK: kekRules, roleRecord: recordRules, roleSigning: signingRules}
	for _, r := range rules[k.Role] {
		if text := k.breaks(r); text != "" {
			weak = append(weak, text)
		}
	}
	if k.Role != roleKEK && k.Role != roleOtherKEK {
		return weak
	}
	switch k.Unwraps {
	case unwrapsHidden, unwrapsNothing:
		return weak
	case unwrapsReadable:
		return append(weak, whyUnwrapped)
	case unwrapsUnguarded:
		return append(weak, whyUnwrapped+": the token does not know CKA_UNWRAP_TEMPLATE")
	}
	return append(weak, fmt.Sprintf("the statement does not say whether stored keys can be unwrapped so that they can be read (%q)", k.Unwraps))
}

func (st Statement) weakTrust() []string {
	switch n := st.TrustedKeys; {
	case n == nil:
		return []string{"the token does not tell how many keys have CKA_TRUSTED and wrap: who can unwrap what they wrap can read all keys"}
	case *n > 0:
		return []string{fmt.Sprintf("%d keys have CKA_TRUSTED and wrap, and are no KEKs: who can unwrap what they wrap can read all keys", *n)}
	}
	return nil
}

// weakRules names the rules that are broken and accepted: not all that they are about is
// in attributes.
func (st Statement) weakRules() (weak []string) {
	if st.Broke == nil {
		return []string{"the statement does not say which rules root.pkcs11.accept lets be broken"}
	}
	for _, text := range st.Broke {
		weak = append(weak, "accepted by root.pkcs11.accept: "+text)
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

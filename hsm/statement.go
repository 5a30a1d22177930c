package hsm

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// A Statement is what a token says of itself and of the root keys. It is made by
// this program of what the module answers, and signed by a key in the token: it proves
// that the token with that key was asked, by whoever can use the key, and not that the
// module told the truth.
type Statement struct {
	Version int       `json:"version"` // 1
	Time    time.Time `json:"time"`
	Nonce   string    `json:"nonce,omitempty"` // as it was given, in hex
	Cluster string    `json:"cluster,omitempty"`
	Gateway string    `json:"gateway,omitempty"` // version of the program
	// Tokens is how many tokens the root of trust has. This is one of them.
	Tokens int            `json:"tokens"`
	Token  StatementToken `json:"token"`
	Keys   []StatementKey `json:"keys"`
	// TrustedKeys is how many keys with CKA_TRUSTED wrap, beside KEKs: whoever has the
	// PIN and can unwrap what one of them wraps has all master keys that a KEK which
	// can be replaced wraps. Null: the token does not tell.
	TrustedKeys *int `json:"trusted_keys"`
	// Broke has the rules that are broken, with what that means, and are accepted by
	// root.pkcs11.accept. Null: it is not told.
	Broke      []string `json:"broke"`
	SigningKey []byte   `json:"signing_key"` // public key, PKIX in DER
}

// A StatementToken is the token of a Statement.
type StatementToken struct {
	TokenInfo
	Hardware string   `json:"hardware"` // version
	Firmware string   `json:"firmware"` // version
	Flags    []string `json:"flags"`    // those of CK_TOKEN_INFO that are set
}

// A StatementKey is a key of a Statement.
type StatementKey struct {
	Role  string `json:"role"` // kek, record, signing, or other_kek
	Label string `json:"label"`
	ID    string `json:"id"`                    // CKA_ID, in hex
	Bytes uint   `json:"value_len,omitempty"`   // CKA_VALUE_LEN of a secret key
	Check string `json:"check_value,omitempty"` // 8 bytes that are the same for the same key, in hex; see CheckMethod
	// CheckMethod says how Check was made.
	CheckMethod string `json:"check_method,omitempty"`
	// Unwraps says of a KEK what came of tries, when the token was connected to, to
	// unwrap a key of it so that it can be read, or that any key wraps it: hidden, none
	// gave the key away; readable, one did; unguarded, one did and the token does not
	// know CKA_UNWRAP_TEMPLATE; nothing, the token wraps no key.
	Unwraps string `json:"unwraps,omitempty"`
	// Attributes has the attributes by name; null: the token does not know it, or
	// does not tell.
	Attributes map[string]*bool `json:"attributes"`
}

// The roles of keys.
const (
	roleKEK      = "kek" // wraps new keys
	roleOtherKEK = "other_kek"
	roleRecord   = "record"
	roleSigning  = "signing"
)

// An Envelope is a signed Statement, as DSSE version 1 has it.
type Envelope struct {
	PayloadType string              `json:"payloadType"`
	Payload     []byte              `json:"payload"`
	Signatures  []EnvelopeSignature `json:"signatures"`
}

// An EnvelopeSignature is ECDSA (ASN.1) or RSA (PKCS #1 v1.5) with SHA-256, over the
// pre-authentication encoding of DSSE.
type EnvelopeSignature struct {
	KeyID string `json:"keyid"` // SHA-256 of the public key, in hex
	Sig   []byte `json:"sig"`
}

// StatementType is the type of the payload of an Envelope.
const StatementType = "application/vnd.keygate.hsm-statement.v1+json"

// encoded returns what the signature is over: PAE of DSSE v1.
func (e *Envelope) encoded() []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(e.Payload), e.Payload)
}

// An AttestRequest is what a Statement repeats.
type AttestRequest struct {
	Nonce   []byte `json:"-"` // so that it is known to be new; MaxNonce bytes at most
	Cluster string `json:"cluster"`
	Gateway string `json:"gateway"` // version of the program
}

// MaxNonce is the size of a nonce at most, in bytes.
const MaxNonce = 64

// What a token is told of an AttestRequest, as JSON, with opAttest.
type statementRequest struct {
	AttestRequest
	RecordKey, SigningKey string
	Tokens                int
}

// An Attestation is one for each token of a Root that works.
type Attestation struct {
	Envelopes []Envelope `json:"attestations"`
	// Missing says why there is none for the other tokens. It is not signed; each
	// Statement says how many tokens there are.
	Missing []string `json:"missing,omitempty"`
}

// Attest has each token say what its root keys are. It returns ErrUnsupported if the
// configuration has no SigningKey, ErrNoKey if no token has it.
func (r *Root) Attest(ctx context.Context, a AttestRequest) (Attestation, error) {
	var all Attestation
	if r.cfg.SigningKey == "" || len(a.Nonce) > MaxNonce {
		return all, fmt.Errorf("hsm: attest: there is no signing_key, or the nonce is longer than %d bytes: %w", MaxNonce, kms.ErrUnsupported)
	}
	request, err := json.Marshal(statementRequest{a, r.cfg.RecordKey, r.cfg.SigningKey, len(r.group.members)})
	if err != nil {
		return all, err
	}
	var errs []error
	for _, m := range r.group.members {
		answer, err := m.do(ctx, &op{kind: opAttest, a: a.Nonce, b: request})
		var e Envelope
		if err == nil {
			err = json.Unmarshal(answer, &e)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.name, err))
			all.Missing = append(all.Missing, fmt.Sprintf("%s: %v", m.name, err))
			continue
		}
		all.Envelopes = append(all.Envelopes, e)
	}
	if len(all.Envelopes) == 0 {
		return all, errors.Join(errs...)
	}
	return all, nil
}

// statement makes and signs the statement of the session's token.
func (s session) statement(request, nonce []byte) ([]byte, error) {
	var q statementRequest
	if err := json.Unmarshal(request, &q); err != nil {
		return nil, fmt.Errorf("hsm: a request to attest: %w: %w", err, kms.ErrUnsupported)
	}
	name := KeyName{Object: q.SigningKey}
	public, err := s.publicKeyOf(name)
	if err != nil {
		return nil, err
	}
	st := Statement{Version: 1, Time: time.Now().UTC(), Nonce: hex.EncodeToString(nonce), Cluster: q.Cluster, Gateway: q.Gateway, Tokens: q.Tokens, Broke: append([]string{}, s.link.broke...)}
	if st.SigningKey, err = x509.MarshalPKIXPublicKey(public); err != nil {
		return nil, err
	}
	if st.Token, err = s.describeToken(); err != nil {
		return nil, err
	}
	if st.Keys, err = s.stateKeys(q); err != nil {
		return nil, err
	}
	if st.TrustedKeys, err = s.tellTrusted(); err != nil {
		return nil, err
	}
	payload, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	e := Envelope{PayloadType: StatementType, Payload: payload}
	digest := sha256.Sum256(e.encoded())
	signed, err := sessionKey{s, name, public}.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(st.SigningKey)
	e.Signatures = []EnvelopeSignature{{hex.EncodeToString(id[:]), signed}}
	return json.Marshal(e)
}

func (s session) describeToken() (StatementToken, error) {
	info, err := s.link.module.ctx.GetTokenInfo(s.link.slot)
	if err != nil {
		return StatementToken{}, answered("C_GetTokenInfo", err)
	}
	return StatementToken{TokenInfo: s.link.token, Hardware: version(info.HardwareVersion), Firmware: version(info.FirmwareVersion), Flags: flagNames(info.Flags, tokenFlags)}, nil
}

// stateKeys describes the root keys that are in use, and the signing key.
func (s session) stateKeys(q statementRequest) ([]StatementKey, error) {
	kek, err := s.describeKEK(roleKEK, s.link.present())
	if err != nil {
		return nil, err
	}
	record, err := s.describeKey(roleRecord, q.RecordKey, s.link.recordKey.object)
	if err != nil {
		return nil, err
	}
	private, err := s.find([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, q.SigningKey)}, 2)
	if err == nil && len(private) != 1 {
		err = ErrNoKey
	}
	if err != nil {
		return nil, err
	}
	signing, err := s.describeKey(roleSigning, q.SigningKey, private[0])
	if err != nil {
		return nil, err
	}
	if record.Check, record.CheckMethod, err = s.recordCheckValue(s.link.recordKey.object); err != nil {
		return nil, err
	}
	all := []StatementKey{kek, record, signing}
	for _, k := range s.link.keks {
		if k.id == s.link.kekID {
			continue
		}
		other, err := s.describeKEK(roleOtherKEK, k)
		if err != nil {
			return nil, err
		}
		all = append(all, other)
	}
	return all, nil
}

func (s session) describeKEK(role string, k *kek) (StatementKey, error) {
	d, err := s.describeKey(role, k.label, k.object)
	d.Unwraps = k.unwraps
	if err == nil {
		d.Check, d.CheckMethod, err = s.kekCheckValue(k.object)
	}
	return d, err
}

// tellTrusted returns Statement.TrustedKeys.
func (s session) tellTrusted() (*int, error) {
	n, err := s.countTrustedOthers()
	if c, ok := classOf(err); ok && c == requestFault {
		return nil, nil
	}
	return &n, err
}

// The attributes of keys in a Statement.
var stated = []struct {
	attribute uint
	name      string
}{
	{pkcs11.CKA_TOKEN, "CKA_TOKEN"}, {pkcs11.CKA_PRIVATE, "CKA_PRIVATE"}, {pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE"},
	{pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE"}, {pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE"},
	{pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE"}, {pkcs11.CKA_LOCAL, "CKA_LOCAL"}, {pkcs11.CKA_MODIFIABLE, "CKA_MODIFIABLE"},
	{pkcs11.CKA_COPYABLE, "CKA_COPYABLE"}, {pkcs11.CKA_DESTROYABLE, "CKA_DESTROYABLE"}, {pkcs11.CKA_ENCRYPT, "CKA_ENCRYPT"},
	{pkcs11.CKA_DECRYPT, "CKA_DECRYPT"}, {pkcs11.CKA_SIGN, "CKA_SIGN"}, {pkcs11.CKA_VERIFY, "CKA_VERIFY"}, {pkcs11.CKA_WRAP, "CKA_WRAP"},
	{pkcs11.CKA_UNWRAP, "CKA_UNWRAP"}, {pkcs11.CKA_DERIVE, "CKA_DERIVE"}, {pkcs11.CKA_TRUSTED, "CKA_TRUSTED"},
	{pkcs11.CKA_WRAP_WITH_TRUSTED, "CKA_WRAP_WITH_TRUSTED"},
}

func (s session) describeKey(role, label string, key pkcs11.ObjectHandle) (StatementKey, error) {
	k := StatementKey{Role: role, Label: label, Attributes: make(map[string]*bool)}
	id, err := s.attribute(key, pkcs11.CKA_ID)
	if err != nil {
		return k, err
	}
	k.ID = hex.EncodeToString(id)
	if role != roleSigning {
		if k.Bytes, err = s.number(key, pkcs11.CKA_VALUE_LEN); err != nil {
			return k, err
		}
	}
	for _, a := range stated {
		value, err := s.attribute(key, a.attribute)
		if c, ok := classOf(err); ok && c == requestFault {
			k.Attributes[a.name] = nil
			continue
		}
		if err != nil {
			return k, err
		}
		if len(value) == 1 {
			is := value[0] != 0
			k.Attributes[a.name] = &is
		}
	}
	return k, nil
}

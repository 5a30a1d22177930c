package client

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"strings"
	"time"

	"github.com/keygate/keygate/policy"
)

// ErrAPIKey says that a text is not an API key. The text is not in the error.
var ErrAPIKey = errors.New("client: not an API key")

// The form of an API key, as KES defines it: the prefix, then the standard
// base64 of a type byte and the seed of an Ed25519 key.
const (
	apiKeyPrefix  = "kes:v1:"
	apiKeyEd25519 = 0x00
)

// apiKeyLifetime is that of the certificates KES clients make of an API key.
const apiKeyLifetime = 90 * 24 * time.Hour

// An APIKey is an Ed25519 key that a client holds as a line of text in the
// place of a certificate and a key file. It is a secret: it prints as its
// identity, and only Reveal returns it. It is safe for concurrent use.
type APIKey struct {
	// key is a function because package fmt, where it cannot call Format (in an
	// unexported field), prints what a pointer points to for some verbs.
	key      func() ed25519.PrivateKey
	identity policy.Identity
}

// GenerateAPIKey makes a random API key.
func GenerateAPIKey() (*APIKey, error) {
	seed := make([]byte, ed25519.SeedSize)
	defer clear(seed)
	rand.Read(seed)
	return newAPIKey(seed)
}

// ParseAPIKey reads what Reveal writes. The prefix "kes:v1:" may be missing.
// It returns ErrAPIKey for anything else.
func ParseAPIKey(s string) (*APIKey, error) {
	s = strings.TrimPrefix(s, apiKeyPrefix)
	if len(s) != base64.StdEncoding.EncodedLen(1+ed25519.SeedSize) {
		return nil, fmt.Errorf("%w: wrong length", ErrAPIKey)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	defer clear(b)
	if err != nil || len(b) != 1+ed25519.SeedSize { // the decoder skips line breaks
		return nil, ErrAPIKey // the cause would quote a byte of the key
	}
	if b[0] != apiKeyEd25519 {
		return nil, fmt.Errorf("%w: unknown type", ErrAPIKey)
	}
	return newAPIKey(b[1:])
}

func newAPIKey(seed []byte) (*APIKey, error) {
	key := ed25519.NewKeyFromSeed(seed)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("client: API key: %w", err)
	}
	return &APIKey{key: func() ed25519.PrivateKey { return key }, identity: policy.IdentityOf(spki)}, nil
}

// Identity returns the identity that a gateway knows the key's holder by.
func (k APIKey) Identity() policy.Identity { return k.identity }

// Reveal returns the secret text of the key, with its prefix.
func (k APIKey) Reveal() string {
	b := append([]byte{apiKeyEd25519}, k.key().Seed()...)
	defer clear(b)
	return apiKeyPrefix + base64.StdEncoding.EncodeToString(b)
}

// Certificate makes a self-signed client certificate for the key, valid from
// now for 90 days. It fits Config.GetCertificate, so that a client that runs
// for longer always shows a valid one.
func (k APIKey) Certificate() (*tls.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("client: API key certificate: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)), // RFC 5280 4.1.2.2: not zero
		Subject:               pkix.Name{CommonName: string(k.identity)},
		NotBefore:             now.Add(-time.Minute), // clocks differ
		NotAfter:              now.Add(apiKeyLifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.key().Public(), k.key())
	if err != nil {
		return nil, fmt.Errorf("client: API key certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k.key()}, nil
}

// String returns the identity, not the key.
func (k APIKey) String() string { return fmt.Sprintf("API key of %s", k.identity) }

// Format keeps the key out of every verb of package fmt.
func (k APIKey) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// LogValue keeps the key out of logs.
func (k APIKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText keeps the key out of JSON and other texts.
func (k APIKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

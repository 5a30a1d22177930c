package awskms_test

import (
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/keygate/keygate/awsapi/awstest"
	"github.com/keygate/keygate/awskms"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/kms/roottest"
)

// at returns a configuration for the KMS at endpoint, with keys of its own.
func at(t *testing.T, endpoint string) awskms.Config {
	t.Helper()
	cfg := awskms.Config{
		Endpoint: endpoint, Region: awstest.Region, CredentialsFile: awstest.Credentials(t, endpoint),
		Key: "alias/keygate-test", RecordKey: "alias/keygate-test-record", AliasPrefix: "alias/keygate-test-key/", DeletionDays: 7,
	}
	if endpoint == "" {
		cfg.Region = os.Getenv("AWS_REGION")
	}
	if _, err := awskms.Init(t.Context(), cfg, quiet()); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func open(t *testing.T, cfg awskms.Config) *awskms.Root {
	t.Helper()
	r, err := awskms.Open(t.Context(), cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// localKMS returns a proxy in front of local-kms, which has no HMAC keys: what
// concerns the record key goes to the other server.
func localKMS(t *testing.T) *awstest.Proxy {
	t.Helper()
	local, other := awstest.Endpoint(t, awstest.LocalKMS), awstest.Endpoint(t, awstest.KMS)
	at(t, other) // makes the record key there
	p := awstest.NewProxy(t, local)
	p.Route(t, "GenerateMac", other)
	return p
}

// atLocalKMS is at for local-kms. Only the KMS key can be made there.
func atLocalKMS(t *testing.T, p *awstest.Proxy) awskms.Config {
	t.Helper()
	cfg := awskms.Config{
		Endpoint: p.URL, Region: awstest.Region, CredentialsFile: awstest.Credentials(t, p.URL),
		Key: "alias/keygate-test", RecordKey: "alias/keygate-test-record", AliasPrefix: "alias/keygate-test-key/", DeletionDays: 7,
	}
	makeKey(t, cfg)
	return cfg
}

func makeKey(t *testing.T, cfg awskms.Config) {
	t.Helper()
	made, err := awskms.Init(t.Context(), cfg, quiet())
	if e, there := errors.AsType[*awskms.Error](err); !there || e.Operation != "CreateKey" || made.RecordKey {
		t.Fatalf("init at a KMS without HMAC keys: %+v, %v", made, err)
	}
}

func TestRoot(t *testing.T) {
	roottest.Run(t, func(t *testing.T) kms.Root { return open(t, at(t, awstest.Endpoint(t, awstest.KMS))) }, roottest.NoEncryptionImport)
}

func TestRootAtLocalKMS(t *testing.T) {
	roottest.Run(t, func(t *testing.T) kms.Root { return open(t, atLocalKMS(t, localKMS(t))) }, roottest.NoEncryptionImport)
}

func TestRootPerKey(t *testing.T) {
	roottest.Run(t, func(t *testing.T) kms.Root {
		if endpoint := awstest.Endpoint(t, awstest.KMS); endpoint == "" {
			cfg := at(t, endpoint)
			cfg.PerKey = true
			return open(t, cfg)
		}
		cfg := atLocalKMS(t, localKMS(t)) // moto imports no material
		cfg.PerKey = true
		return open(t, cfg)
	}, roottest.ImportsApart)
}

func is(t *testing.T, what string, err, want error) {
	t.Helper()
	for _, sentinel := range []error{kms.ErrUnavailable, kms.ErrDenied, kms.ErrCorrupt, kms.ErrCiphertext, kms.ErrUnsupported} {
		if errors.Is(err, sentinel) != (sentinel == want) {
			t.Fatalf("%s: error is %v, not %v alone", what, err, want)
		}
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t *testing.T, r kms.Root, purpose kms.Purpose) []byte {
	t.Helper()
	handle, err := r.NewKey(t.Context(), kms.KeyID{1, 2, 3}, purpose)
	ok(t, err)
	return handle
}

func encrypt(t *testing.T, r kms.Root, handle []byte) []byte {
	t.Helper()
	ciphertext, err := r.Encrypt(t.Context(), handle, []byte("plaintext"), []byte("data"))
	ok(t, err)
	return ciphertext
}

const patience = 5 * time.Second

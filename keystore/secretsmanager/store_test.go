package secretsmanager_test

import (
	"crypto/rand"
	"errors"
	"os"
	"testing"

	"github.com/keygate/keygate/awsapi/awstest"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/secretsmanager"
	"github.com/keygate/keygate/keystore/storetest"
)

const cluster = "000102030405060708090a0b0c0d0e0f"

func TestStore(t *testing.T) {
	endpoint := awstest.Endpoint(t, awstest.Secrets)
	storetest.Run(t, storetest.Harness{
		Fresh: func(t *testing.T) func() keystore.Store {
			cfg := newStore(t, endpoint)
			return func() keystore.Store { return open(t, cfg) }
		},
		// The two rules of AWS: a secret has 64 KiB, and its name is taken while it
		// can be restored.
		MaxRecord:  secretsmanager.MaxRecord,
		Tombstones: true,
		Pages:      []int{1000, 300},
	})
}

// newStore makes a store with a prefix of its own.
func newStore(t *testing.T, endpoint string) secretsmanager.Config {
	t.Helper()
	cfg := secretsmanager.Config{
		Endpoint: endpoint, Region: awstest.Region, CredentialsFile: awstest.Credentials(t, endpoint),
		Prefix: "keygate-test-" + rand.Text() + "/", RecoveryDays: 7,
	}
	if endpoint == "" {
		cfg.Region = os.Getenv("AWS_REGION")
	}
	ok(t, secretsmanager.Init(t.Context(), cfg, cluster))
	return cfg
}

func open(t *testing.T, cfg secretsmanager.Config) *secretsmanager.Store {
	t.Helper()
	s, err := secretsmanager.Open(t.Context(), cfg, cluster)
	ok(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// is checks that err is want, and none of the other classes.
func is(t *testing.T, what string, err, want error) {
	t.Helper()
	for _, class := range []error{keystore.ErrNotFound, keystore.ErrExists, keystore.ErrConflict, keystore.ErrDenied, keystore.ErrCorrupt, keystore.ErrUnavailable} {
		if errors.Is(err, class) != (class == want) {
			t.Fatalf("%s: error is %v, not %v alone", what, err, want)
		}
	}
}

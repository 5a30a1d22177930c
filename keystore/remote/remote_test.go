package remote_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/remote"
)

func TestTryEndsWithWhatIsFinal(t *testing.T) {
	final := errors.New("final")
	tries := 0
	err := remote.Try(t.Context(), time.Second, func(context.Context) (bool, error) {
		tries++
		return tries < 3, final
	})
	if err != final || tries != 3 {
		t.Errorf("got %v after %d tries", err, tries)
	}
}

func TestTryLeavesTimeForOtherTries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 4 * time.Second
		tries, start := 0, time.Now()
		err := remote.Try(t.Context(), timeout, func(ctx context.Context) (bool, error) {
			tries++
			<-ctx.Done() // a server that does not answer
			return true, ctx.Err()
		})
		if !errors.Is(err, keystore.ErrUnavailable) || tries != 4 || time.Since(start) != timeout {
			t.Errorf("got %v after %d tries in %v", err, tries, time.Since(start))
		}
	})
}

func TestTryIsBoundedWhereAllFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries, start := 0, time.Now()
		err := remote.Try(t.Context(), 4*time.Second, func(context.Context) (bool, error) {
			tries++
			return true, errors.New("refused")
		})
		if !errors.Is(err, keystore.ErrUnavailable) || !strings.Contains(err.Error(), "refused") || tries < 10 || tries > 40 || time.Since(start) != 4*time.Second {
			t.Errorf("got %v after %d tries in %v", err, tries, time.Since(start))
		}
	})
}

func TestTryEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		err := remote.Try(ctx, time.Hour, func(context.Context) (bool, error) { return true, errors.New("refused") })
		if !errors.Is(err, keystore.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 100*time.Millisecond {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestSecretIsWithoutItsNewline(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	for text, want := range map[string]string{
		"secret": "secret", "secret\n": "secret", "secret\r\n": "secret", " a b \n\n": " a b \n",
		"": "", "\n": "", strings.Repeat("x", 5000): "",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := remote.Secret(path)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("of %.20q: got %.20q, %v", text, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "xxx") {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
	if _, err := remote.Secret(path + "-none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of a file that is not there: %v", err)
	}
}

func TestTLSRefusesFilesThatAreNone(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	if err := os.WriteFile(none, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tls  remote.TLS
		says string
	}{
		{remote.TLS{CA: none}, "tls.ca: " + none + " holds no certificate"},
		{remote.TLS{CA: none + "-"}, "tls.ca: open"},
		{remote.TLS{Cert: none, Key: none}, "tls.cert: "},
	} {
		if _, err := c.tls.Config("host"); err == nil || !strings.HasPrefix(err.Error(), c.says) {
			t.Errorf("got %v, want %s", err, c.says)
		}
	}
	for _, half := range []remote.TLS{{Cert: "a"}, {Key: "a"}} {
		if half.Check() == nil {
			t.Errorf("%+v is accepted", half)
		}
	}
	for name, tls := range map[string]remote.TLS{"host": {}, "other": {ServerName: "other"}} {
		cfg, err := tls.Config("host")
		if err != nil || cfg.ServerName != name || cfg.InsecureSkipVerify {
			t.Errorf("got server name %q, %v", cfg.ServerName, err)
		}
	}
}

func TestAProofEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p := remote.NewProof(start)
		defer p.Stop()
		time.Sleep(2 * time.Second)
		p.Proved(start.Add(time.Second)) // by a probe that took a second
		<-p.Over()
		if took := time.Since(start) - time.Second; took < 2*time.Second || took > keystore.WatchBound {
			t.Errorf("it ended %v after the beginning of the last probe", took)
		}
		if err := p.Err(); !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
}

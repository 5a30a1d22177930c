package main

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/audit"
	"github.com/keygate/keygate/gateway"
	"github.com/keygate/keygate/kms"
)

// TLS files that change come into force without a signal, once both of them
// belong together; until then the old ones stay.
func TestRenewTLS(t *testing.T) {
	serverFiles(t)
	cfg, err := parse(base)
	check(t, err)
	var log lockedBuffer
	n := &node{cfg: cfg, server: serverWithoutKeys(t, cfg, &log), log: slog.New(slog.NewTextHandler(&log, nil))}

	n.renewTLS()
	if n.cfg != cfg || log.String() != "" {
		t.Fatalf("without a change: %s", log.String())
	}
	dir := t.TempDir()
	next := newIdentity{keyFile: filepath.Join(dir, "key"), certFile: filepath.Join(dir, "crt"), ips: []net.IP{net.IPv4(127, 0, 0, 2)}}
	_, err = next.run(time.Now())
	check(t, err)

	check(t, os.Rename(next.certFile, "server.crt"))
	for range 3 {
		n.renewTLS()
	}
	if n.cfg != cfg {
		t.Fatal("a certificate without its key is in force")
	}
	if got := strings.Count(log.String(), "those that were read before stay in force"); got != 1 {
		t.Fatalf("the problem was logged %d times, want once:\n%s", got, log.String())
	}

	check(t, os.Rename(next.keyFile, "server.key"))
	n.renewTLS()
	if n.cfg == cfg || !n.cfg.state.Certificate.Leaf.IPAddresses[0].Equal(next.ips[0]) {
		t.Fatalf("the new certificate is not in force:\n%s", log.String())
	}
	if n.cfg.state.Rules != cfg.state.Rules {
		t.Error("the rules have changed")
	}
}

func serverWithoutKeys(t *testing.T, cfg *configuration, log *lockedBuffer) *gateway.Server {
	t.Helper()
	errorLog := gateway.NewErrorLog(log, slog.LevelInfo)
	manager, err := kms.New(cfg.kms(errorLog.Logger()), nil, nil)
	check(t, err)
	trail, err := audit.Open(audit.Config{Off: true})
	check(t, err)
	t.Cleanup(func() { trail.Close() })
	server, err := gateway.New(gateway.Config{KMS: manager, Audit: trail, ErrorLog: errorLog}, cfg.state)
	check(t, err)
	return server
}

func TestFixedChangesNamesWhatNeedsARestart(t *testing.T) {
	serverFiles(t)
	old, err := parse(base)
	check(t, err)
	for text, want := range map[string]string{
		"":                                  "",
		"log: {error: off}\n":               "",
		"keys: [{name: a}]\n":               "",
		"policy: {p: {}}\n":                 "",
		"api: {/v1/ready: {timeout: 5s}}\n": "",
		"address: :1\n":                     "address",
		"fips: off\n":                       "fips",
		"cache: {keys: 1}\n":                "cache",
		"deletion: {window: 1h}\n":          "deletion",
		"audit: {required: false}\n":        "audit",
	} {
		next, err := parse(base + text)
		check(t, err)
		if got := strings.Join(old.fixedChanges(next), ", "); got != want {
			t.Errorf("%q: changes of %q need a restart, want %q", text, got, want)
		}
	}
	for old, new := range map[string]string{"5f0c": "6f0c", "token: t": "token: u", "memory: {}": "fs: {path: p}"} {
		next, err := parse(strings.Replace(base, old, new, 1))
		check(t, err)
		first, err := parse(base)
		check(t, err)
		if len(first.fixedChanges(next)) != 1 {
			t.Errorf("a change of %q to %q needs no restart", old, new)
		}
	}
}

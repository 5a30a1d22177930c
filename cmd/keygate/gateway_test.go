package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/audit"
	"github.com/keygate/keygate/gateway"
	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/policy"
	"github.com/keygate/keygate/softhsm"
)

// A testGateway is a gateway on a SoftHSM token and a store in memory, with an
// authority, an admin and an identity "app" in dir.
type testGateway struct {
	dir     string
	address string
	store   switchedStore
	root    *hsm.Root
	log     lockedBuffer // what the gateway logs
}

// startGateway starts a gateway that lasts until the test ends.
func startGateway(t *testing.T, dir string) *testGateway {
	t.Helper()
	return startGatewayOn(t, dir, nil, func(*gateway.State) {})
}

// startGatewayOn is startGateway on a root of the caller's, if it is not nil, who may
// change the state.
func startGatewayOn(t *testing.T, dir string, root *hsm.Root, change func(*gateway.State)) *testGateway {
	t.Helper()
	g := &testGateway{dir: dir, root: root}
	g.store.Store = memory.New()
	logger := gateway.NewErrorLog(&g.log, slog.LevelDebug)
	if root == nil {
		g.root = openRoot(t, logger.Logger())
	}
	manager, err := kms.New(kms.Config{Cluster: kms.ClusterID{1}, Logger: logger.Logger()}, g.root, &g.store)
	check(t, err)
	trail, err := audit.Open(audit.Config{File: filepath.Join(dir, "audit.log"), Logger: logger.Logger()})
	check(t, err)
	t.Cleanup(func() { trail.Close() })
	state := g.state(t)
	change(&state)
	server, err := gateway.New(gateway.Config{KMS: manager, Audit: trail, ErrorLog: logger, Version: "test",
		Figures: rootFigures(g.root, &file{Root: rootSection{singleRoot: singleRoot{PKCS11: &hsm.Config{Token: g.root.Token().Label}}}})}, state)
	check(t, err)
	g.serve(t, server)
	return g
}

func openRoot(t *testing.T, logger *slog.Logger) *hsm.Root {
	t.Helper()
	token := softhsm.Token(t)
	cfg := hsm.Config{Module: token.Module, Token: token.Label, PIN: hsm.PIN{File: token.PINFile}}
	_, err := hsm.Init(t.Context(), cfg)
	check(t, err)
	root, err := hsm.Open(t.Context(), cfg, logger)
	check(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

// state makes the certificates, with the same code as the command line, and the
// rules.
func (g *testGateway) state(t *testing.T) gateway.State {
	t.Helper()
	file := func(name string) string { return filepath.Join(g.dir, name) }
	make := func(name string, n newIdentity) policy.Identity {
		n.keyFile, n.certFile = file(name+".key"), file(name+".crt")
		result, err := n.run(time.Now())
		check(t, err)
		return result.Identity
	}
	make("ca", newIdentity{isCA: true, commonName: "test CA"})
	make("server", newIdentity{caFile: file("ca.crt"), caKeyFile: file("ca.key"), ips: []net.IP{net.IPv4(127, 0, 0, 1)}})
	admin, app := make("admin", newIdentity{}), make("app", newIdentity{})
	make("stranger", newIdentity{})

	pair, err := tls.LoadX509KeyPair(file("server.crt"), file("server.key"))
	check(t, err)
	rules, err := policy.Compile(admin, []policy.Policy{{
		Name:       "app",
		Allow:      []string{"/v1/key/generate/app-*", "/v1/key/decrypt/app-*", "/v1/key/list/app-*"},
		Deny:       []string{"/v1/key/decrypt/app-secret"},
		Identities: []policy.Identity{app},
	}})
	check(t, err)
	return gateway.State{Rules: rules, Certificate: pair}
}

func (g *testGateway) serve(t *testing.T, server *gateway.Server) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	g.address = ln.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := server.Serve(ctx, ln); err != nil {
			t.Errorf("gateway: %v", err)
		}
	})
	t.Cleanup(func() {
		stop()
		ended.Wait()
	})
}

// A switchedStore cannot tell anything while it is down.
type switchedStore struct {
	*memory.Store
	down atomic.Bool
}

func (s *switchedStore) fault() error {
	if s.down.Load() {
		return keystore.ErrUnavailable
	}
	return nil
}

func (s *switchedStore) Get(ctx context.Context, name string) ([]byte, keystore.Revision, error) {
	if err := s.fault(); err != nil {
		return nil, "", err
	}
	return s.Store.Get(ctx, name)
}

func (s *switchedStore) List(ctx context.Context, prefix, after string, n int) ([]string, error) {
	if err := s.fault(); err != nil {
		return nil, err
	}
	return s.Store.List(ctx, prefix, after, n)
}

func (s *switchedStore) Status(ctx context.Context) error {
	if err := s.fault(); err != nil {
		return err
	}
	return s.Store.Status(ctx)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A lockedBuffer is a bytes.Buffer for concurrent use.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

var _ io.Writer = (*lockedBuffer)(nil)

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

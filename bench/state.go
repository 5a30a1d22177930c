package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/keygate/keygate/policy"
)

// A state is what scripts/setup.sh makes: a token with root keys, certificates,
// a key store.
type state struct {
	dir     string
	cluster string
	module  string // the PKCS#11 module
	ca      *x509.CertPool
	admin   tls.Certificate
	app     tls.Certificate
}

// moduleLine is the line of the configuration that setup.sh makes.
var moduleLine = regexp.MustCompile(`(?m)^\s+module: '(.*)'$`)

// newState runs setup.sh for a new directory. SoftHSM in this process and in
// those that it starts sees the token of the state from then on.
func newState(ctx context.Context, repo, dir string) (*state, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(repo, "scripts", "setup.sh"), dir, "127.0.0.1:7373")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("setup.sh: %w: %s", err, out)
	}
	s, err := readState(dir)
	if err != nil {
		return nil, err
	}
	return s, os.Setenv("SOFTHSM2_CONF", s.file("softhsm2.conf"))
}

// readState reads what setup.sh has made.
func readState(dir string) (*state, error) {
	s := &state{dir: dir, ca: x509.NewCertPool()}
	config, err := os.ReadFile(s.file("config.yaml"))
	if err != nil {
		return nil, err
	}
	line := moduleLine.FindSubmatch(config)
	if line == nil {
		return nil, errors.New("setup.sh: no module in the configuration")
	}
	s.module = string(line[1])
	cluster, err := os.ReadFile(s.file("cluster"))
	if err != nil {
		return nil, err
	}
	s.cluster = strings.TrimSpace(string(cluster))
	authority, err := os.ReadFile(s.file("ca.crt"))
	if err != nil {
		return nil, err
	}
	s.ca.AppendCertsFromPEM(authority)
	if s.admin, err = s.certificate("admin"); err != nil {
		return nil, err
	}
	s.app, err = s.certificate("app")
	return s, err
}

func (s *state) file(name string) string { return filepath.Join(s.dir, name) }

func (s *state) certificate(name string) (tls.Certificate, error) {
	return tls.LoadX509KeyPair(s.file(name+".crt"), s.file(name+".key"))
}

// identityOf returns who shows c.
func identityOf(c tls.Certificate) policy.Identity {
	return policy.IdentityOf(c.Leaf.RawSubjectPublicKeyInfo)
}

// freeAddress returns an address on loopback that nobody listens on.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

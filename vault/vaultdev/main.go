// Command vaultdev runs a real HashiCorp Vault core (v1.13.0, MPL 2.0) in memory, behind TLS on loopback: transit, KV,
// AppRole and TLS-certificate logins, sealing through its API.
//
// It is for the tests of keygate, and no part of it: it is a module of its own, so that keygate depends on none of it.
// When it is ready it prints one line of JSON, a ready value, on standard output. It ends on SIGTERM, and when its
// standard input ends, so that it does not outlive what has started it.
package main

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	log "github.com/hashicorp/go-hclog"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	auditFile "github.com/hashicorp/vault/builtin/audit/file"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/transit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// ready is what is printed when the core is unsealed and listens.
type ready struct {
	Address string `json:"address"` // https://127.0.0.1:port
	Token   string `json:"token"`   // the root token
	Unseal  string `json:"unseal"`  // the one key share, in hex
	CA      string `json:"ca"`      // the PEM certificate that the listener's is trusted by
}

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "loopback `HOST:PORT` to listen on; port 0 is a free one")
	flag.Parse()
	if err := run(*addr); err != nil {
		fmt.Fprintln(os.Stderr, "vaultdev:", err)
		os.Exit(1)
	}
}

func run(addr string) error {
	ln, err := listen(addr)
	if err != nil {
		return err
	}
	pair, ca, err := newCertificate()
	if err != nil {
		return err
	}
	address := "https://" + ln.Addr().String()
	core, res, err := newCore(address)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:   vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert},
	}
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(ln, "", "") }()
	if err := json.NewEncoder(os.Stdout).Encode(ready{
		Address: address, Token: res.RootToken, Unseal: hex.EncodeToString(res.SecretShares[0]), CA: string(ca),
	}); err != nil {
		return err
	}
	select {
	case err = <-served:
	case <-told():
		err = server.Close()
	}
	return errors.Join(err, core.Shutdown())
}

// listen takes loopback addresses only: the root token is printed, and the core is in memory.
func listen(addr string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback address", host)
	}
	return net.Listen("tcp", addr)
}

// told returns a channel that is closed when this process is to end.
func told() <-chan struct{} {
	done := make(chan struct{})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	input := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(input)
	}()
	go func() {
		select {
		case <-signals:
		case <-input:
		}
		close(done)
	}()
	return done
}

// newCore makes an unsealed core with nothing in it.
func newCore(address string) (*vault.Core, *vault.InitResult, error) {
	logger := log.New(&log.LoggerOptions{Level: log.Error, Output: os.Stderr})
	physical, err := inmem.NewInmem(nil, logger)
	if err != nil {
		return nil, nil, err
	}
	builtin := registry{
		secret: map[string]logical.Factory{"transit": transit.Factory, "kv": kv.Factory},
		auth:   map[string]logical.Factory{"approle": approle.Factory, "cert": cert.Factory},
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:           physical,
		DisableMlock:       true,
		Logger:             logger,
		RedirectAddr:       address,
		LogicalBackends:    builtin.secret,
		CredentialBackends: builtin.auth,
		BuiltinRegistry:    builtin,
		AuditBackends:      map[string]audit.Factory{"file": auditFile.Factory},
	})
	if err != nil {
		return nil, nil, err
	}
	res, err := core.Initialize(context.Background(), &vault.InitParams{
		BarrierConfig:  &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
		RecoveryConfig: &vault.SealConfig{},
	})
	if err != nil {
		return nil, nil, err
	}
	if _, err := core.Unseal(res.SecretShares[0]); err != nil {
		return nil, nil, err
	}
	return core, res, nil
}

// A registry holds the plugins that are built in.
type registry struct {
	secret, auth map[string]logical.Factory
}

func (r registry) of(t consts.PluginType) map[string]logical.Factory {
	switch t {
	case consts.PluginTypeSecrets:
		return r.secret
	case consts.PluginTypeCredential:
		return r.auth
	}
	return nil
}

// Contains, Get, Keys and DeprecationStatus are vault.BuiltinRegistry.
func (r registry) Contains(name string, t consts.PluginType) bool {
	_, ok := r.of(t)[name]
	return ok
}

func (r registry) Get(name string, t consts.PluginType) (func() (any, error), bool) {
	factory, ok := r.of(t)[name]
	return func() (any, error) { return factory, nil }, ok
}

func (r registry) Keys(t consts.PluginType) (names []string) {
	for name := range r.of(t) {
		names = append(names, name)
	}
	return names
}

func (r registry) DeprecationStatus(name string, t consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, t)
}

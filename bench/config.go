package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/keygate/keygate/policy"
)

// A config is how a gateway differs from others. The zero value is a gateway as
// operators have it who set nothing, with one policy and one identity.
type config struct {
	mode     string // "direct": every DEK is made in the HSM; empty: the default
	keystore string // directory of the records, in the state; empty: keystore
	module   string // empty: the state's
	sessions int    // of the token; 0: the default
	clients  []policy.Identity
	policies int    // in all; 0: one
	expiry   string // how long a key record is used before the store is asked again; empty: the default
}

// text returns the configuration file.
func (s *state) text(c config) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("address: 127.0.0.1:7373") // another one is given on the command line
	p("cluster: %s", s.cluster)
	p("admin:\n  identity: %s", identityOf(s.admin))
	p("tls:\n  key: %s\n  cert: %s", quoted(s.file("server.key")), quoted(s.file("server.crt")))
	if c.mode != "" {
		p("mode: %s", c.mode)
	}
	p("policy:")
	for i := 1; i < c.policies; i++ {
		writePolicy(p, fmt.Sprintf("tenant-%05d", i), randomIdentity())
	}
	writePolicy(p, "app", append([]policy.Identity{identityOf(s.app)}, c.clients...)...)
	p("audit:\n  file: %s", quoted(s.file("audit.log")))
	p("limits:\n  connections_per_source: 16384") // all clients are on this machine
	p("keystore:\n  fs:\n    path: %s", quoted(s.file(or(c.keystore, "keystore"))))
	if c.expiry != "" {
		p("cache:\n  expiry: %s", c.expiry)
	}
	p("root:\n  pkcs11:\n    module: %s\n    token: keygate\n    pin:\n      file: %s", quoted(or(c.module, s.module)), quoted(s.file("pin")))
	if c.sessions > 0 {
		p("    sessions: %d", c.sessions)
	}
	return b.String()
}

// writePolicy allows identities to use the keys that have the policy's name
// before them.
func writePolicy(p func(string, ...any), name string, identities ...policy.Identity) {
	p("  %s:\n    allow:", name)
	for _, operation := range []string{"create", "describe", "generate", "encrypt", "decrypt"} {
		p("      - /v1/key/%s/%s-*", operation, name)
	}
	p("    identities:")
	for _, id := range identities {
		p("      - %s", id)
	}
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// write puts the configuration into a file of the state.
func (s *state) write(name string, c config) (file string, err error) {
	file = s.file(name + ".yaml")
	return file, os.WriteFile(file, []byte(s.text(c)), 0o600)
}

// knowsModes reports whether the gateway can be told a mode. One that cannot
// makes every DEK in the HSM.
func (b *bench) knowsModes() bool {
	file, err := b.state.write("modes", config{mode: "direct"})
	return err == nil && exec.Command(b.keygate, "config", "check", "--config", file).Run() == nil
}

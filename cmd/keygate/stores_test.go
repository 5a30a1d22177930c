package main

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keygate/keygate/keystore/storetest/servers"
	"github.com/keygate/keygate/softhsm"
)

// TestStores runs the server on the key stores that need servers of their own. The
// script has their places, and a name in them, in its environment.
func TestStores(t *testing.T) {
	for name, vars := range map[string]func() []string{
		"etcd": func() []string {
			e := servers.SharedEtcd(t)
			return []string{"ENDPOINTS=" + strings.Join(e.Endpoints, ","), "DIR=" + e.Dir}
		},
		"postgres": func() []string {
			p := servers.SharedPostgres(t)
			return []string{"HOST=" + p.Host, "DIR=" + p.Dir}
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := &operator{token: softhsm.Token(t)}
			setUp := func(env *testscript.Env) error {
				env.Vars = append(env.Vars, vars()...)
				env.Vars = append(env.Vars, "NAME=test_"+strings.ToLower(rand.Text()))
				return o.setUp(env)
			}
			testscript.Run(t, testscript.Params{Files: []string{"testdata/store_" + name + ".txt"}, Setup: setUp, Cmds: scriptCommands{
				"envsubst": envsubst, "server": o.start, "signal": o.signal, "stopped": o.stopped, "logged": o.logged, "hidden": o.hidden,
			}})
		})
	}
}

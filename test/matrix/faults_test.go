package matrix_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keygate/keygate/awsapi/awstest"
	"github.com/keygate/keygate/keystore/storetest/netfault"
	"github.com/keygate/keygate/keystore/storetest/servers"
	"github.com/keygate/keygate/vault/vaulttest"
)

// What clients are told of a root, or of a store, that is out, and of either that
// refuses the gateway.
const (
	rootOut  = "root of trust or key store is unavailable"
	storeOut = "key store is unavailable"
	refused  = "access to the root of trust or key store is denied"
)

// A fault is one way in which a root or a store fails.
type fault struct {
	name  string
	store bool   // it is the store's
	text  string // what clients are told
	// make makes root and store; broken has one of them fail, or not any more.
	make func(t *testing.T) (root, store section, broken func(bool))
}

func (f fault) outage() bool { return !f.store && f.text == rootOut }

func faults() []fault {
	return slices.Concat(vaultFaults(), awsFaults(), hsmFaults(), storeFaults())
}

func vaultFaults() []fault {
	return []fault{
		{"Vault transit: denied (403)", false, refused, fakeTransit("denied")},
		{"Vault transit: sealed (503)", false, rootOut, fakeTransit("sealed")},
		{"Vault transit: throttled (429)", false, rootOut, fakeTransit("throttled")},
		{"Vault transit: connections refused", false, rootOut, transitNetwork(netfault.Refuse)},
		{"Vault transit: no answer", false, rootOut, transitNetwork(netfault.Silent)},
		{"Vault transit, real core: sys/seal", false, rootOut, func(t *testing.T) (section, section, func(bool)) {
			core := vaulttest.Real(t)
			return transit(t, core.Address, core.Server), directory(t), func(broken bool) {
				if broken {
					core.Seal(t)
				} else {
					core.Unseal(t)
				}
			}
		}},
		{"Vault transit, real core: the policy is withdrawn", false, refused, func(t *testing.T) (section, section, func(bool)) {
			core := vaulttest.Real(t)
			const all = `path "transit/*" { capabilities = ["create", "read", "update", "delete", "list"] }`
			core.Policy(t, "gateway", all)
			token := core.Token(t, 0, "gateway")
			return transit(t, core.Address, core.As(token)), directory(t), func(broken bool) {
				if broken {
					core.Policy(t, "gateway", strings.ReplaceAll(all, "transit", "nothing"))
				} else {
					core.Policy(t, "gateway", all)
				}
			}
		}},
	}
}

func fakeTransit(name string) func(*testing.T) (section, section, func(bool)) {
	return func(t *testing.T) (section, section, func(bool)) {
		f := vaulttest.NewFake(t)
		return transit(t, f.Address, f.Server), directory(t), breakFake(t, f, "transit", name)
	}
}

// breakFake returns what has an engine of a fake answer as one of
// vaulttest.AllBroken.
func breakFake(t *testing.T, f *vaulttest.Fake, engine, name string) func(bool) {
	t.Helper()
	all := vaulttest.AllBroken()
	i := slices.IndexFunc(all, func(b vaulttest.Broken) bool { return b.Name == name })
	if i < 0 {
		t.Fatalf("nothing is broken as %q", name)
	}
	return func(broken bool) {
		if broken {
			f.Break(engine, all[i])
		} else {
			f.SetFault(nil)
		}
	}
}

func transitNetwork(mode netfault.Mode) func(*testing.T) (section, section, func(bool)) {
	return func(t *testing.T) (section, section, func(bool)) {
		f := vaulttest.NewFake(t)
		p := netfault.New(t, strings.TrimPrefix(f.Address, "https://"))
		return transit(t, "https://"+p.Addr(), f.Server), directory(t), breakNetwork(p, mode)
	}
}

func breakNetwork(p *netfault.Proxy, mode netfault.Mode) func(bool) {
	return func(broken bool) {
		if !broken {
			p.Set(netfault.Pass)
			return
		}
		p.Set(mode)
		if mode == netfault.Refuse {
			p.Cut()
		}
	}
}

// always is more calls than any test makes.
const always = 1 << 30

func awsFaults() []fault {
	at := func(broken awstest.Fault) func(*testing.T) (section, section, func(bool)) {
		return func(t *testing.T) (section, section, func(bool)) {
			p := awstest.NewProxy(t, awstest.Endpoint(t, awstest.KMS))
			return awsKMS(t, p.URL), directory(t), breakProxy(p, broken)
		}
	}
	return []fault{
		{"AWS KMS: AccessDeniedException", false, refused, at(awstest.Fails("", always, 400, "AccessDeniedException"))},
		{"AWS KMS: DisabledException", false, refused, at(awstest.Fails("", always, 400, "DisabledException"))},
		{"AWS KMS: ThrottlingException", false, rootOut, at(awstest.Fails("", always, 400, "ThrottlingException"))},
		{"AWS KMS: KMSInternalException", false, rootOut, at(awstest.Fails("", always, 500, "KMSInternalException"))},
		{"AWS KMS: connections cut", false, rootOut, at(awstest.Cuts(always))},
		{"AWS KMS: no answer", false, rootOut, func(t *testing.T) (section, section, func(bool)) {
			p := netfault.New(t, strings.TrimPrefix(awstest.Endpoint(t, awstest.KMS), "http://"))
			return awsKMS(t, "http://"+p.Addr()), directory(t), breakNetwork(p, netfault.Silent)
		}},
	}
}

func breakProxy(p *awstest.Proxy, fault awstest.Fault) func(bool) {
	return func(broken bool) {
		if broken {
			p.Break(fault)
		} else {
			p.Break(nil)
		}
	}
}

func hsmFaults() []fault {
	at := func(break_ func(*shim, bool)) func(*testing.T) (section, section, func(bool)) {
		return func(t *testing.T) (section, section, func(bool)) {
			s, root := newShim(t)
			return root, directory(t), func(broken bool) { break_(s, broken) }
		}
	}
	answers := func(code uint64) func(*shim, bool) {
		return func(s *shim, broken bool) {
			if broken {
				s.fails(code)
			} else {
				s.fails(0)
			}
		}
	}
	return []fault{
		{"SoftHSM: the token is removed (CKR_DEVICE_REMOVED)", false, rootOut, at(answers(0x32))},
		{"SoftHSM: the token fails (CKR_DEVICE_ERROR)", false, rootOut, at(answers(0x30))},
		{"SoftHSM: the token hangs", false, rootOut, at((*shim).hangs)},
	}
}

func storeFaults() []fault {
	return []fault{
		{"fs: the directory is gone", true, storeOut, func(t *testing.T) (section, section, func(bool)) {
			s, dir := directoryAt(t)
			return local(t), s, func(broken bool) {
				from, to := dir, dir+".away"
				if !broken {
					from, to = to, from
				}
				if err := os.Rename(from, to); err != nil {
					t.Error(err)
				}
			}
		}},
		{"etcd: all members are down", true, storeOut, func(t *testing.T) (section, section, func(bool)) {
			e := servers.OwnEtcd(t)
			return local(t), etcd(e), func(broken bool) {
				for member := range 3 {
					if broken {
						e.Kill(t, member)
					} else {
						e.Start(t, member)
					}
				}
			}
		}},
		{"PostgreSQL: the server is down", true, storeOut, func(t *testing.T) (section, section, func(bool)) {
			p := servers.OwnPostgres(t)
			return local(t), postgres(t, p), func(broken bool) {
				if broken {
					p.Kill(t)
				} else {
					p.Start(t)
				}
			}
		}},
		{"Vault KV: denied (403)", true, refused, fakeKV("denied")},
		{"Vault KV: sealed (503)", true, storeOut, fakeKV("sealed")},
		{"Vault KV: no answer", true, storeOut, func(t *testing.T) (section, section, func(bool)) {
			f := vaulttest.NewFake(t)
			p := netfault.New(t, strings.TrimPrefix(f.Address, "https://"))
			return local(t), kv(t, "https://"+p.Addr(), f.Server), breakNetwork(p, netfault.Silent)
		}},
		{"Secrets Manager: ThrottlingException", true, storeOut, secretsFault(awstest.Fails("", always, 400, "ThrottlingException"))},
		{"Secrets Manager: AccessDeniedException", true, refused, secretsFault(awstest.Fails("", always, 400, "AccessDeniedException"))},
		{"Secrets Manager: InternalServiceError", true, storeOut, secretsFault(awstest.Fails("", always, http.StatusInternalServerError, "InternalServiceError"))},
		{"Secrets Manager: connections cut", true, storeOut, secretsFault(awstest.Cuts(always))},
	}
}

func directoryAt(t *testing.T) (section, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	return section{yaml: "fs: {path: " + dir + "}"}, dir
}

func fakeKV(name string) func(*testing.T) (section, section, func(bool)) {
	return func(t *testing.T) (section, section, func(bool)) {
		f := vaulttest.NewFake(t)
		return local(t), kv(t, f.Address, f.Server), breakFake(t, f, "secret", name)
	}
}

func secretsFault(broken awstest.Fault) func(*testing.T) (section, section, func(bool)) {
	return func(t *testing.T) (section, section, func(bool)) {
		p := awstest.NewProxy(t, awstest.Endpoint(t, awstest.Secrets))
		return local(t), secretsManager(t, p.URL), breakProxy(p, broken)
	}
}

package etcd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/etcd"
	"github.com/keygate/keygate/keystore/storetest/servers"
)

// etcdctl runs a command as an administrator would.
func etcdctl(t *testing.T, e servers.Etcd, user string, args ...string) {
	t.Helper()
	all := append([]string{"--endpoints", strings.Join(e.Endpoints, ","), "--cacert", e.File("ca.crt"), "--cert", e.File("client.crt"), "--key", e.File("client.key")}, args...)
	cmd := exec.Command("etcdctl", all...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3", "ETCDCTL_USER="+user)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("etcdctl %q: %v: %s", args, err, out)
	}
}

// TestKS23_LeastPrivilege takes the steps of docs/keystore-etcd.md, and takes rights
// away again: what is forbidden is ErrDenied, never ErrNotFound.
func TestKS23_LeastPrivilege(t *testing.T) {
	t.Parallel()
	e := servers.OwnEtcd(t)
	cfg := config(e)
	cfg.Prefix = "/keygate/"
	for _, command := range []string{
		"user add root:root-password",
		"user grant-role root root",
		"role add keygate",
		"role grant-permission keygate --prefix=true readwrite /keygate/",
		"user add keygate:gateway-password",
		"user grant-role keygate keygate",
		"auth enable",
	} {
		etcdctl(t, e, "", strings.Fields(command)...)
	}
	want(t, "init by the name in the certificate", etcd.Init(t.Context(), cfg, cluster), nil)
	byPassword := cfg
	byPassword.Username, byPassword.PasswordFile = "keygate", filepath.Join(t.TempDir(), "password")
	password(t, byPassword, "gateway-password\n")
	for how, cfg := range map[string]etcd.Config{"certificate": cfg, "password": byPassword} {
		s := open(t, cfg)
		want(t, how+": create", s.Create(t.Context(), "by-"+how, []byte("x")), nil)
		want(t, how+": get", get(t, s, "by-"+how), nil)
		want(t, how+": absent", get(t, s, "none"), keystore.ErrNotFound)
		want(t, how+": status", s.Status(t.Context()), nil)
		told, ended := make(chan string, 9), make(chan error, 1)
		go func() { ended <- s.Watch(t.Context(), func(name string) { told <- name }) }()
		select {
		case <-told:
		case err := <-ended:
			t.Fatalf("%s: watch: %v", how, err)
		}
	}
	elsewhere := byPassword
	elsewhere.Prefix = "/other/"
	for call, err := range calls(t, open(t, elsewhere)) {
		want(t, "another prefix: "+call, err, keystore.ErrDenied)
	}

	// A password that is wrong, and then right.
	password(t, byPassword, "wrong")
	s := open(t, byPassword)
	for call, err := range calls(t, s) {
		want(t, "wrong password: "+call, err, keystore.ErrDenied)
	}
	password(t, byPassword, "gateway-password")
	want(t, "password that was put right", get(t, s, "by-password"), nil)

	etcdctl(t, e, "root:root-password", "role", "revoke-permission", "keygate", "--prefix=true", "/keygate/")
	etcdctl(t, e, "root:root-password", "role", "grant-permission", "keygate", "--prefix=true", "read", "/keygate/")
	want(t, "read only: get", get(t, s, "by-password"), nil)
	want(t, "read only: absent", get(t, s, "none"), keystore.ErrNotFound)
	want(t, "read only: create", s.Create(t.Context(), "new", nil), keystore.ErrDenied)
	want(t, "read only: status", s.Status(t.Context()), keystore.ErrDenied)
	etcdctl(t, e, "root:root-password", "role", "revoke-permission", "keygate", "--prefix=true", "/keygate/")
	for call, err := range calls(t, s) {
		want(t, "rights that were taken away: "+call, err, keystore.ErrDenied)
	}
}

func password(t *testing.T, cfg etcd.Config, text string) {
	t.Helper()
	want(t, "write", os.WriteFile(cfg.PasswordFile, []byte(text), 0o600), nil)
}

func calls(t *testing.T, s keystore.Store) map[string]error {
	_, list := s.List(t.Context(), "", "", 9)
	return map[string]error{
		"create": s.Create(t.Context(), "new", nil),
		"get":    get(t, s, "by-password"),
		"absent": get(t, s, "none"),
		"list":   list,
		"status": s.Status(t.Context()),
	}
}

// Package cluster_test holds a whole cluster to what it promises: processes of
// keygate with tokens of SoftHSM, and real servers as their key store.
//
// KEYGATE names another program than the one that TestMain builds.
package cluster_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keygate/keygate/client"
	"github.com/keygate/keygate/keystore/storetest/servers"
	"github.com/keygate/keygate/softhsm"
)

// program is the path of keygate.
var program = os.Getenv("KEYGATE")

func TestMain(m *testing.M) {
	if program == "" {
		build := exec.Command("../../scripts/build.sh")
		build.Env = append(os.Environ(), "GODEBUG=") // that of the tests is not for the go command
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "cluster: build: %v\n%s", err, out)
			os.Exit(1)
		}
		program, _ = filepath.Abs("../../bin/keygate") // fails only without a working directory
	}
	servers.Main(m)
}

// A cluster is some nodes with one key store and the same root keys.
type cluster struct {
	t      *testing.T
	dir    string
	module string
	shim   *shim // nil: none
	nodes  []*node
	ca     *x509.CertPool
	admin  tls.Certificate
	id     string
}

// A node is one gateway, which may run or not.
type node struct {
	cluster *cluster
	number  int
	address string
	cmd     *exec.Cmd
	ended   chan struct{} // closed when cmd has
}

// A backend starts the servers of a kind of key store, and returns the section
// keystore of the configuration.
type backend func(t *testing.T) (section string)

// newCluster starts n nodes on a key store. What they ask of their tokens is
// counted if counter is not nil.
func newCluster(t *testing.T, n int, store backend, counter *shim) *cluster {
	t.Helper()
	c := prepare(t, n, store, counter)
	for _, n := range c.nodes {
		n.start()
	}
	for _, n := range c.nodes {
		n.ready()
	}
	return c
}

// prepare makes all that n nodes need.
func prepare(t *testing.T, n int, store backend, counter *shim) *cluster {
	t.Helper()
	module, err := softhsm.Module()
	if err != nil {
		skip(t, err)
	}
	c := &cluster{t: t, dir: t.TempDir(), module: module, id: "5f0c1d2e3b4a59687786950a1b2c3d4e"}
	if counter != nil {
		c.shim, c.module = counter, counter.module
	}
	section := store(t)
	c.identities()
	for i := range n {
		c.nodes = append(c.nodes, &node{cluster: c, number: i, address: freeAddress(t)})
	}
	for _, n := range c.nodes {
		n.write(section)
	}
	c.tokens()
	c.run(nil, "store", "init", "--config", c.nodes[0].config())
	return c
}

// skip ends a test that cannot run here; in CI that is a failure.
func skip(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
}

func (c *cluster) file(name string) string { return filepath.Join(c.dir, name) }

// run runs keygate to its end.
func (c *cluster) run(env []string, args ...string) {
	c.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("keygate %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (c *cluster) identities() {
	c.t.Helper()
	identity := func(name string, args ...string) {
		c.run(nil, append([]string{"identity", "new", "--key", c.file(name + ".key"), "--cert", c.file(name + ".crt")}, args...)...)
	}
	identity("ca", "--is-ca", "--cn", "test CA")
	sign := []string{"--ca", c.file("ca.crt"), "--ca-key", c.file("ca.key")}
	identity("server", append(sign, "--ip", "127.0.0.1")...)
	identity("admin", append(sign, "--cn", "admin")...)
	pem, err := os.ReadFile(c.file("ca.crt"))
	check(c.t, err)
	c.ca = x509.NewCertPool()
	c.ca.AppendCertsFromPEM(pem)
	c.admin, err = tls.LoadX509KeyPair(c.file("admin.crt"), c.file("admin.key"))
	check(c.t, err)
}

// tokens makes one token with root keys, and a copy of its files for each node
// before the first use: see scripts/cluster.sh.
func (c *cluster) tokens() {
	c.t.Helper()
	check(c.t, os.WriteFile(c.file("pin"), []byte("69a3b1"), 0o400))
	check(c.t, os.WriteFile(c.file("so-pin"), []byte("8b2270"), 0o400))
	conf := func(name, tokens string) {
		text := "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\n"
		check(c.t, os.WriteFile(c.file(name), []byte(text), 0o600))
	}
	check(c.t, os.Mkdir(c.file("tokens"), 0o700))
	conf("softhsm2.conf", c.file("tokens"))
	c.run(c.nodes[0].env("softhsm2.conf"), "hsm", "init", "--config", c.nodes[0].config(), "--make-token", "--so-pin-file", c.file("so-pin"))
	for _, n := range c.nodes {
		dir := c.file(fmt.Sprintf("tokens-%d", n.number))
		check(c.t, os.CopyFS(dir, os.DirFS(c.file("tokens"))))
		conf(fmt.Sprintf("softhsm2-%d.conf", n.number), dir)
	}
}

func (n *node) config() string { return n.cluster.file(fmt.Sprintf("node-%d.yaml", n.number)) }

func (n *node) log() string { return n.cluster.file(fmt.Sprintf("node-%d.log", n.number)) }

// env is what the node's process needs in its environment besides that of the
// test.
func (n *node) env(tokens string) []string {
	env := []string{softhsm.ConfEnv + "=" + n.cluster.file(tokens)}
	if n.cluster.shim != nil {
		env = append(env, n.cluster.shim.env(n.number)...)
	}
	return env
}

func (n *node) write(keystore string) {
	c := n.cluster
	out, err := exec.Command(program, "identity", "of", c.file("admin.crt")).Output()
	check(c.t, err)
	text := fmt.Sprintf(`address: %s
cluster: %s
admin: {identity: %s}
tls: {key: %s, cert: %s}
audit: {file: %s}
keystore: %s
root: {pkcs11: {module: %s, token: keygate, pin: {file: %s}}}
`, n.address, c.id, bytes.TrimSpace(out), c.file("server.key"), c.file("server.crt"),
		c.file(fmt.Sprintf("audit-%d.log", n.number)), keystore, c.module, c.file("pin"))
	check(c.t, os.WriteFile(n.config(), []byte(text), 0o600))
}

// start starts the process, which ends with the test at the latest.
func (n *node) start() {
	t := n.cluster.t
	t.Helper()
	log, err := os.OpenFile(n.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(t, err)
	defer log.Close()
	n.cmd = exec.Command(program, "server", "--config", n.config())
	n.cmd.Env = append(os.Environ(), n.env(fmt.Sprintf("softhsm2-%d.conf", n.number))...)
	n.cmd.Stderr, n.cmd.Stdout = log, log
	check(t, n.cmd.Start())
	cmd, ended := n.cmd, make(chan struct{})
	n.ended = ended
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill() // also where it is stopped; os.Process knows if it has ended
		<-ended
	})
}

func (n *node) signal(s syscall.Signal) { check(n.cluster.t, n.cmd.Process.Signal(s)) }

// end ends the process by a signal, and returns when it has.
func (n *node) end(s syscall.Signal) {
	n.signal(s)
	select {
	case <-n.ended:
	case <-time.After(30 * time.Second):
		n.cluster.t.Fatalf("node %d does not end", n.number)
	}
}

// ready waits until the node can serve keys.
func (n *node) ready() {
	t := n.cluster.t
	t.Helper()
	c := n.client()
	defer c.Close()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = c.Ready(t.Context()); err == nil {
			return
		}
		select {
		case <-n.ended:
			log, _ := os.ReadFile(n.log())
			t.Fatalf("node %d has ended\n%s", n.number, log)
		default:
		}
	}
	t.Fatalf("node %d is not ready: %v", n.number, err)
}

// client returns a client of one node.
func (n *node) client() *client.Client { return n.cluster.client(0, n) }

// client returns a client of some nodes, in this order.
func (c *cluster) client(timeout time.Duration, nodes ...*node) *client.Client {
	c.t.Helper()
	cfg := client.Config{Certificate: c.admin, RootCAs: c.ca, Timeout: timeout}
	for _, n := range nodes {
		cfg.Endpoints = append(cfg.Endpoints, n.address)
	}
	cl, err := client.New(cfg)
	check(c.t, err)
	c.t.Cleanup(cl.Close)
	return cl
}

func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer ln.Close()
	return ln.Addr().String()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// backends are the kinds of key stores that nodes share.
var backends = map[string]backend{"etcd": etcd, "postgres": postgres}

// onEach runs a test on each kind of key store.
func onEach(t *testing.T, test func(t *testing.T, store backend)) {
	for _, name := range slices.Sorted(maps.Keys(backends)) {
		t.Run(name, func(t *testing.T) { test(t, backends[name]) })
	}
}

func etcd(t *testing.T) string {
	e := servers.SharedEtcd(t)
	return fmt.Sprintf("{etcd: {endpoints: [%s], prefix: /%s/, tls: {ca: %s, cert: %s, key: %s}}}",
		strings.Join(e.Endpoints, ", "), rand.Text(), e.File("ca.crt"), e.File("client.crt"), e.File("client.key"))
}

func postgres(t *testing.T) string {
	p := servers.SharedPostgres(t)
	return fmt.Sprintf("{postgres: {hosts: [%q], user: gateway, password_file: %s, schema: %s, owner: {user: owner, password_file: %s}, tls: {ca: %s}}}",
		p.Host, p.Password("gateway"), "s"+strings.ToLower(rand.Text()), p.Password("owner"), p.File("ca.crt"))
}

// each calls f for all numbers below n, with so many at a time, and returns when
// all have been done.
func each(workers, n int, f func(i int)) {
	work := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range work {
				f(i)
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
}

// dek is a data key that a node made.
type dek struct {
	key                   string
	plaintext, ciphertext []byte
}

// generate has a node make a data key, whose context is the name of its key.
func generate(ctx context.Context, c *client.Client, key string) (d dek, err error) {
	d.key = key
	d.plaintext, d.ciphertext, err = c.GenerateKey(ctx, key, []byte(key))
	return d, err
}

// opens returns an error unless a node opens d, to what it was.
func (d dek) opens(ctx context.Context, c *client.Client) error {
	plaintext, err := c.Decrypt(ctx, d.key, d.ciphertext, []byte(d.key))
	if err == nil && (len(plaintext) != 32 || !bytes.Equal(plaintext, d.plaintext)) {
		err = fmt.Errorf("%s: another data key came back", d.key)
	}
	return err
}

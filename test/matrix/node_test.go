package matrix_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keygate/keygate/client"
)

// patience is how long a program may take to start or to end.
const patience = 30 * time.Second

// A node is a gateway: its directory, its configuration and, once it is started,
// its process.
type node struct {
	t       *testing.T
	dir     string
	env     []string
	secrets []string // that nothing may show
	http    *http.Client

	cmd     *exec.Cmd
	done    chan struct{} // closed when the process has ended
	started int           // how often
	addr    string        // localhost:port
}

// newNode writes the configuration of a gateway over root and store, and has the
// program make what they need. timeout is that of calls of root and store, more are
// further lines of the configuration.
func newNode(t *testing.T, root, store section, timeout, more string) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir(), secrets: append(root.secrets, store.secrets...)}
	n.env = append(append(os.Environ(), "GORACE=atexit_sleep_ms=0"), append(root.env, store.env...)...)
	certificate := program.clients["admin"]
	n.http = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: program.roots, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate},
	}}}
	t.Cleanup(n.http.CloseIdleConnections)
	text := fmt.Sprintf(`cluster: 5f0c1d2e3b4a59687786950a1b2c3d4e
admin: {identity: %s}
tls: {key: %q, cert: %q}
policy: {app: {allow: [/v1/key/*, /v1/status], identities: [%s]}}
audit: {file: audit.log}
root: {%s}
keystore: {%s}
%s`, program.ids["admin"], file("server.key"), file("server.crt"), program.ids["app"], root.yaml, store.yaml, more)
	n.configure(text, longTimeout)
	n.run(root.before...)
	n.run(root.init...)
	n.run("store", "init")
	n.configure(text, timeout)
	return n
}

// longTimeout is for what is not about time, where many programs share a machine.
const longTimeout = "10s"

func (n *node) configure(text, timeout string) {
	n.t.Helper()
	if err := os.WriteFile(n.path("config.yaml"), []byte(strings.ReplaceAll(text, "TIMEOUT", timeout)), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *node) command(args ...string) *exec.Cmd {
	cmd := exec.Command(program.binary, append(args, "--config", "config.yaml")...)
	cmd.Dir, cmd.Env = n.dir, n.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run runs a command of the program to its end; none if there are no args.
func (n *node) run(args ...string) {
	n.t.Helper()
	if len(args) == 0 {
		return
	}
	if out, err := n.command(args...).CombinedOutput(); err != nil {
		n.t.Fatalf("keygate %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// start starts the gateway and waits until it listens.
func (n *node) start() {
	n.t.Helper()
	n.started++
	log, err := os.Create(n.logFile())
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	cmd := n.command("server", "--addr", "localhost:0")
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	done := make(chan struct{})
	n.cmd, n.done = cmd, done
	go func() { cmd.Wait(); close(done) }()
	n.t.Cleanup(func() { cmd.Process.Kill(); <-done })
	for end := time.Now().Add(patience); n.addr == ""; time.Sleep(10 * time.Millisecond) {
		if n.addr = listening(n.log()); time.Now().After(end) || n.ended() && n.addr == "" {
			n.t.Fatalf("the gateway does not listen: %s", n.log())
		}
	}
}

// listening finds the address in a log, "" if it is not there.
func listening(log []byte) string {
	for line := range bytes.Lines(log) {
		var entry struct{ Msg, Address string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "keygate: listening" {
			_, port, _ := net.SplitHostPort(entry.Address)
			return "localhost:" + port
		}
	}
	return ""
}

func (n *node) ended() bool {
	select {
	case <-n.done:
		return true
	default:
		return false
	}
}

// stop ends the gateway as an operator does.
func (n *node) stop() {
	n.t.Helper()
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		n.t.Fatal(err)
	}
	select {
	case <-n.done:
	case <-time.After(patience):
		n.t.Fatalf("the gateway has not ended after %v: %s", patience, n.log())
	}
	if code := n.cmd.ProcessState.ExitCode(); code != 0 {
		n.t.Errorf("the gateway ended with code %d: %s", code, n.log())
	}
	n.addr = ""
}

func (n *node) logFile() string { return n.path(fmt.Sprintf("server-%d.log", n.started)) }

// log is the error log since the last start.
func (n *node) log() []byte { return n.read(n.logFile()) }

func (n *node) read(path string) []byte {
	n.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		n.t.Fatal(err)
	}
	return text
}

// client returns a client that speaks as the app.
func (n *node) client() *client.Client {
	n.t.Helper()
	c, err := client.New(client.Config{Endpoints: []string{n.addr}, Certificate: program.clients["app"], RootCAs: program.roots})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(c.Close)
	return c
}

// An answer is all that a client sees.
type answer struct {
	status int
	header http.Header
	body   string
	took   time.Duration
}

// send makes one request as the administrator, and never a second one. No answer
// is status 0, and an error of the test.
func (n *node) send(method, path, body string) answer {
	n.t.Helper()
	begin := time.Now()
	a, err := n.try(method, path, body)
	if err != nil {
		n.t.Errorf("%s %s: %v", method, path, err)
	}
	a.took = time.Since(begin)
	return a
}

func (n *node) try(method, path, body string) (a answer, err error) {
	req, err := http.NewRequestWithContext(n.t.Context(), method, "https://"+n.addr+path, strings.NewReader(body))
	if err != nil {
		return a, err
	}
	resp, err := n.http.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, header: resp.Header, body: string(text)}, err
}

// metric returns the value of a series of /metrics, such as
// keygate_requests_total{operation="key:create",outcome="ok"}; 0 if it is not there.
func (n *node) metric(series string) float64 {
	n.t.Helper()
	a := n.send("GET", "/metrics", "")
	if a.status != http.StatusOK {
		n.t.Fatalf("/metrics is %d", a.status)
	}
	for line := range strings.Lines(a.body) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				n.t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

// An entry is what a test reads of a line of the audit log.
type entry struct {
	ID        string `json:"request_id"`
	Operation string `json:"operation"`
	Key       string `json:"key"`
	Mode      string `json:"mode"`
	Outcome   string `json:"outcome"`
	Status    int    `json:"status"`
	Error     string `json:"error"`
	Outage    bool   `json:"outage"`
}

// audit returns the entries of the audit log by their request ids.
func (n *node) audit() map[string]entry {
	n.t.Helper()
	all := make(map[string]entry)
	for line := range bytes.Lines(n.read(n.path("audit.log"))) {
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			n.t.Fatalf("audit line %q: %v", line, err)
		}
		all[e.ID] = e
	}
	return all
}

// hides checks that nothing that others may read has a secret in it: logs, audit,
// metrics, and what /proc shows of the process.
func (n *node) hides() {
	n.t.Helper()
	shown := map[string]string{"/metrics": n.send("GET", "/metrics", "").body, "/v1/metrics": n.send("GET", "/v1/metrics", "").body}
	for i := range n.started {
		name := fmt.Sprintf("server-%d.log", i+1)
		shown[name] = string(n.read(n.path(name)))
	}
	shown["audit.log"] = string(n.read(n.path("audit.log")))
	shown["cmdline"] = string(n.read(fmt.Sprintf("/proc/%d/cmdline", n.cmd.Process.Pid)))
	for name, text := range shown {
		if text == "" {
			n.t.Errorf("%s is empty", name)
		}
		for _, secret := range n.secrets {
			if secret == "" || strings.Contains(text, secret) {
				n.t.Errorf("%s has a secret in it (or the secret is empty)", name)
			}
		}
	}
}

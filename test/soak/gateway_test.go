package soak_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keygate/keygate/softhsm"
)

// patience is how long the program may take to start, to end or to reload on a
// machine that does other things, too.
const patience = time.Minute

// A gateway is the program: its directory, its tokens and its process.
type gateway struct {
	t       *testing.T
	dir     string
	options options
	tokens  []*token
	conf    string // of SoftHSM

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	addr string
}

// options are what differs between gateways.
type options struct {
	binary    string // empty: program.binary
	tokens    int
	isolation string
	branch    time.Duration // the life of a branch key
	timeout   time.Duration // of a call of the HSM
	wait      time.Duration // for a session of the HSM
}

const (
	sessions    = 8   // calls that a token works on at a time
	maxKeys     = 80  // master keys that are loaded in a token
	maxRecords  = 80  // key records in memory
	maxBranches = 100 // opened branch keys in memory
)

// newGateway makes all that a gateway needs, and starts it.
func newGateway(t *testing.T, o options) *gateway {
	t.Helper()
	if o.binary == "" {
		o.binary = program.binary
	}
	g := &gateway{t: t, dir: t.TempDir(), options: o}
	if *keep != "" {
		g.dir = filepath.Join(*keep, t.Name()+"-"+filepath.Base(o.binary))
		check(t, os.MkdirAll(*keep, 0o700))
		check(t, os.Mkdir(g.dir, 0o700))
	}
	g.makeTokens()
	g.configure(policies(false))
	g.run("store", "init")
	g.start()
	return g
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (g *gateway) path(name string) string { return filepath.Join(g.dir, name) }

// configure writes the configuration, with a section of policies. What is held in
// memory of records and branch keys is bounded so that these bounds are reached
// soon: a run is to find out what has none.
func (g *gateway) configure(policies string) {
	g.t.Helper()
	check(g.t, g.tryConfigure(policies))
}

func (g *gateway) tryConfigure(policies string) error {
	o := g.options
	text := fmt.Sprintf(`cluster: 5f0c1d2e3b4a59687786950a1b2c3d4e
admin: {identity: %[1]s}
tls: {key: %[2]q, cert: %[3]q}
%[4]s
audit: {file: audit.log}
deletion: {window: 0s}
cache: {keys: %[11]d}
branch: {lifetime: %[5]s, opened_lifetime: %[5]s, outage: %[5]s, opened: %[12]d}
limits: {wait: 1s}
keystore: {fs: {path: keys}}
root:
  pkcs11:
    sessions: %[6]d
    keys: %[7]d
    timeout: %[8]s
    queue: {wait: %[9]s}
%[10]s`, program.ids["admin"], file("server.key"), file("server.crt"), policies, o.branch, sessions, maxKeys, o.timeout, o.wait, g.root(), maxRecords, maxBranches)
	// In one step: a reload may read it at any time.
	if err := os.WriteFile(g.path("config.new"), []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(g.path("config.new"), g.path("config.yaml"))
}

// policies is a section of policies, in which the identity "toggle" may describe
// keys or list them.
func policies(list bool) string {
	var apps []string
	for _, name := range identities {
		if strings.HasPrefix(name, "app-") {
			apps = append(apps, program.ids[name])
		}
	}
	may := "describe"
	if list {
		may = "list"
	}
	return fmt.Sprintf(`policy:
  app: {allow: [/v1/key/*, /v1/status, /v1/ready, /v1/api], deny: [/v1/key/generate/forbidden-*], identities: [%s]}
  toggle: {allow: [/v1/key/%s/*], identities: [%s]}`, strings.Join(apps, ", "), may, program.ids["toggle"])
}

func (g *gateway) command(args ...string) *exec.Cmd {
	cmd := exec.Command(g.options.binary, append(args, "--config", "config.yaml")...)
	cmd.Dir = g.dir
	// The races of the program go to files race.PID: the log is for its own lines.
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0 halt_on_error=0 log_path="+g.path("race"), softhsm.ConfEnv+"="+g.conf)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run runs a command of the program to its end.
func (g *gateway) run(args ...string) {
	g.t.Helper()
	if out, err := g.command(args...).CombinedOutput(); err != nil {
		g.t.Fatalf("keygate %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// start starts the process, and waits until it listens.
func (g *gateway) start() {
	g.t.Helper()
	log, err := os.Create(g.path("server.log"))
	check(g.t, err)
	defer log.Close()
	cmd, done := g.command("server", "--addr", "127.0.0.1:0"), make(chan struct{})
	cmd.Stderr = log
	check(g.t, cmd.Start())
	g.cmd, g.done = cmd, done
	go func() { cmd.Wait(); close(done) }()
	g.t.Cleanup(func() { cmd.Process.Kill(); <-done })
	g.wait("the gateway listens", func() bool {
		for _, line := range g.log() {
			if line.Msg == "keygate: listening" {
				_, port, _ := net.SplitHostPort(line.Address)
				g.addr = "127.0.0.1:" + port
			}
		}
		return g.addr != ""
	})
}

// wait waits until what is so.
func (g *gateway) wait(what string, so func() bool) {
	g.t.Helper()
	check(g.t, g.tryWait(what, so))
}

func (g *gateway) tryWait(what string, so func() bool) error {
	for end := time.Now().Add(patience); !so(); time.Sleep(20 * time.Millisecond) {
		select {
		case <-g.done:
			return fmt.Errorf("the gateway has ended before %s: %v", what, g.cmd.ProcessState)
		default:
		}
		if time.Now().After(end) {
			return fmt.Errorf("not after %v: %s", patience, what)
		}
	}
	return nil
}

// stop ends the process as an operator does, and returns what was wrong with its
// life: an exit status, races, lines of the log.
func (g *gateway) stop(expected map[string]int) []string {
	g.t.Helper()
	var faults []string
	check(g.t, g.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-g.done:
	case <-time.After(patience):
		return []string{fmt.Sprintf("it has not ended %v after SIGTERM", patience)}
	}
	if code := g.cmd.ProcessState.ExitCode(); code != 0 { // the race detector makes it 66
		faults = append(faults, fmt.Sprintf("it ended with status %d", code))
	}
	races, err := filepath.Glob(g.path("race.*"))
	check(g.t, err)
	for _, name := range races {
		text, _ := os.ReadFile(name)
		faults = append(faults, fmt.Sprintf("the race detector reports: %s", text))
	}
	return append(faults, g.complaints(expected)...)
}

// complaints returns the lines of the log that are errors, but for those that are
// expected, so many times at the most, and whatever is no line of the log.
func (g *gateway) complaints(expected map[string]int) (faults []string) {
	got := make(map[string]int)
	for _, line := range g.log() {
		switch {
		case line.Level == "":
			faults = append(faults, "standard error has: "+line.text)
		case line.Level == "ERROR":
			if got[line.Msg]++; got[line.Msg] > expected[line.Msg] {
				faults = append(faults, "the log has: "+line.text)
			}
		}
	}
	return faults
}

// A line is one of the error log.
type line struct {
	Level, Msg, Address string
	text                string
}

func (g *gateway) log() []line {
	b, err := os.ReadFile(g.path("server.log"))
	if err != nil {
		return []line{{text: err.Error()}}
	}
	var lines []line
	for text := range bytes.Lines(b) {
		if !bytes.HasSuffix(text, []byte("\n")) {
			break // it is being written
		}
		var l line
		if json.Unmarshal(text, &l) != nil {
			l = line{}
		}
		l.text = string(bytes.TrimSpace(text))
		lines = append(lines, l)
	}
	return lines
}

// said returns how often the log has a message.
func (g *gateway) said(msg string) int {
	n := 0
	for _, line := range g.log() {
		if line.Msg == msg {
			n++
		}
	}
	return n
}

// The messages of a reload.
const (
	reloaded    = "keygate: reloaded the configuration"
	notReloaded = "keygate: the configuration was not reloaded: nothing has changed"
)

// reload sends SIGHUP and waits until the gateway says what came of it.
func (g *gateway) reload(want string) error {
	before := g.said(reloaded) + g.said(notReloaded)
	wanted := g.said(want)
	if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	if err := g.tryWait("a reload", func() bool { return g.said(reloaded)+g.said(notReloaded) > before }); err != nil {
		return err
	}
	if g.said(want) != wanted+1 {
		return errors.New("reload: the gateway does not say: " + want)
	}
	return nil
}

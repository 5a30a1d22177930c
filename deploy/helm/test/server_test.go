package chart_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// program returns the path of keygate.
func program(t *testing.T) string {
	t.Helper()
	name := os.Getenv("KEYGATE")
	if name == "" {
		name = "../../../bin/keygate"
	}
	path, err := filepath.Abs(name)
	check(t, err)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: build it with make build", err)
	}
	return path
}

// A host is a directory in which the files of a pod are, under their own paths.
type host struct {
	t    *testing.T
	dir  string
	prog string
	env  []string
}

func newHost(t *testing.T) *host {
	h := &host{t: t, dir: t.TempDir(), prog: program(t)}
	for _, d := range []string{"config", "tls", "probe"} {
		check(t, os.MkdirAll(h.path("/etc/keygate/"+d), 0o700))
	}
	h.run("identity", "new", "--key", h.path("/etc/keygate/tls/tls.key"), "--cert", h.path("/etc/keygate/tls/tls.crt"), "--dns", "kg.keys.svc")
	return h
}

func (h *host) path(inPod string) string { return h.dir + inPod }

// here returns a text with the pod's paths as those of this host.
func (h *host) here(text string) string {
	text = strings.ReplaceAll(text, "/usr/local/bin/keygate", h.prog)
	return regexp.MustCompile(`/(etc|var/lib)/keygate\b|/tmp/pin-refused\b`).ReplaceAllString(text, h.dir+"$0")
}

func (h *host) command(args ...string) *exec.Cmd {
	cmd := exec.Command(h.prog, args...)
	cmd.Env = append(os.Environ(), h.env...)
	return cmd
}

// run runs keygate and returns what it prints.
func (h *host) run(args ...string) string {
	h.t.Helper()
	out, err := h.command(args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("keygate %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// drivers returns the kinds of key stores and roots that this keygate has.
func (h *host) drivers() string {
	file := filepath.Join(h.t.TempDir(), "empty.yaml")
	check(h.t, os.WriteFile(file, []byte("keystore: {}\nroot: {}\n"), 0o600))
	out, _ := h.command("config", "check", "--config", file).CombinedOutput() // it fails, and says what there is
	return string(out)
}

// The server accepts the configuration of every example, strictly.
func TestConfigIsTheServers(t *testing.T) {
	drivers := newHost(t).drivers()
	for _, file := range examples(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			v := values(t, file, nil)
			config := v["config"].(map[string]any)
			for _, section := range []string{"keystore", "root"} {
				for kind := range config[section].(map[string]any) {
					if !regexp.MustCompile(section + ` is exactly one of .*\b` + kind + `\b`).MatchString(drivers) {
						skip(t, "this keygate has no %s.%s", section, kind)
					}
				}
			}
			h := newHost(t)
			h.stubs(config)
			r := install(t, v, true)
			h.write(r)
			if out := h.run("config", "check", "--config", h.path("/etc/keygate/config/config.yaml")); !strings.Contains(out, ": ok") {
				t.Errorf("config check says %q", out)
			}
		})
	}
}

// skip ends a test that cannot run here; in CI that is a failure.
func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// stubs puts a certificate where the configuration names a file of a secret.
func (h *host) stubs(config any) {
	cert, err := os.ReadFile(h.path("/etc/keygate/tls/tls.crt"))
	check(h.t, err)
	for _, file := range filesIn(config) {
		if strings.HasPrefix(file, "/etc/keygate/") {
			check(h.t, os.MkdirAll(filepath.Dir(h.path(file)), 0o700))
			check(h.t, os.WriteFile(h.path(file), cert, 0o400))
		}
	}
}

// write puts the rendered configuration in its place, with this host's paths.
func (h *host) write(r *release) {
	text := h.here(r.config.Data["config.yaml"])
	check(h.t, os.WriteFile(h.path("/etc/keygate/config/config.yaml"), []byte(text), 0o600))
}

// startFiles starts keygate as the pod of examples/files.yaml, on a SoftHSM token
// and a loopback port, with the store made by the chart's job.
func startFiles(t *testing.T, edits map[string]any) (*host, *release) {
	t.Helper()
	h := newHost(t)
	port := freePort(t)
	all := map[string]any{
		"port": port, "probes.identity": h.prober(),
		"config.root.pkcs11.module": softHSM(t),
	}
	for k, v := range edits {
		all[k] = v
	}
	r := install(t, values(t, chartDir+"/examples/files.yaml", all), true)
	h.write(r)
	h.token()
	check(t, os.MkdirAll(h.path("/var/lib/keygate"), 0o700))
	h.run(h.args(r.job.Spec.Template.Spec.Containers[0].Command)...)

	_, c := r.pod()
	server := h.command(append(h.args(c.Command), "--addr", fmt.Sprintf("127.0.0.1:%d", port))...)
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	check(t, server.Start())
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v\n%s", err, &log)
		}
	})
	h.until(c.StartupProbe)
	return h, r
}

// args returns the arguments of a container's command with this host's paths.
func (h *host) args(command []string) []string {
	args := make([]string, 0, len(command))
	for _, a := range command[1:] {
		args = append(args, h.here(a))
	}
	return args
}

// prober makes the API key of the probes, and returns its identity.
func (h *host) prober() string {
	var made struct {
		Identity string `json:"identity"`
	}
	out := h.run("identity", "new", "--json", "--api-key-file", h.path("/etc/keygate/probe/api-key"))
	check(h.t, json.Unmarshal([]byte(out), &made))
	return made.Identity
}

// token makes a SoftHSM token with root keys.
func (h *host) token() {
	tokens, conf := h.path("/tokens"), h.path("/softhsm2.conf")
	check(h.t, os.Mkdir(tokens, 0o700))
	check(h.t, os.WriteFile(conf, []byte("directories.tokendir = "+tokens+"\nobjectstore.backend = file\n"), 0o600))
	h.env = append(h.env, "SOFTHSM2_CONF="+conf)
	check(h.t, os.MkdirAll(h.path("/etc/keygate/pin"), 0o700))
	check(h.t, os.WriteFile(h.path("/etc/keygate/pin/pin"), []byte("5931"), 0o400))
	check(h.t, os.WriteFile(h.path("/so-pin"), []byte("7731"), 0o400))
	h.run("hsm", "init", "--config", h.path("/etc/keygate/config/config.yaml"), "--make-token", "--so-pin-file", h.path("/so-pin"))
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// probe runs a probe as kubelet does, and returns its error.
func (h *host) probe(p *corev1.Probe) error {
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Duration(p.TimeoutSeconds)*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.here(p.Exec.Command[0]), h.args(p.Exec.Command)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// A wrong PIN is tried once, however often the container is started again.
func TestWrongPINIsTriedOnce(t *testing.T) {
	h := newHost(t)
	r := install(t, values(t, chartDir+"/examples/files.yaml", map[string]any{
		"probes.identity": h.prober(), "config.root.pkcs11.module": softHSM(t)}), true)
	h.write(r)
	h.token()
	check(t, os.Mkdir(h.path("/tmp"), 0o700))
	pin := h.path("/etc/keygate/pin/pin")
	check(t, os.WriteFile(pin+".wrong", []byte("0000"), 0o400))
	check(t, os.Rename(pin+".wrong", pin))
	_, c := r.pod()
	for start := range 5 {
		out, err := h.command(h.args(c.Command)...).CombinedOutput()
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != 3 {
			t.Fatalf("start %d: %v\n%s", start, err, out)
		}
		if again := strings.Contains(string(out), "is not tried again"); again != (start > 0) {
			t.Errorf("start %d: %s", start, out)
		}
	}
}

// softHSM returns the path of SoftHSM's module.
func softHSM(t *testing.T) string {
	t.Helper()
	places, _ := filepath.Glob("/usr/lib/*/softhsm/libsofthsm2.so") // the pattern is right
	for _, path := range append(places, os.Getenv("SOFTHSM2_MODULE"), "/usr/lib/softhsm/libsofthsm2.so") {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	skip(t, "there is no libsofthsm2.so")
	return ""
}

// until repeats a probe until it succeeds, as often as kubelet would.
func (h *host) until(p *corev1.Probe) {
	h.t.Helper()
	var err error
	for range p.FailureThreshold {
		if err = h.probe(p); err == nil {
			return
		}
		time.Sleep(time.Duration(p.PeriodSeconds) * time.Second)
	}
	h.t.Fatalf("the probe %q: %v", p.Exec.Command, err)
}

// The probes of the chart succeed on a gateway that can serve; the one that asks for
// all fails without the key store, and liveness does not. No other identity may ask, and a
// client without a certificate gets no answer.
func TestProbes(t *testing.T) {
	h, r := startFiles(t, nil)
	_, c := r.pod()
	check(t, h.probe(c.LivenessProbe))
	if _, err := anonymous(r, "/v1/ready"); err == nil {
		t.Error("a client without a certificate gets an answer")
	}
	// The probe that asks for all is the one of startup, or of readiness.
	all := c.StartupProbe
	_, own := install(t, values(t, chartDir+"/examples/files.yaml", map[string]any{
		"probes.rootPerPod": true, "port": int(c.Ports[0].ContainerPort)}), true).pod()
	if !slices.Equal(own.ReadinessProbe.Exec.Command, all.Exec.Command) || !slices.Equal(c.ReadinessProbe.Exec.Command, c.LivenessProbe.Exec.Command) {
		t.Errorf("startup asks %q, readiness %q, or with rootPerPod %q", all.Exec.Command, c.ReadinessProbe.Exec.Command, own.ReadinessProbe.Exec.Command)
	}
	store := h.path("/var/lib/keygate/keys")
	check(t, os.Rename(store, store+".away"))
	time.Sleep(600 * time.Millisecond) // the state is looked at twice a second
	if err := h.probe(all); err == nil || !strings.Contains(err.Error(), "key store") {
		t.Errorf("ready without the key store: %v", err)
	}
	check(t, h.probe(c.LivenessProbe))
	check(t, os.Rename(store+".away", store))
	time.Sleep(600 * time.Millisecond)
	h.until(all)

	check(t, os.Remove(h.path("/etc/keygate/probe/api-key")))
	h.prober()
	if err := h.probe(all); err == nil || !strings.Contains(err.Error(), "not authorized") {
		t.Errorf("ready for another identity: %v", err)
	}
}

// With probes.type https kubelet's own probes succeed, and nothing else answers
// without a certificate.
func TestHTTPSProbes(t *testing.T) {
	// The server is started with the exec probe's values, to wait for it by that.
	h, exec := startFiles(t, map[string]any{"config.api": map[string]any{"/v1/ready": map[string]any{"skip_auth": true}}})
	_, c := exec.pod()
	h.until(c.ReadinessProbe)
	port := exec.deployment.Spec.Template.Spec.Containers[0].Ports[0].ContainerPort
	r := install(t, values(t, chartDir+"/examples/files.yaml", map[string]any{"probes.type": "https", "port": int(port)}), true)
	if !strings.Contains(r.config.Data["config.yaml"], "skip_auth: true") || strings.Contains(r.config.Data["config.yaml"], "keygate-probe") {
		t.Errorf("the configuration is\n%s", r.config.Data["config.yaml"])
	}
	_, c = r.pod()
	for name, p := range map[string]*corev1.Probe{"ready": c.ReadinessProbe, "live": c.LivenessProbe, "startup": c.StartupProbe} {
		if p.HTTPGet == nil || p.HTTPGet.Scheme != corev1.URISchemeHTTPS {
			t.Fatalf("%s: %+v", name, p)
		}
		if status, err := anonymous(r, p.HTTPGet.Path); status != http.StatusOK {
			t.Errorf("%s: status %d (%v)", name, status, err)
		}
	}
	if status, err := anonymous(r, "/v1/status"); status != http.StatusBadRequest {
		t.Errorf("/v1/status without a certificate: status %d (%v), want 400", status, err)
	}
}

// anonymous asks as kubelet does: over TLS, without a certificate.
func anonymous(r *release, path string) (status int, err error) {
	_, c := r.pod()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d%s", c.Ports[0].ContainerPort, path))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return resp.StatusCode, nil
}

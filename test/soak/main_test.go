package soak_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a run is like. The defaults are for the tests of every day.
var (
	soakTime   = flag.Duration("soak.for", 10*time.Second, "how long the load runs")
	soakRate   = flag.Float64("soak.rate", 100, "operations a second")
	tokens     = flag.Int("soak.tokens", 1, "how many tokens the root has: copies of one, as a vendor's cloning makes them")
	isolation  = flag.String("soak.isolation", "", "root.pkcs11.isolation of the gateway: where the module runs; empty: not set")
	builds     = flag.String("soak.builds", "race", "which builds of the program the load runs on, at the same time: race, with the race detector, and plain, whose memory is judged")
	reportFile = flag.String("soak.report", "", "append the table and the verdict to this `FILE`, in Markdown")
	keep       = flag.String("soak.dir", "", "work in this `DIRECTORY`, which must not exist, and keep it: logs, configuration, reports of races")
)

// identities are those that the gateway's policies know; of "app-N" there is one
// for each client.
var identities = []string{"admin", "toggle", "app-0", "app-1", "app-2", "app-3"}

// program is what all tests run, and who its clients are.
var program struct {
	dir     string
	binary  string // the one with the race detector
	plain   string // the one without
	ids     map[string]string
	clients map[string]tls.Certificate
	roots   *x509.CertPool
}

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := setUp(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		code = 1
	}
	os.Exit(code)
}

// setUp builds the program, once or twice, and has it make the certificates.
func setUp(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "keygate-soak-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	program.dir, program.binary, program.plain = dir, filepath.Join(dir, "keygate"), filepath.Join(dir, "keygate-plain")
	flags := map[string]string{program.binary: "-race=true"}
	if strings.Contains(*builds, "plain") {
		flags[program.plain] = "-race=false"
	}
	for path, race := range flags {
		build := exec.Command("go", "build", race, "-o", path, "../../cmd/keygate")
		build.Env = append(os.Environ(), "GODEBUG=") // that of the tests is not for the go command
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build: %w: %s", err, out)
		}
	}
	if err := makeCertificates(); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

func makeCertificates() error {
	program.ids, program.clients, program.roots = map[string]string{}, map[string]tls.Certificate{}, x509.NewCertPool()
	signed := []string{"--ca", file("ca.crt"), "--ca-key", file("ca.key")}
	if err := makeCertificate("ca", "--is-ca"); err != nil {
		return err
	}
	if err := makeCertificate("server", append(signed, "--dns", "localhost", "--ip", "127.0.0.1")...); err != nil {
		return err
	}
	for _, name := range identities {
		if err := makeCertificate(name, append(signed, "--cn", name)...); err != nil {
			return err
		}
	}
	ca, err := os.ReadFile(file("ca.crt"))
	if err == nil && !program.roots.AppendCertsFromPEM(ca) {
		err = fmt.Errorf("%s holds no certificate", file("ca.crt"))
	}
	return err
}

// makeCertificate has the program make the files NAME.key and NAME.crt.
func makeCertificate(name string, args ...string) error {
	args = append([]string{"identity", "new", "--json", "--key", file(name + ".key"), "--cert", file(name + ".crt")}, args...)
	out, err := exec.Command(program.binary, args...).Output()
	if err != nil {
		return fmt.Errorf("keygate %s: %w: %s", strings.Join(args, " "), err, out)
	}
	var made struct{ Identity string }
	if err := json.Unmarshal(out, &made); err != nil {
		return err
	}
	program.ids[name] = made.Identity
	program.clients[name], err = tls.LoadX509KeyPair(file(name+".crt"), file(name+".key"))
	return err
}

// file is the path of a file that all gateways share.
func file(name string) string { return filepath.Join(program.dir, name) }

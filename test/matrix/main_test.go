package matrix_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// program is what all tests run, and who its clients are.
var program struct {
	dir     string
	binary  string
	ids     map[string]string // identities of admin and app
	clients map[string]tls.Certificate
	roots   *x509.CertPool
}

// TestMain builds the program, with the race detector if the tests have it, and
// has it make the certificates. With the race detector all takes four times as long:
// then there is something to do with KEYGATE_LONG=1 only, as each part is tested with
// it elsewhere.
func TestMain(m *testing.M) {
	flag.Parse()
	if raceDetector && os.Getenv("KEYGATE_LONG") != "1" {
		fmt.Println("skipped: with the race detector, KEYGATE_LONG=1 runs this")
		return
	}
	code, err := setUp(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		code = 1
	}
	os.Exit(code)
}

func setUp(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "keygate-matrix-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	program.dir, program.binary = dir, filepath.Join(dir, "keygate")
	args := []string{"build", "-o", program.binary}
	if raceDetector {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "../../cmd/keygate")...)
	// FIPS 140-3 mode is for the program, not for Go's tools.
	build.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GODEBUG=") })
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build: %w: %s", err, out)
	}
	if err := makeCertificates(); err != nil {
		return 0, err
	}
	// The tests wait for other processes and for time-outs.
	if err := flag.Set("test.parallel", "8"); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

func makeCertificates() error {
	program.ids, program.clients, program.roots = map[string]string{}, map[string]tls.Certificate{}, x509.NewCertPool()
	signed := []string{"--ca", file("ca.crt"), "--ca-key", file("ca.key")}
	for _, made := range []struct {
		name string
		args []string
	}{{"ca", []string{"--is-ca"}}, {"server", append(signed, "--dns", "localhost")}, {"admin", nil}, {"app", nil}} {
		if err := makeCertificate(made.name, made.args); err != nil {
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
func makeCertificate(name string, args []string) error {
	cmd := exec.Command(program.binary, append([]string{"identity", "new", "--json", "--key", file(name + ".key"), "--cert", file(name + ".crt")}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("identity new %s: %w: %s", name, err, out)
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

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keygate/keygate/api"
)

// A canary is a secret of a run of the program, and the forms in which it could leak.
type canary struct {
	what  string
	bytes []byte
}

func (s canary) in(text []byte) bool {
	forms := []string{string(s.bytes), hex.EncodeToString(s.bytes), base64.StdEncoding.EncodeToString(s.bytes), base64.RawURLEncoding.EncodeToString(s.bytes)}
	return slices.ContainsFunc(forms, func(form string) bool { return bytes.Contains(text, []byte(form)) })
}

func TestAU05_SecretsLeaveNoTrace(t *testing.T) {
	g := startGateway(t, t.TempDir())
	key := []byte("canary-import-key-of-32-bytes-ab")
	plaintext := []byte("canary plaintext, longer than 32 bytes")
	message := []byte("canary message of an hmac")

	var argv, stderr bytes.Buffer
	run := func(stdin []byte, args ...string) []byte {
		t.Helper()
		cmd := exec.Command("keygate", args...)
		cmd.Env = append(os.Environ(), noRaceSleep,
			"KEYGATE_SERVER="+g.address, "KEYGATE_CACERT="+filepath.Join(g.dir, "ca.crt"),
			"KEYGATE_CLIENT_CERT="+filepath.Join(g.dir, "admin.crt"), "KEYGATE_CLIENT_KEY="+filepath.Join(g.dir, "admin.key"))
		cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &stderr
		argv.WriteString(strings.Join(args, "\x00"))
		out, _ := cmd.Output() // some of them fail
		return out
	}
	encoded := []byte(base64.StdEncoding.EncodeToString(key))
	run(encoded, "key", "import", "k")
	run(encoded, "key", "import", "k") // exists
	run(encoded, "key", "import", "not/a/name")
	run(key, "key", "import", "wrong-form")
	run(plaintext, "key", "import", "--raw", "wrong-size")

	var dek api.GenerateKeyResponse
	if err := json.Unmarshal(run(nil, "key", "dek", "k", "--json"), &dek); err != nil {
		t.Fatal(err)
	}
	var sealed api.EncryptResponse
	if err := json.Unmarshal(run(plaintext, "key", "encrypt", "k", "--json"), &sealed); err != nil {
		t.Fatal(err)
	}
	run(plaintext, "key", "encrypt", "nothing")
	run([]byte(encode(sealed.Ciphertext)), "key", "decrypt", "k", "--context", "another")
	if got := run([]byte(encode(sealed.Ciphertext)), "key", "decrypt", "k"); !bytes.Equal(got, plaintext) {
		t.Fatalf("decrypted to %d other bytes", len(got))
	}
	mac := run(message, "key", "hmac", "k")
	if len(mac) == 0 {
		t.Fatal("no HMAC")
	}
	run(message, "key", "hmac", "nothing")

	trail, err := os.ReadFile(filepath.Join(g.dir, "audit.log"))
	check(t, err)
	if !bytes.Contains(trail, []byte("key:import")) {
		t.Fatal("the audit log does not show the import: the test looks in the wrong place")
	}
	metrics := run(nil, "metric", "--all", "--raw")
	if len(metrics) == 0 {
		t.Fatal("no metrics")
	}
	file, err := os.ReadFile(filepath.Join(g.dir, "admin.key"))
	check(t, err)
	private, _ := pem.Decode(file)
	secrets := []canary{
		{"imported key", key}, {"data key", dek.Plaintext}, {"plaintext", plaintext},
		{"message", message}, {"private key of the client", private.Bytes},
	}
	for place, text := range map[string][]byte{
		"arguments": argv.Bytes(), "standard error": stderr.Bytes(), "audit log": trail,
		"error log": []byte(g.log.String()), "metrics": metrics,
	} {
		for _, s := range secrets {
			if s.in(text) {
				t.Errorf("the %s is in the %s", s.what, place)
			}
		}
	}
}

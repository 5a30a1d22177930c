// Package systemd_test holds the unit to what the server does and to systemd's own
// judgement of it.
package systemd_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// unit returns the settings of the unit, all values of each.
func unit(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("keygate.service")
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			settings[key] = append(settings[key], value)
		}
	}
	return settings
}

// What keeps keys in the process, and the process from what it does not need.
func TestUnitIsHardened(t *testing.T) {
	settings := unit(t)
	for key, want := range map[string]string{
		"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes",
		"CapabilityBoundingSet": "", "LimitMEMLOCK": "infinity", "LimitCORE": "0", "UMask": "0077",
		"User": "keygate", "MemoryDenyWriteExecute": "yes", "StateDirectoryMode": "0700",
		"LoadCredential": "pin:/etc/keygate/pin",
		"Environment":    "KEYGATE_PIN_FILE=/run/credentials/keygate.service/pin", // where it is, not what
	} {
		if got := settings[key]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	for _, secret := range []string{"EnvironmentFile", "PassEnvironment", "SetCredential"} {
		if settings[secret] != nil {
			t.Errorf("%s: secrets come by LoadCredential", secret)
		}
	}
}

// The unit says what the server says of itself: the exit code for a PIN that was
// refused, and the time in which requests are finished.
func TestUnitKnowsTheServer(t *testing.T) {
	settings := unit(t)
	main, err := os.ReadFile("../../cmd/keygate/main.go")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile(`exitPIN += (\d+)`).FindSubmatch(main)
	if code == nil || !slices.Equal(settings["RestartPreventExitStatus"], []string{string(code[1])}) {
		t.Errorf("RestartPreventExitStatus is %q, the exit code is %q", settings["RestartPreventExitStatus"], code)
	}
	const drain = 10 // seconds
	if n, err := strconv.Atoi(settings["TimeoutStopSec"][0]); err != nil || n <= drain {
		t.Errorf("TimeoutStopSec is %v (%v), not more than %d", n, err, drain)
	}
	if settings["ExecStart"][0] != "/usr/local/bin/keygate server --config /etc/keygate/config.yaml" {
		t.Errorf("ExecStart is %q", settings["ExecStart"])
	}
}

// systemd finds nothing wrong with the unit, and little exposed.
func TestSystemdAnalyze(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	text, err := os.ReadFile("keygate.service")
	if err != nil {
		t.Fatal(err)
	}
	// A program that is there in the place of the one that is not.
	text = bytes.ReplaceAll(text, []byte("ExecStart=/usr/local/bin/keygate"), []byte("ExecStart=/bin/true"))
	file := filepath.Join(t.TempDir(), "keygate.service")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", file).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("keygate.service")) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	out, err = exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", file).CombinedOutput()
	level := regexp.MustCompile(`Overall exposure level for .*`).Find(out)
	if err != nil || level == nil {
		t.Fatalf("systemd-analyze security: %v\n%s", err, out)
	}
	t.Logf("%s", level)
}

package hsm_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/keystore/fs"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
)

func TestCR18_ATokenWithoutRandomBytesMakesNoKey(t *testing.T) {
	s, cfg := shimmed(t)
	k := newKMS(t, hsmtest.Open(t, cfg), memory.New())
	_, err := k.CreateKey(t.Context(), "a", "")
	ok(t, err)
	for _, code := range []uint{pkcs11.CKR_RANDOM_NO_RNG, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_HOST_MEMORY} {
		t.Run(pkcs11.Error(code).Error(), func(t *testing.T) {
			s.fail("C_GenerateRandom", fault{code: code, times: forever})
			defer s.heal()
			dek, ciphertext, _, err := k.GenerateDataKey(t.Context(), "a", nil)
			is(t, err, kms.ErrUnavailable)
			if dek != nil || ciphertext != nil || k.Stats().BranchesMade != 0 {
				t.Error("a key was made")
			}
		})
	}
	_, _, _, err = k.GenerateDataKey(t.Context(), "a", nil)
	ok(t, err)
}

const randomHelper = "HSM_TEST_RANDOM_HELPER"

// The helper is a gateway without HTTP: it makes a key and a DEK under it.
func TestRandomHelper(t *testing.T) {
	if os.Getenv(randomHelper) == "" {
		t.Skip("it is run by TestCR18_WithoutGetrandom")
	}
	var in struct {
		HSM   hsm.Config
		Store string
	}
	ok(t, json.Unmarshal([]byte(os.Getenv(randomHelper)), &in))
	store, err := fs.Open(fs.Config{Path: in.Store}, randomCluster.String())
	ok(t, err)
	defer store.Close()
	k, err := kms.New(kms.Config{Cluster: randomCluster, Logger: quiet()}, hsmtest.Open(t, in.HSM), store)
	ok(t, err)
	_, err = k.CreateKey(t.Context(), "a", "")
	ok(t, err)
	dek, _, _, err := k.GenerateDataKey(t.Context(), "a", nil)
	ok(t, err)
	if len(dek) != kms.DataKeySize || string(dek) == string(make([]byte, len(dek))) {
		t.Fatal("no DEK")
	}
	fmt.Println("made")
}

var randomCluster = kms.ClusterID{0x18}

// A process that the system gives no random bytes ends, and has made nothing.
func TestCR18_WithoutGetrandom(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		unable(t, err)
	}
	for name, c := range map[string]struct {
		inject string
		made   bool
	}{
		"works":       {"", true},
		"interrupted": {"error=EINTR:when=1..3", true},
		"fails":       {"error=EIO", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			ok(t, fs.Init(fs.Config{Path: dir}, randomCluster.String()))
			in, err := json.Marshal(map[string]any{"HSM": hsmtest.Config(t), "Store": dir})
			ok(t, err)
			args := []string{"-f", "-qq", "-e", "trace=getrandom", "-o", filepath.Join(t.TempDir(), "trace")}
			if c.inject != "" {
				args = append(args, "-e", "inject=getrandom:"+c.inject)
			}
			cmd := exec.CommandContext(t.Context(), strace, append(args, os.Args[0], "-test.run=^TestRandomHelper$", "-test.v")...)
			cmd.Env = append(os.Environ(), randomHelper+"="+string(in), "GORACE=atexit_sleep_ms=0")
			out, err := cmd.CombinedOutput()
			made := strings.Contains(string(out), "\nmade\n")
			if made != c.made || (err == nil) != c.made {
				t.Errorf("made: %v, not %v; %v; %.2000s", made, c.made, err, out)
			}
			records, err := filepath.Glob(filepath.Join(dir, "a.*"))
			ok(t, err)
			if (len(records) == 1) != c.made || len(records) > 1 {
				t.Errorf("the store has %q", records)
			}
			if !c.made && !strings.Contains(string(out), "failed to read random data") {
				t.Errorf("it ended otherwise: %.2000s", out)
			}
		})
	}
}

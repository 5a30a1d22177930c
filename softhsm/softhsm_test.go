package softhsm_test

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/keygate/keygate/softhsm"
)

func TestTokensAreSeenByAnotherProcess(t *testing.T) {
	first, second := softhsm.Token(t), softhsm.Token(t)
	if first.Label == second.Label || first.PIN == second.PIN {
		t.Error("two tokens share a label or a PIN")
	}
	util, err := exec.LookPath("softhsm2-util")
	if err != nil {
		t.Skip(err)
	}
	cmd := exec.Command(util, "--show-slots")
	cmd.Env = []string{softhsm.ConfEnv + "=" + first.Conf}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []softhsm.Fixture{first, second} {
		if strings.Count(string(out), f.Label) != 1 {
			t.Errorf("token %s is not shown in:\n%s", f.Label, out)
		}
		pin, err := os.ReadFile(f.PINFile)
		if err != nil || string(pin) != f.PIN+"\n" {
			t.Errorf("the PIN file holds %q, %v", pin, err)
		}
	}
}

func TestTokensCanBeMadeConcurrently(t *testing.T) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { softhsm.Token(t) })
	}
	wg.Wait()
}

func TestTheModuleCanBeNamedByTheEnvironment(t *testing.T) {
	t.Setenv("SOFTHSM2_MODULE", "/given/path.so")
	path, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	if path != "/given/path.so" {
		t.Errorf("path is %s", path)
	}
}

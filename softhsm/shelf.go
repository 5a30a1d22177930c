package softhsm

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A shelf is the token directory of this process.
type shelf struct {
	dir    string
	conf   string
	tokens string
}

// The process has one environment, so it has one shelf.
var (
	mu      sync.Mutex
	current shelf
	users   int
)

// share returns the shelf, and takes it down when the last test that uses it
// has ended. Roots that the tests opened are closed by then.
func share(tb testing.TB) shelf {
	tb.Helper()
	mu.Lock()
	defer mu.Unlock()
	if users == 0 {
		dir, err := os.MkdirTemp("", "keygate-softhsm-")
		if err != nil {
			tb.Fatal("softhsm: ", err)
		}
		current = shelf{dir: dir, conf: writeConf(tb, dir), tokens: filepath.Join(dir, "tokens")}
		os.Setenv(ConfEnv, current.conf)
	}
	users++
	tb.Cleanup(release)
	return current
}

func release() {
	mu.Lock()
	defer mu.Unlock()
	if users--; users == 0 {
		os.Unsetenv(ConfEnv)
		os.RemoveAll(current.dir)
	}
}

// writeConf makes the directory dir/tokens and a configuration that names it.
func writeConf(tb testing.TB, dir string) string {
	tb.Helper()
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		tb.Fatal("softhsm: ", err)
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", tokens)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		tb.Fatal("softhsm: ", err)
	}
	return conf
}

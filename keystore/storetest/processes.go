package storetest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/keygate/keygate/keystore"
)

// nodeEnv has the configuration of a test binary that is to be another gateway.
const nodeEnv = "STORETEST_NODE"

// Node is for a TestMain to begin with: in a process that RunProcesses has started
// it opens the store, of the configuration in JSON, obeys, and ends the process. In
// any other it returns.
func Node(open func(config []byte) (keystore.Store, error)) {
	config := os.Getenv(nodeEnv)
	if config == "" {
		return
	}
	s, err := open([]byte(config))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(obey(s, strings.Fields(lines.Text())))
	}
	os.Exit(0)
}

// obey does "create NAME RECORD" or "increment NAME", and returns what came of it.
func obey(s keystore.Store, words []string) string {
	ctx := context.Background()
	var err error
	switch words[0] {
	case "create":
		err = s.Create(ctx, words[1], []byte(words[2]))
	case "increment":
		err = incrementAnyway(ctx, s, words[1])
	}
	switch {
	case err == nil:
		return "done"
	case errors.Is(err, keystore.ErrExists):
		return "exists"
	}
	return err.Error()
}

// incrementAnyway adds one to the record of name, whatever others do meanwhile.
func incrementAnyway(ctx context.Context, s keystore.Store, name string) error {
	for {
		err := increment(ctx, s, name)
		if !errors.Is(err, keystore.ErrConflict) {
			return err
		}
	}
}

// RunProcesses runs races between processes, each with the store of a configuration,
// which Node gets in JSON. s is the same store in this one.
func RunProcesses(t *testing.T, s keystore.Store, config any, rounds int) {
	all := make([]process, nodes)
	for i := range all {
		all[i] = startProcess(t, config)
	}
	t.Run("KS-15 of 8 concurrent creates one succeeds", func(t *testing.T) {
		for round := range rounds {
			name := fmt.Sprintf("round-%d", round)
			for i, p := range all {
				p.send(fmt.Sprintf("create %s node-%d", name, i))
			}
			var winners []string
			for i, p := range all {
				switch answer := p.wait(); answer {
				case "done":
					winners = append(winners, fmt.Sprintf("node-%d", i))
				case "exists":
				default:
					t.Fatalf("round %d: node %d: %s", round, i, answer)
				}
			}
			if len(winners) != 1 {
				t.Fatalf("round %d: winners %q", round, winners)
			}
			holds(t, s, name, []byte(winners[0]))
		}
	})
	t.Run("KS-13 concurrent updates lose nothing", func(t *testing.T) {
		const each = 10
		create(t, s, "count", []byte("0"))
		for range each {
			for _, p := range all {
				p.send("increment count")
			}
		}
		for i, p := range all {
			for range each {
				if answer := p.wait(); answer != "done" {
					t.Fatalf("node %d: %s", i, answer)
				}
			}
		}
		holds(t, s, "count", fmt.Append(nil, each*nodes))
	})
}

// A process is another gateway.
type process struct {
	send func(command string)
	wait func() string // for the answer
}

func startProcess(t *testing.T, config any) process {
	t.Helper()
	text, err := json.Marshal(config)
	want(t, "configuration", err, nil)
	cmd := exec.Command(os.Args[0])
	// A process with the race detector sleeps for a second before it exits, unless
	// told otherwise.
	cmd.Env = append(os.Environ(), nodeEnv+"="+string(text), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	want(t, "start", err, nil)
	out, err := cmd.StdoutPipe()
	want(t, "start", err, nil)
	want(t, "start", cmd.Start(), nil)
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	lines := bufio.NewScanner(out)
	return process{
		send: func(command string) { fmt.Fprintln(in, command) },
		wait: func() string { lines.Scan(); return lines.Text() },
	}
}

package hsm_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/kms"
)

// hostileEnv says how a worker process lies: one whose module somebody else controls.
const hostileEnv = "KEYGATE_TEST_HOSTILE"

// beHostile is the main function of such a worker. What begins with "ready" first says
// that it can be used.
func beHostile(how string) {
	socket := os.NewFile(3, "gateway")
	conn, err := net.FileConn(socket)
	if err != nil {
		os.Exit(1)
	}
	how, late := strings.CutPrefix(how, "ready: ")
	if late {
		_, _ = conn.Write(hsm.Frame(hsm.FrameReady, 0, []byte(`{}`)))
		_, _ = conn.Read(make([]byte, 1<<16)) // the hello, or the first op
		time.Sleep(100 * time.Millisecond)
	}
	say := func(b []byte) { _, _ = conn.Write(b) }
	switch how {
	case "garbage":
		say(bytes.Repeat([]byte{0x5a}, 1<<16))
	case "oversize":
		say([]byte{0x7f, 0xff, 0xff, 0xff, hsm.FrameAnswer, 0, 0, 0, 0, 0, 0, 0, 0})
	case "unknown kind":
		say(hsm.Frame(250, 0, nil))
	case "bad status":
		say(hsm.Frame(hsm.FramePong, 0, []byte(`{"Stats":`)))
	case "bad memory":
		say(hsm.Frame(hsm.FrameMemory, 0, []byte(`[]`)))
	case "bad error":
		say(hsm.Frame(hsm.FrameFailed, 0, []byte{1, 2, 3}))
	case "bad answer":
		say(hsm.Frame(hsm.FrameAnswer, 0, []byte{0xff, 0xff, 0xff, 0xff}))
	case "login without a PIN":
		say(hsm.Frame(hsm.FrameLogin, 0, nil))
	case "two logins":
		say(hsm.Frame(hsm.FrameAskPIN, 1, nil))
		say(hsm.Frame(hsm.FrameAskPIN, 2, nil))
	case "silence":
	case "answers that nobody wants":
		for i := range uint64(200_000) {
			say(hsm.Frame(hsm.FrameAnswer, 1<<40+i, binary.BigEndian.AppendUint32(nil, 1)))
		}
	case "a flood of words":
		line := []byte(strings.Repeat("word ", 2000) + "\n")
		for range 5000 {
			_, _ = os.Stderr.Write(line)
			say(hsm.Frame(hsm.FrameLog, 0, []byte(`{"Text":"word"}`)))
		}
	case "half a frame":
		whole := hsm.Frame(hsm.FrameAnswer, 0, make([]byte, 1000))
		say(whole[:500])
	}
	_, _ = io.Copy(io.Discard, conn)
	os.Exit(0)
}

// A worker that says what no worker says is ended. It costs the gateway no crash, and
// not more memory than a frame or two.
func TestHS21_AHostileWorker(t *testing.T) {
	_, cfg := initialised(t)
	cfg.Timeout = 200 * time.Millisecond
	t.Run("before it is ready", func(t *testing.T) {
		for _, how := range []string{"garbage", "oversize", "unknown kind", "bad status", "bad memory", "bad error", "bad answer", "login without a PIN", "two logins"} {
			t.Setenv(hostileEnv, how)
			begun := time.Now()
			is(t, refused(t, isolated(cfg)), kms.ErrUnavailable)
			if took := time.Since(begun); took > 2*time.Second {
				t.Errorf("%s: ended after %v", how, took)
			}
		}
	})
	for _, how := range []string{"garbage", "oversize", "bad answer", "silence", "answers that nobody wants", "a flood of words", "half a frame"} {
		t.Run(how, func(t *testing.T) {
			t.Setenv(hostileEnv, "ready: "+how)
			var log syncBuffer
			before := resident(t)
			r, err := hsm.Open(t.Context(), isolated(cfg), slog.New(slog.NewJSONHandler(&log, nil)))
			ok(t, err)
			for range 3 {
				if _, err := r.Encrypt(t.Context(), make([]byte, 64), nil, nil); err == nil {
					t.Error("it encrypts")
				}
			}
			_ = r.Stats()
			_ = r.Close()
			if grown := resident(t) - before; grown > 32<<20 && !raceEnabled {
				t.Errorf("it left %d MiB", grown>>20)
			}
			if n := len(log.String()); n > 100<<10 {
				t.Errorf("%d bytes were logged", n)
			}
		})
	}
}

// Worker processes leave nothing behind in the gateway: 25 of them, or 100 with
// KEYGATE_LONG.
func TestWorkersLeaveNothing(t *testing.T) {
	_, cfg := initialised(t)
	n := 25
	if os.Getenv("KEYGATE_LONG") != "" {
		n = 100
	}
	start := func() {
		pid, err := hsm.StartAndKillWorker(t.Context(), isolated(cfg))
		ok(t, err)
		if _, err := os.Stat("/proc/" + pid); err == nil {
			t.Errorf("process %s is still there", pid)
		}
	}
	start()
	time.Sleep(200 * time.Millisecond) // what closes late has closed
	before := descriptors(t)
	for range n {
		start()
	}
	waitFor(t, func() bool { return len(descriptors(t)) <= len(before) })
}

func descriptors(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	ok(t, err)
	var all []string
	for _, e := range entries {
		to, _ := os.Readlink("/proc/self/fd/" + e.Name())
		all = append(all, to)
	}
	slices.Sort(all)
	return all
}

package hsm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/kms/roottest"
)

func isolated(cfg hsm.Config) hsm.Config {
	cfg.Isolation = hsm.IsolationWorker
	return cfg
}

func TestRootInAWorker(t *testing.T) {
	roottest.Run(t, func(t *testing.T) kms.Root { return hsmtest.Open(t, isolated(hsmtest.Config(t))) })
}

// openIsolated is openFaulty with the module in a worker.
func openIsolated(t *testing.T) faulty {
	t.Helper()
	s, cfg := shimmed(t)
	cfg.Timeout = 5 * time.Second // ops wait for the next worker, also on a machine that does too much
	return faultyOf(t, s, isolated(cfg))
}

func faultyOf(t *testing.T, s *shim, cfg hsm.Config) faulty {
	t.Helper()
	f := faulty{shim: s, root: hsmtest.Open(t, cfg)}
	t.Cleanup(s.heal)
	f.handle = newKey(t, f.root, kms.Encryption)
	f.ciphertext = f.encrypt()
	return f
}

// The gateway's process never loads the module.
func TestHS21_OnlyTheWorkerHasTheModule(t *testing.T) {
	f := openIsolated(t)
	maps := func(pid string) string {
		b, err := os.ReadFile("/proc/" + pid + "/maps")
		ok(t, err)
		return string(b)
	}
	if strings.Contains(maps("self"), f.module) {
		t.Error("this process has the module")
	}
	if !strings.Contains(maps(strconv.Itoa(f.root.WorkerPID())), f.module) {
		t.Error("the worker does not have it: the test is wrong")
	}
}

// A module that crashes costs nobody anything but time: the op in it is done by the
// next worker.
func TestHS21_AModuleThatCrashes(t *testing.T) {
	f := openIsolated(t)
	record, err := f.root.MAC(t.Context(), nil, []byte("record"))
	ok(t, err)
	for i, test := range []struct {
		function string
		use      func() error
	}{
		{"C_Encrypt", func() error { f.encrypt(); return nil }},
		{"C_Decrypt", f.decrypt},
		{"C_Sign", func() error { _, err := f.root.MAC(t.Context(), nil, []byte("record")); return err }},
		{"C_GenerateRandom", func() error { return f.root.Random(t.Context(), make([]byte, 32)) }},
	} {
		f.fail(test.function, fault{abort: true, trap: i%2 == 1, times: 1})
		begun := time.Now()
		if err := test.use(); err != nil {
			t.Errorf("%s: %v", test.function, err)
		}
		t.Logf("%s: answered after %v", test.function, time.Since(begun))
		if left := f.left(test.function); left != 0 {
			t.Errorf("%s did not crash", test.function)
		}
		if s := f.root.Stats(); s.Restarts != uint64(i+1) || s.Retries < uint64(i+1) {
			t.Errorf("%d workers were started anew, and %d ops tried again", s.Restarts, s.Retries)
		}
	}
	ok(t, f.decrypt())
	again, err := f.root.MAC(t.Context(), nil, []byte("record"))
	ok(t, err)
	if again != record {
		t.Error("the record key is another one")
	}
}

// Wherever the making of a key is cut off, the handle that comes in the end is good.
func TestHS21_ACrashWhileAKeyIsMade(t *testing.T) {
	f := openIsolated(t)
	for _, function := range []string{"C_GenerateKey", "C_WrapKey", "C_UnwrapKey", "C_DestroyObject"} {
		f.fail(function, fault{abort: true, times: 1})
		handle, err := f.root.NewKey(t.Context(), kms.KeyID{2}, kms.Encryption)
		ok(t, err)
		if left := f.left(function); left != 0 {
			t.Errorf("%s did not crash", function)
		}
		ciphertext, err := f.root.Encrypt(t.Context(), handle, []byte("plaintext"), nil)
		ok(t, err)
		got, err := f.root.Decrypt(t.Context(), handle, ciphertext, nil)
		ok(t, err)
		if string(got) != "plaintext" {
			t.Errorf("plaintext is %q", got)
		}
		ok(t, f.decrypt()) // under a key of before
	}
}

// Of a key that is to stay in the token a crash leaves none behind: the gateway has the
// next worker destroy what the one before it may have made, by the names that it gave it.
func TestHS21_ACrashWhileAKeyIsMadeInTheToken(t *testing.T) {
	s, cfg := residentShim(t)
	cfg.Timeout = 5 * time.Second
	r := hsmtest.Open(t, isolated(cfg))
	var handles [][]byte
	for i, function := range []string{"C_GetAttributeValue", "C_EncryptInit", "C_Decrypt"} {
		s.fail(function, fault{abort: true, times: 1})
		handle, err := r.NewKey(t.Context(), kms.KeyID{byte(i)}, kms.Encryption)
		ok(t, err)
		if left := s.left(function); left != 0 {
			t.Errorf("%s did not crash", function)
		}
		_, err = r.Encrypt(t.Context(), handle, []byte("plaintext"), nil)
		ok(t, err)
		handles = append(handles, handle)
	}
	waitFor(t, func() bool { return len(residents(t, cfg)) == len(handles) })
	are(t, residents(t, cfg), handles...)
}

// A module that crashes whatever it is asked is started ever less often, and an op is
// tried twice.
func TestHS21_AModuleThatAlwaysCrashes(t *testing.T) {
	f := openIsolated(t)
	f.fail("C_Encrypt", fault{abort: true})
	begun := time.Now()
	_, err := f.root.Encrypt(t.Context(), f.handle, nil, nil)
	is(t, err, kms.ErrUnavailable)
	time.Sleep(2*time.Second - time.Since(begun))
	// The probe of each new worker crashes: at 0, 50, 150, 350, 750 and 1550 ms.
	if n := f.calls("C_EncryptInit"); n > 20 {
		t.Errorf("%d calls", n)
	}
	f.heal()
	waitFor(t, func() bool { return f.decrypt() == nil })
}

// under runs 8 callers that encrypt and decrypt while fn runs. It returns the errors,
// and how long no op had succeeded at the most.
func (f faulty) under(fn func()) (errs []error, gap time.Duration) {
	f.t.Helper()
	var mu sync.Mutex
	var stop atomic.Bool
	last := time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for !stop.Load() {
				ciphertext, err := f.root.Encrypt(f.t.Context(), f.handle, []byte("plaintext"), nil)
				var got []byte
				if err == nil {
					got, err = f.root.Decrypt(f.t.Context(), f.handle, ciphertext, nil)
				}
				mu.Lock()
				if err != nil {
					errs = append(errs, err)
				} else {
					gap = max(gap, time.Since(last))
					last = time.Now()
				}
				mu.Unlock()
				if err == nil && string(got) != "plaintext" {
					f.t.Errorf("a plaintext came back as %q", got)
				}
			}
		})
	}
	fn()
	stop.Store(true)
	wg.Wait()
	return errs, gap
}

// times returns how often a worker is killed: 20 times with KEYGATE_LONG.
func times() int {
	if os.Getenv("KEYGATE_LONG") != "" {
		return 20
	}
	return 3
}

// A worker that is killed, or stopped, under load is replaced, and no op of a single
// token fails: each is done once more in the next one.
func TestHS21_AWorkerThatIsKilledOrStopped(t *testing.T) {
	for _, test := range []struct {
		signal syscall.Signal
		notice time.Duration
	}{{syscall.SIGKILL, 0}, {syscall.SIGSTOP, hsm.StallTime}} {
		t.Run(test.signal.String(), func(t *testing.T) {
			f := openIsolated(t)
			var worst time.Duration
			before := f.root.Stats()
			errs, gap := f.under(func() {
				for range times() {
					time.Sleep(1100 * time.Millisecond) // so that the next one is started at once
					pid := f.root.WorkerPID()
					begun := time.Now()
					ok(t, syscall.Kill(pid, test.signal))
					waitFor(t, func() bool { now := f.root.WorkerPID(); return now != 0 && now != pid })
					worst = max(worst, time.Since(begun))
					after := f.root.Stats()
					if after.Calls < before.Calls || after.Connections <= before.Connections || after.Logins <= before.Logins || after.Retries < before.Retries {
						t.Errorf("a counter went back: %+v, and then %+v", before, after)
					}
					before = after
				}
			})
			t.Logf("%v, %d times: %d errors; the next worker was there after %v at the most, and for %v no op ended well", test.signal, times(), len(errs), worst, gap)
			for _, err := range errs {
				t.Errorf("an op failed: %v", err)
			}
			if n := f.root.Stats().Restarts; n != uint64(times()) {
				t.Errorf("%d workers were started anew", n)
			}
			limit := time.Second + test.notice
			if raceEnabled {
				limit *= 2
			}
			if worst > limit {
				t.Errorf("the next worker was there after %v", worst)
			}
		})
	}
}

// With two tokens in two workers nobody waits for the one that stands still.
func TestHS21_AWorkerOfAGroupThatStops(t *testing.T) {
	_, cfg := pair(t)
	root := hsmtest.Open(t, isolated(cfg))
	f := faulty{shim: &shim{t: t}, root: root, handle: newKey(t, root, kms.Encryption)}
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		errs, gap := f.under(func() {
			time.Sleep(300 * time.Millisecond)
			pid := root.WorkerPID()
			ok(t, syscall.Kill(pid, signal))
			waitFor(t, func() bool { now := root.WorkerPID(); return now != 0 && now != pid && root.Tokens()[0].Works })
		})
		t.Logf("%v: for %v no op ended well", signal, gap)
		for _, err := range errs {
			t.Errorf("%v: an op failed: %v", signal, err)
		}
	}
}

// Calls that hang in the module end with the worker, which is replaced when too many
// do: in this process they would be there for ever.
func TestHS06_AModuleThatHangsIsLoadedAnew(t *testing.T) {
	s, cfg := shimmed(t)
	f := faultyOf(t, s, isolated(cfg))
	f.fail("C_Encrypt", fault{sleep: time.Hour})
	pid := f.root.WorkerPID()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := f.root.Encrypt(t.Context(), f.handle, nil, nil); err != nil && !errors.Is(err, kms.ErrUnavailable) {
				t.Errorf("error is %v", err)
			}
		})
	}
	waitFor(t, func() bool { return f.root.WorkerPID() != pid })
	f.heal()
	wg.Wait()
	f.recovers()
	if s := f.root.Stats(); s.Restarts == 0 || s.Hung != 0 {
		t.Errorf("%d workers were started anew, and %d calls hang", s.Restarts, s.Hung)
	}
}

func TestAWorkerIgnoresSignalsThatMeanTheGateway(t *testing.T) {
	f := openIsolated(t)
	pid := f.root.WorkerPID()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		ok(t, syscall.Kill(pid, signal))
	}
	time.Sleep(100 * time.Millisecond)
	ok(t, f.decrypt())
	if now := f.root.WorkerPID(); now != pid {
		t.Error("the worker was replaced")
	}
	if group, err := syscall.Getpgid(pid); err != nil || group != pid {
		t.Errorf("it is in the process group %d, %v", group, err)
	}
}

// A PIN that was refused is tried once, however many workers ask for it.
func TestF26_ARefusedPINIsTriedOnceOverAllWorkers(t *testing.T) {
	s, cfg := shimmed(t)
	good, err := os.ReadFile(cfg.PIN.File)
	ok(t, err)
	cfg.PIN.File = pinFile(t, string(good), 0o600)
	f := faultyOf(t, s, isolated(cfg))
	before := f.calls("C_Login")
	ok(t, os.WriteFile(cfg.PIN.File, []byte(wrongPIN), 0o600))
	kill(t, f)
	waitFor(t, func() bool { return errors.Is(f.decrypt(), kms.ErrDenied) })
	for range 5 {
		time.Sleep(100 * time.Millisecond) // workers are started all the time
		is(t, f.decrypt(), kms.ErrDenied)
	}
	if got := f.calls("C_Login") - before; got != 1 {
		t.Errorf("%d calls of C_Login, not 1", got)
	}
	waitFor(t, func() bool { st := f.root.Stats(); return st.PINsRefused == 1 && st.PINsWithheld > 0 })
	ok(t, os.WriteFile(cfg.PIN.File, good, 0o600))
	f.recovers()
}

func kill(t *testing.T, f faulty) {
	t.Helper()
	pid := f.root.WorkerPID()
	ok(t, syscall.Kill(pid, syscall.SIGKILL))
	waitFor(t, func() bool { return f.root.WorkerPID() != pid })
}

// If the worker ends during C_Login, the token may have refused the PIN. One that it
// has accepted before is tried again, another is not.
func TestF26_ACrashDuringALogin(t *testing.T) {
	s, cfg := shimmed(t)
	good, err := os.ReadFile(cfg.PIN.File)
	ok(t, err)
	cfg.PIN.File = pinFile(t, wrongPIN, 0o600)
	s.fail("C_Login", fault{abort: true, times: 1})
	is(t, refused(t, isolated(cfg)), kms.ErrUnavailable)
	if got := s.calls("C_Login"); got != 1 {
		t.Errorf("%d calls of C_Login, not 1", got)
	}
	ok(t, os.WriteFile(cfg.PIN.File, good, 0o600))
	cfg.Timeout = 5 * time.Second
	f := faultyOf(t, s, isolated(cfg))
	before := s.calls("C_Login")
	s.fail("C_Login", fault{abort: true, times: 2})
	kill(t, f)
	f.recovers() // with the PIN that was accepted
	if got := s.calls("C_Login") - before; got != 3 {
		t.Errorf("%d calls of C_Login, not 3", got)
	}
	s.fail("C_Login", fault{abort: true, times: forever})
	ok(t, os.WriteFile(cfg.PIN.File, []byte(wrongPIN), 0o600))
	before = s.calls("C_Login")
	kill(t, f)
	waitFor(t, func() bool { err := f.decrypt(); return err != nil && strings.Contains(err.Error(), "not tried again") })
	time.Sleep(300 * time.Millisecond)
	if got := s.calls("C_Login") - before; got != 1 {
		t.Errorf("%d calls of C_Login, not 1", got)
	}
	s.heal()
	ok(t, os.WriteFile(cfg.PIN.File, good, 0o600))
	f.recovers()
}

const (
	parentEnv   = "KEYGATE_TEST_WORKER_PARENT"
	parentReady = "the worker is "
)

// In a child process, TestWorkerParentChild opens a root in a worker, has a call hang
// there if it is told to, and waits to be killed.
func TestWorkerParentChild(t *testing.T) {
	mode := os.Getenv(parentEnv)
	if mode == "" {
		t.Skip("the child of TestAWorkerEndsWithItsGateway")
	}
	cfg := isolated(hsm.Config{Module: os.Getenv("MODULE"), Token: os.Getenv("TOKEN"), PIN: hsm.PIN{Env: pinEnv}, Timeout: time.Minute})
	r, err := hsm.Open(t.Context(), cfg, quiet())
	ok(t, err)
	fmt.Println(parentReady + strconv.Itoa(r.WorkerPID()))
	if mode == "hang" {
		for range 1_000_000 {
			_, _ = r.MAC(t.Context(), nil, nil)
		}
	}
	select {}
}

// A gateway that is killed takes its worker along, also one whose module hangs, or that
// is stopped.
func TestAWorkerEndsWithItsGateway(t *testing.T) {
	s, cfg := shimmed(t)
	pin, err := os.ReadFile(cfg.PIN.File)
	ok(t, err)
	for _, mode := range []string{"idle", "hang", "stop"} {
		t.Run(mode, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestWorkerParentChild$")
			secret := strings.TrimSpace(string(pin))
			cmd.Env = append(os.Environ(), parentEnv+"="+mode, pinEnv+"="+secret, "MODULE="+s.module, "TOKEN="+cfg.Token)
			out, err := cmd.StdoutPipe()
			ok(t, err)
			ok(t, cmd.Start())
			t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
			line := make([]byte, 100)
			n, err := out.Read(line)
			ok(t, err)
			text, found := strings.CutPrefix(strings.TrimSpace(string(line[:n])), parentReady)
			pid, err := strconv.Atoi(text)
			if !found || err != nil {
				t.Fatalf("the child says %q", line[:n])
			}
			for _, file := range []string{"environ", "cmdline"} {
				b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
				ok(t, err)
				if len(b) == 0 || bytes.Contains(b, []byte(secret)) || bytes.Contains(b, []byte(pinEnv)) {
					t.Errorf("%s of the worker is empty or has the PIN", file)
				}
			}
			switch mode {
			case "hang":
				s.fail("C_Sign", fault{sleep: time.Hour})
				defer s.heal()
				waitFor(t, func() bool { return s.inside("C_Sign") > 0 })
			case "stop":
				ok(t, syscall.Kill(pid, syscall.SIGSTOP))
				// When its group is orphaned the kernel continues a process that is
				// stopped, not one that is about to be: setpgid(2), POSIX _exit.
				waitFor(t, func() bool {
					status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
					return err == nil && bytes.Contains(status, []byte("State:\tT"))
				})
			}
			begun := time.Now()
			ok(t, cmd.Process.Kill())
			for alive(pid) {
				if time.Since(begun) > time.Second {
					_ = syscall.Kill(pid, syscall.SIGKILL)
					t.Fatal("the worker is there a second after its gateway")
				}
				time.Sleep(time.Millisecond)
			}
			t.Logf("the worker ended after %v", time.Since(begun))
		})
	}
}

// alive reports whether a process runs: one that has ended but was not waited for,
// by an init that does not, does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	rest := stat[bytes.LastIndexByte(stat, ')')+1:]
	return !bytes.HasPrefix(rest, []byte(" Z")) && !bytes.HasPrefix(rest, []byte(" X"))
}

func TestOpenOfAWorkerEndsWithItsContext(t *testing.T) {
	s, cfg := shimmed(t)
	s.fail("C_GetTokenInfo", fault{sleep: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err := hsm.Open(ctx, isolated(cfg), quiet())
	is(t, err, kms.ErrUnavailable)
	is(t, err, context.DeadlineExceeded)
	if took := time.Since(begun); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// What Open says of a token that it refuses is the same, with the module in a worker.
func TestAWorkerRefusesWhatATokenInThisProcessDoes(t *testing.T) {
	cfg := hsmtest.Empty(t)
	for name, change := range map[string]func(*hsm.Config){
		"no root keys":   func(*hsm.Config) {},
		"no such module": func(c *hsm.Config) { c.Module = "/nonexistent/module.so" },
		"no such token":  func(c *hsm.Config) { c.Token = "another" },
		"wrong PIN":      func(c *hsm.Config) { c.PIN = hsm.PIN{File: pinFile(t, wrongPIN, 0o400)} },
	} {
		t.Run(name, func(t *testing.T) {
			here := cfg
			change(&here)
			want, got := refused(t, here), refused(t, isolated(here))
			if got.Error() != want.Error() {
				t.Errorf("%q, and in a worker %q", want, got)
			}
			for _, mark := range []error{kms.ErrUnavailable, kms.ErrDenied, hsm.ErrPIN} {
				if errors.Is(got, mark) != errors.Is(want, mark) {
					t.Errorf("%v: %v, and in a worker %v", mark, errors.Is(want, mark), errors.Is(got, mark))
				}
			}
		})
	}
}

// What a module prints is in the log of the gateway.
func TestWhatAWorkerWritesIsLogged(t *testing.T) {
	s, cfg := shimmed(t)
	var log syncBuffer
	r, err := hsm.Open(t.Context(), isolated(cfg), slog.New(slog.NewJSONHandler(&log, nil)))
	ok(t, err)
	defer r.Close()
	pid := r.WorkerPID()
	s.fail("C_Sign", fault{abort: true, times: 1})
	ok(t, r.Status(t.Context()))
	waitFor(t, func() bool {
		text := log.String()
		return strings.Contains(text, "SIGABRT") && strings.Contains(text, fmt.Sprintf(`"pid":%d`, pid)) && strings.Contains(text, "another one is started")
	})
	if text := log.String(); strings.Contains(text, "rax") || strings.Contains(text, "(0x") || !strings.Contains(text, "hsm.session.mac") {
		t.Errorf("registers or arguments are in the log, or functions are not: %s", text)
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

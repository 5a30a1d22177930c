package hsm_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

const ckrUserNotLoggedIn = pkcs11.CKR_USER_NOT_LOGGED_IN

// HS-10: whatever fails while what failed before is being repaired.
func TestHS10_FaultsWhileTheRootRecovers(t *testing.T) {
	f := openFaulty(t)
	seed := rand.Uint64()
	if text := os.Getenv("KEYGATE_TEST_SEED"); text != "" { // of a run that failed
		_, err := fmt.Sscan(text, &seed)
		ok(t, err)
	}
	random := rand.New(rand.NewPCG(seed, 0))
	rounds, slowest := 100, time.Duration(0)
	for round := range rounds {
		var text string
		for range 1 + random.IntN(4) {
			function := matrixFunctions[random.IntN(len(matrixFunctions))]
			code := matrixCodes[random.IntN(len(matrixCodes))]
			if function.name == "C_Login" && hsm.ClassOf(function.name, code) == "PIN" {
				continue // which no repair may get over
			}
			fault := fault{code: code, times: 1 + random.IntN(4), skip: random.IntN(4)}
			f.fail(function.name, fault)
			text += fmt.Sprintf("; %s %s %+v", function.name, codeName(code), fault)
		}
		f.fail("C_EncryptInit", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1 + random.IntN(3)})
		for range 5 {
			ciphertext, err := f.root.Encrypt(t.Context(), f.handle, []byte("plaintext"), nil)
			switch {
			case err == nil:
				f.ciphertext = ciphertext
			case errors.Is(err, kms.ErrCiphertext) || errors.Is(err, kms.ErrCorrupt) || !errors.Is(err, kms.ErrUnavailable):
				t.Fatalf("seed %d, round %d%s: %v", seed, round, text, err)
			}
		}
		f.heal()
		begin := time.Now()
		f.recovers()
		slowest = max(slowest, time.Since(begin))
	}
	t.Logf("seed %d: %d rounds, the slowest recovery took %v; %d connections", seed, rounds, slowest.Round(time.Millisecond), f.root.Stats().Connections)
}

// HS-13: a device that fails for ever is asked at most once a second, and told of
// once. KEYGATE_LONG=1: for a minute.
func TestHS13_ADeviceThatFailsForEverIsOneAlarm(t *testing.T) {
	watch := 2 * time.Second
	if os.Getenv("KEYGATE_LONG") == "1" {
		watch = time.Minute
	}
	s, cfg := shimmed(t)
	var log syncBuffer
	r, err := hsm.Open(t.Context(), cfg, slog.New(slog.NewJSONHandler(&log, nil)))
	ok(t, err)
	defer r.Close()
	f := faulty{shim: s, root: r, handle: newKey(t, r, kms.Encryption)}
	f.ciphertext = f.encrypt()
	for _, function := range []string{"C_OpenSession", "C_EncryptInit", "C_DecryptInit", "C_SignInit"} {
		f.fail(function, fault{code: pkcs11.CKR_DEVICE_ERROR, times: forever})
	}
	stop := make(chan struct{})
	var asked atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				if err := f.decrypt(); !errors.Is(err, kms.ErrUnavailable) {
					t.Errorf("error is %v", err)
				}
				asked.Add(1)
			}
		})
	}
	time.Sleep(1600 * time.Millisecond) // until it is asked as seldom as it ever is
	before := r.Stats().Failures
	time.Sleep(watch)
	attempts := r.Stats().Failures - before
	close(stop)
	wg.Wait()
	if most := uint64(watch/time.Second) + 1; attempts > most {
		t.Errorf("%d attempts to connect in %v", attempts, watch)
	}
	f.heal()
	f.recovers()
	levels := map[string]int{}
	for line := range strings.Lines(log.String()) {
		var entry struct{ Level, Msg string }
		ok(t, json.Unmarshal([]byte(line), &entry))
		levels[entry.Level]++
	}
	if levels["ERROR"] != 1 || levels["INFO"] != 1 || len(levels) != 2 {
		t.Errorf("%d requests are these lines in the log: %s", asked.Load(), log.String())
	}
}

// F26, HS-14: a PIN that the token refuses is given to it once, over requests,
// connections and initialisations of the module; another one in its file is tried,
// once; and with the right one all goes on.
func TestF26_ABadPINIsOneLogin(t *testing.T) {
	s, cfg := shimmed(t)
	pin := filepath.Join(t.TempDir(), "pin")
	write := func(text string) { ok(t, os.WriteFile(pin, []byte(text), 0o600)) }
	write(s.fixture.PIN)
	cfg.PIN = hsm.PIN{File: pin}
	f := faulty{shim: s, root: hsmtest.Open(t, cfg)}
	f.handle = newKey(t, f.root, kms.Encryption)
	f.ciphertext = f.encrypt()
	f.reinitialized() // so that it must log in to connect again
	logins := func(what string, before, want int) {
		t.Helper()
		if got := f.calls("C_Login") - before; got != want {
			t.Errorf("%s: %d calls of C_Login, not %d", what, got, want)
		}
	}
	refusing := func(d time.Duration) {
		t.Helper()
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
			f.fail("C_GetSlotList", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
			err := f.decrypt()
			if !errors.Is(err, kms.ErrDenied) && !errors.Is(err, kms.ErrUnavailable) {
				t.Fatalf("error is %v", err)
			}
		}
	}
	before := f.calls("C_Login")
	write(wrongPIN)
	f.logOut()
	f.fail("C_DecryptInit", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
	initialisations := f.calls("C_Initialize")
	refusing(700 * time.Millisecond)
	logins("a wrong PIN", before, 1)
	if n := f.calls("C_Initialize") - initialisations; n < 2 {
		t.Errorf("the module was initialised %d times meanwhile: the test shows nothing", n)
	}
	write(wrongPIN + "2")
	refusing(1200 * time.Millisecond)
	logins("and another wrong PIN", before, 2)
	ok(t, os.Remove(pin))
	refusing(1200 * time.Millisecond)
	logins("and no PIN", before, 2)
	write(s.fixture.PIN)
	f.heal()
	f.recovers()
	logins("and the right one", before, 3)
}

// HS-20: everything at the same time. KEYGATE_LONG=1: for ten minutes.
func TestHS20_64GoroutinesDoEverything(t *testing.T) {
	last := 2 * time.Second
	if os.Getenv("KEYGATE_LONG") == "1" {
		last = 10 * time.Minute
	}
	s, cfg := shimmed(t)
	cfg.Sessions, cfg.Keys, cfg.Timeout = 16, 12, 5*time.Second // fewer keys than are in use
	cfg.Queue.Wait = 5 * time.Second
	m := &matrix{faulty: faulty{shim: s, root: hsmtest.Open(t, cfg)}, ctx: t.Context()}
	m.prepare()
	const workers = 64
	var done [workers]int
	var wg sync.WaitGroup
	end := time.Now().Add(last)
	for i := range workers {
		wg.Go(func() {
			w := &matrix{faulty: m.faulty, ctx: m.ctx, macKey: m.macKey, mac: m.mac, rec: m.rec}
			w.keys = append([]matrixKey(nil), m.keys...)
			for time.Now().Before(end) {
				if !w.round() || w.found.Wrong != nil {
					t.Errorf("worker %d, round %d: told %s; %v", i, done[i], w.found.Told, w.found.Wrong)
					return
				}
				w.keys = w.keys[:min(len(w.keys), 40)]
				for _, k := range w.keys[len(w.keys)-2:] {
					if err := w.opens(k); err != nil {
						t.Errorf("worker %d: %v", i, err)
						return
					}
				}
				done[i]++
			}
		})
	}
	wg.Wait()
	total, least := 0, done[0]
	for _, n := range done {
		total, least = total+n, min(least, n)
	}
	t.Logf("%d rounds of %d operations in %v, at least %d by each of %d goroutines", total, len(m.operations()), last, least, workers)
	if least == 0 {
		t.Error("one goroutine did nothing")
	}
	if n := m.root.Stats().LoadedKeys; n > cfg.Keys {
		t.Errorf("%d keys are loaded, not at most %d", n, cfg.Keys)
	}
}

// HS-24: a hundred initialisations in one process leave neither threads nor open
// files, and a child process that is begun meanwhile changes nothing.
func TestHS24_ManyInitialisationsLeaveNothing(t *testing.T) {
	f := openFaulty(t)
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(entries)
	}
	for range 10 {
		f.reinitialized()
	}
	threads, files := osThreads(t), open()
	for i := range 100 {
		if i%10 == 0 {
			ok(t, exec.Command("true").Run())
		}
		f.reinitialized()
		ok(t, f.decrypt())
	}
	if n := osThreads(t); n > threads+8 {
		t.Errorf("%d threads, %d before", n, threads)
	}
	if n := open(); n > files+2 {
		t.Errorf("%d open files, %d before", n, files)
	}
}

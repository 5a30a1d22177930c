package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/hsm"
	memstore "github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
)

// sessionCounts are the numbers of sessions that direct compares.
var sessionCounts = []int{1, 2, 8, hsm.DefaultSessions}

// direct compares DEKs that are made in the HSM with a loop in C that does the
// same calls with as many sessions: of the package that calls the HSM, of the
// KMS above it, and of the whole gateway.
func (b *bench) direct(ctx context.Context) error {
	loop, err := b.buildLoop(ctx)
	if err != nil {
		return err
	}
	t := b.report.table("Direct mode on SoftHSM, in one process", "sessions", "", "rate", "of the bare loop", "CPU each")
	t.note("Nothing else of this program runs meanwhile. The callers, as many as sessions, share one key.")
	for _, sessions := range sessionCounts {
		if err := b.directInProcess(ctx, t, loop, sessions); err != nil {
			return err
		}
	}
	return b.directWhole(ctx, loop)
}

// directInProcess measures the loop, package hsm and package kms in turn.
func (b *bench) directInProcess(ctx context.Context, t *table, loop string, sessions int) error {
	own, err := b.openHSM(ctx, b.state.module, sessions)
	if err != nil {
		return err
	}
	defer own.close()
	sides := []struct {
		name    string
		measure func() (figures, error)
	}{
		{"bare PKCS#11 loop in C", func() (figures, error) { return b.runLoop(ctx, loop, b.state.module, sessions) }},
		{"hsm.Root.Encrypt", func() (figures, error) { return own.measure(ctx, sessions, b.d, own.encrypt) }},
		{"kms.GenerateDataKey", func() (figures, error) { return own.measure(ctx, sessions, b.d, own.generate) }},
	}
	all := make([][]figures, len(sides))
	for range b.rounds {
		for i, s := range sides {
			f, err := s.measure()
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			all[i] = append(all[i], f)
		}
	}
	bare := median(all[0])
	for i, s := range sides {
		f := median(all[i])
		r := ratio(f.rate, bare.rate)
		t.row(fmt.Sprint(sessions), s.name, perSecond(f.rate), fmt.Sprintf("%.2f", r), micros(f.cpu))
		if i > 0 {
			b.report.verdict(r >= 0.85, fmt.Sprintf("direct mode on SoftHSM, %d sessions, %s", sessions, s.name), ">= 85 % of the bare loop", "%.0f %%", r*100)
		}
	}
	return nil
}

// An hsmSpeed is how fast the HSM of directWhole is.
type hsmSpeed struct {
	name string
	by   time.Duration // added to each C_Encrypt
}

// hsmSpeeds are SoftHSM, which works on the CPUs that TLS and the load generator
// need, and two that are as slow as hardware in the machine and over a network,
// and so leave them to these.
var hsmSpeeds = []hsmSpeed{{"SoftHSM", 0}, {"an HSM of 1 ms a call", time.Millisecond}, {"an HSM of 5 ms a call", 5 * time.Millisecond}}

// directWhole compares the loop with package kms in this process, and with a
// gateway over HTTPS, all over the shim.
func (b *bench) directWhole(ctx context.Context, loop string) error {
	s, err := b.newShim()
	if err != nil {
		return err
	}
	defer s.Close()
	c := b.directConfig(hsm.DefaultSessions)
	c.module = s.module
	g, err := b.gateway(ctx, "direct", c, s.Env()...)
	if err != nil {
		return err
	}
	defer g.stop()
	defer s.slow("C_Encrypt", 0)
	if err := g.createKey(ctx, floorKey); err != nil {
		return err
	}
	if mode, err := g.mode(ctx, floorKey); err != nil || mode != "direct" {
		return fmt.Errorf("the key is in mode %q: %w", mode, err)
	}
	for _, setting := range s.Env() {
		name, value, _ := strings.Cut(setting, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	own, err := b.openHSM(ctx, s.module, hsm.DefaultSessions)
	if err != nil {
		return err
	}
	defer own.close()
	t := b.report.table(fmt.Sprintf("Direct mode, whole gateway, %d sessions", hsm.DefaultSessions), "HSM", "", "rate", "of the bare loop", "CPU each", "p50", "p99")
	t.note("The gateway, the load generator and SoftHSM have the same CPUs; the loop and package kms have them for themselves, with as many callers as the gateway has clients.")
	for _, speed := range hsmSpeeds {
		if err := b.directAt(ctx, t, loop, s, own, g, speed); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) directAt(ctx context.Context, t *table, loop string, s *shim, own *ownHSM, g *gateway, speed hsmSpeed) error {
	if err := s.slow("C_Encrypt", speed.by); err != nil {
		return err
	}
	whole := b.load(g.target(g.state.app), http1, always(generate(floorKey)))
	const callers = 3 * hsm.DefaultSessions // so that a session has the next request while an answer is on its way
	whole.conns = callers
	var bare, inside, all []figures
	for range b.rounds {
		f, err := b.runLoop(ctx, loop, s.module, hsm.DefaultSessions, s.Env()...)
		if err != nil {
			return err
		}
		bare = append(bare, f)
		if f, err = own.measure(ctx, callers, b.d, own.generate); err != nil {
			return err
		}
		inside = append(inside, f)
		if f, err = measure(ctx, whole, g.process, b.warm, b.d); err == nil {
			err = f.clean()
		}
		if err != nil {
			return err
		}
		all = append(all, f)
	}
	floor, f := median(bare), median(inside)
	r := ratio(f.rate, floor.rate)
	t.row(speed.name, "bare PKCS#11 loop in C", perSecond(floor.rate), "1.00", micros(floor.cpu), "", "")
	t.row(speed.name, "kms.GenerateDataKey, no HTTP", perSecond(f.rate), fmt.Sprintf("%.2f", r), micros(f.cpu), "", "")
	b.report.verdict(r >= 0.85, "direct mode on "+speed.name+", package kms", ">= 85 % of the bare loop", "%.0f %%", r*100)
	f = median(all)
	r = ratio(f.rate, floor.rate)
	t.row(speed.name, "generate over HTTP/1.1", perSecond(f.rate), fmt.Sprintf("%.2f", r), micros(f.cpu), micros(f.p50), micros(f.p99))
	b.report.verdict(r >= 0.85, "direct mode on "+speed.name+", whole gateway", ">= 85 % of the bare loop", "%.0f %%", r*100)
	return nil
}

// directConfig is that of a gateway that makes every DEK in the HSM.
func (b *bench) directConfig(sessions int) config {
	c := config{sessions: sessions}
	if b.modes {
		c.mode = "direct"
	}
	return c
}

// buildLoop builds the loop in C.
func (b *bench) buildLoop(ctx context.Context) (string, error) {
	loop := filepath.Join(b.dir, "pkcs11loop")
	return loop, b.command(ctx, "cc", "-O2", "-I", "hsm", "-o", loop, filepath.Join("bench", "pkcs11loop", "pkcs11loop.c"), "-ldl", "-lpthread")
}

// runLoop runs it once.
func (b *bench) runLoop(ctx context.Context, loop, module string, sessions int, env ...string) (figures, error) {
	cmd := exec.CommandContext(ctx, loop, module, "keygate", b.state.file("pin"), strconv.Itoa(sessions),
		strconv.FormatInt(b.d.Milliseconds(), 10), strconv.Itoa(kms.DataKeySize), strconv.Itoa(envelope.AdditionalDataSize))
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return figures{}, fmt.Errorf("%w: %s", err, e.Stderr)
	}
	if err != nil {
		return figures{}, err
	}
	var calls, took, cpu float64
	if _, err := fmt.Sscan(string(out), &calls, &took, &cpu); err != nil || calls == 0 || took == 0 {
		return figures{}, fmt.Errorf("pkcs11loop: %q: %w", out, err)
	}
	return figures{rate: calls / took * 1e3, cpu: time.Duration(cpu / calls * 1e6)}, nil
}

// An ownHSM is a root in this process, a key in it, and a KMS in direct mode
// above it.
type ownHSM struct {
	root   *hsm.Root
	handle []byte
	kms    *kms.KMS
}

func (b *bench) openHSM(ctx context.Context, module string, sessions int) (o *ownHSM, err error) {
	root, err := b.openRoot(ctx, module, sessions)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.Close())
		}
	}()
	var id kms.KeyID
	rand.Read(id[:])
	handle, err := root.NewKey(ctx, id, kms.Encryption)
	if err != nil {
		return nil, err
	}
	cluster, err := kms.ParseClusterID(b.state.cluster)
	if err != nil {
		return nil, err
	}
	k, err := kms.New(kms.Config{Cluster: cluster, Mode: envelope.Direct, Logger: slog.New(slog.DiscardHandler)}, root, memstore.New())
	if err != nil {
		return nil, err
	}
	_, err = k.CreateKey(ctx, floorKey, "bench")
	return &ownHSM{root, handle, k}, err
}

func (o *ownHSM) close() { o.root.Close() }

// encrypt makes a DEK as the bare loop does.
func (o *ownHSM) encrypt(ctx context.Context, dek, additionalData []byte) error {
	rand.Read(dek)
	_, err := o.root.Encrypt(ctx, o.handle, dek, additionalData)
	return err
}

func (o *ownHSM) generate(ctx context.Context, _, _ []byte) error {
	dek, _, _, err := o.kms.GenerateDataKey(ctx, floorKey, boundContext)
	clear(dek)
	return err
}

// measure makes DEKs with as many callers as there are sessions.
func (o *ownHSM) measure(ctx context.Context, callers int, d time.Duration, makeDEK func(ctx context.Context, dek, additionalData []byte) error) (figures, error) {
	var calls atomic.Int64
	var failure atomic.Pointer[error]
	var wg sync.WaitGroup
	begin, before := time.Now(), ownCPU()
	for range callers {
		wg.Go(func() {
			// Each call has a context that can end, as that of a request.
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			dek, ad := make([]byte, kms.DataKeySize), make([]byte, envelope.AdditionalDataSize)
			n := int64(0)
			for ; time.Since(begin) < d; n++ {
				if err := makeDEK(ctx, dek, ad); err != nil {
					failure.Store(&err)
					return
				}
			}
			calls.Add(n)
		})
	}
	wg.Wait()
	took, cpu := time.Since(begin), ownCPU()-before
	if err := failure.Load(); err != nil {
		return figures{}, *err
	}
	n := calls.Load()
	return figures{rate: float64(n) / took.Seconds(), cpu: cpu / time.Duration(max(n, 1))}, nil
}

// ownCPU returns the CPU time that this process has used.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

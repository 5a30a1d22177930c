package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/kms"
)

// direct compares DEKs that are made in the HSM with a loop in C that does the
// same calls with as many sessions: of the package that calls the HSM, and of
// the whole gateway.
func (b *bench) direct(ctx context.Context) error {
	loop, err := b.buildLoop(ctx)
	if err != nil {
		return err
	}
	pkg, err := b.openHSM(ctx)
	if err != nil {
		return err
	}
	defer pkg.root.Close()
	g, err := b.gateway(ctx, "direct", b.directConfig(hsm.DefaultSessions))
	if err != nil {
		return err
	}
	defer g.stop()
	if err := g.createKey(ctx, floorKey); err != nil {
		return err
	}
	if mode, err := g.mode(ctx, floorKey); err != nil || mode != "direct" {
		return fmt.Errorf("the key is in mode %q: %w", mode, err)
	}
	whole := b.load(g.target(g.state.app), http1, always(generate(floorKey)))
	whole.conns = 2 * hsm.DefaultSessions // so that a session has the next request while an answer is on its way
	var bare, alone, all []figures
	for range b.rounds {
		f, err := b.runLoop(ctx, loop)
		if err != nil {
			return err
		}
		bare = append(bare, f)
		if f, err = pkg.measure(ctx, b.d); err != nil {
			return err
		}
		alone = append(alone, f)
		if f, err = measure(ctx, whole, g.process, b.warm, b.d); err == nil {
			err = f.clean()
		}
		if err != nil {
			return err
		}
		all = append(all, f)
	}
	b.reportDirect(median(bare), median(alone), median(all))
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

func (b *bench) reportDirect(bare, alone, whole figures) {
	t := b.report.table(fmt.Sprintf("Direct mode on SoftHSM, %d sessions", hsm.DefaultSessions), "", "rate", "of the bare loop", "CPU each", "p99")
	t.row("bare PKCS#11 loop in C", perSecond(bare.rate), "1.00", micros(bare.cpu), "")
	t.row("package hsm, no HTTP", perSecond(alone.rate), fmt.Sprintf("%.2f", ratio(alone.rate, bare.rate)), "", "")
	t.row("gateway, generate over HTTP/1.1", perSecond(whole.rate), fmt.Sprintf("%.2f", ratio(whole.rate, bare.rate)), micros(whole.cpu), micros(whole.p99))
	t.note("SoftHSM works on the CPUs that the gateway, TLS and the load generator need, too; an HSM has its own. " +
		"The first two are without load beside them.")
	const wanted = ">= 85 % of the bare loop"
	r := ratio(alone.rate, bare.rate)
	b.report.verdict(r >= 0.85, "direct mode on SoftHSM, package hsm", wanted, "%.0f %%", r*100)
	r = ratio(whole.rate, bare.rate)
	b.report.verdict(r >= 0.85, "direct mode on SoftHSM, whole gateway", wanted, "%.0f %%", r*100)
}

// buildLoop builds the loop in C.
func (b *bench) buildLoop(ctx context.Context) (string, error) {
	loop := filepath.Join(b.dir, "pkcs11loop")
	return loop, b.command(ctx, "cc", "-O2", "-I", "hsm", "-o", loop, filepath.Join("bench", "pkcs11loop", "pkcs11loop.c"), "-ldl", "-lpthread")
}

// runLoop runs it once.
func (b *bench) runLoop(ctx context.Context, loop string) (figures, error) {
	out, err := exec.CommandContext(ctx, loop, b.state.module, "keygate", b.state.file("pin"), strconv.Itoa(hsm.DefaultSessions),
		strconv.FormatInt(b.d.Milliseconds(), 10), strconv.Itoa(kms.DataKeySize), strconv.Itoa(envelope.AdditionalDataSize)).Output()
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

// An ownHSM is a root in this process and a key in it.
type ownHSM struct {
	root   *hsm.Root
	handle []byte
}

func (b *bench) openHSM(ctx context.Context) (*ownHSM, error) {
	root, err := b.openRoot(ctx, hsm.DefaultSessions)
	if err != nil {
		return nil, err
	}
	var id kms.KeyID
	rand.Read(id[:])
	handle, err := root.NewKey(ctx, id, kms.Encryption)
	if err != nil {
		root.Close()
		return nil, err
	}
	return &ownHSM{root, handle}, nil
}

// measure makes DEKs with as many callers as there are sessions.
func (o *ownHSM) measure(ctx context.Context, d time.Duration) (figures, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var calls atomic.Int64
	var failure atomic.Pointer[error]
	var wg sync.WaitGroup
	begin := time.Now()
	for range hsm.DefaultSessions {
		wg.Go(func() {
			dek, ad := make([]byte, kms.DataKeySize), make([]byte, envelope.AdditionalDataSize)
			for ctx.Err() == nil {
				rand.Read(dek)
				// The call has its own context: its end is not what is measured.
				if _, err := o.root.Encrypt(context.WithoutCancel(ctx), o.handle, dek, ad); err != nil {
					failure.Store(&err)
					return
				}
				calls.Add(1)
			}
		})
	}
	wg.Wait()
	if err := failure.Load(); err != nil {
		return figures{}, *err
	}
	return figures{rate: float64(calls.Load()) / time.Since(begin).Seconds()}, nil
}

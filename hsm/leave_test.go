package hsm

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/keygate/keygate/kms"
)

// workerOf returns a remote with a worker whose part fn plays: it gets each frame, and
// the pipe to answer with.
func workerOf(t *testing.T, cfg Config, fn func(p *pipe, f frame)) *remote {
	t.Helper()
	ends := sockets(t)
	r := newRemote(cfg, &pinSource{}, new(acquaintance), slog.New(slog.DiscardHandler))
	p := &process{remote: r, calls: make(map[uint64]*remoteCall), pipe: newPipe(ends[0], maxReply)}
	worker := newPipe(ends[1], maxRequest)
	r.process = p
	p.done.Go(func() { _ = p.pipe.read(p.handle) })
	p.done.Go(func() { _ = p.pipe.write() })
	p.done.Go(func() { _ = worker.read(func(f frame) error { fn(worker, f); return nil }) })
	p.done.Go(func() { _ = worker.write() })
	t.Cleanup(func() {
		r.clean.close()
		p.pipe.close()
		worker.close()
		p.done.Wait()
	})
	return r
}

func answer(p *pipe, n uint64, result []byte) {
	if b, at, err := p.begin(frameAnswer, n, 4+len(result)); err == nil {
		p.end(appendBytes(b, result), at)
	}
}

// The worker has made the key, and answers, when its caller leaves: nobody gets the
// handle, so the key is destroyed, under whichever name it was made.
func TestAKeyWhoseCallerHasJustLeft(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var made order
	sweeps := make(chan order, 10)
	r := workerOf(t, Config{Residency: residencyToken, Timeout: time.Second}, func(p *pipe, f frame) {
		o, _ := parseOrder(f.body)
		switch {
		case f.kind == frameCancel: // crosses the answer
			answer(p, f.n, made.nth(1).marshal())
		case f.kind == frameOp && o.kind == opNewKey:
			made = o
			cancel()
		case f.kind == frameOp:
			sweeps <- o
			answer(p, f.n, nil)
		}
	})
	_, err := r.do(ctx, &op{kind: opNewKey, id: kms.KeyID{1}, purpose: kms.Encryption})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v", err)
	}
	for n := range maxMade {
		select {
		case o := <-sweeps:
			if o.kind != opDestroy || o.handle != nil || !bytes.Equal(o.nth(0).objectID(), made.nth(n).objectID()) {
				t.Errorf("it is asked for %+v", o)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("nobody destroys the key")
		}
	}
}

// What a worker says itself that it has not begun to make, and what it answers, is
// destroyed by nobody; but for what was made in tries before that one.
func TestLeftoversOfAWorker(t *testing.T) {
	failed := &Error{Function: "C_GenerateKey", Code: 0x30}
	for _, test := range []struct {
		name   string
		answer func(p *pipe, f frame, o order)
		left   int
	}{
		{"first try", func(p *pipe, f frame, o order) { answer(p, f.n, o.nth(0).marshal()) }, 0},
		{"third try", func(p *pipe, f frame, o order) { answer(p, f.n, o.nth(2).marshal()) }, 2},
		{"not begun", func(p *pipe, f frame, o order) { _ = p.sendError(frameError, f.n, failed) }, 0},
		{"begun", func(p *pipe, f frame, o order) { _ = p.sendError(frameError, f.n, errors.Join(failed, errBegun)) }, maxMade},
	} {
		t.Run(test.name, func(t *testing.T) {
			swept := make(chan kekID, 10)
			r := workerOf(t, Config{Residency: residencyToken, Timeout: time.Second}, func(p *pipe, f frame) {
				if o, err := parseOrder(f.body); err == nil && o.kind == opNewKey {
					test.answer(p, f, o)
				} else if err == nil {
					swept <- o.number
					answer(p, f.n, nil)
				}
			})
			_, _ = r.do(t.Context(), &op{kind: opNewKey, id: kms.KeyID{1}, purpose: kms.Encryption})
			r.clean.close()
			if len(swept) != test.left {
				t.Errorf("%d keys are destroyed, not %d", len(swept), test.left)
			}
		})
	}
}

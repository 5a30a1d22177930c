package remote

import (
	"context"
	"fmt"
	"time"

	"github.com/keygate/keygate/keystore"
)

// How a watch proves itself: each probe asks the store, by a read that sees all
// that was written before it, what the watch has to have told of. A probe that
// began less than proofAge ago and was answered so is the proof that all before it
// was told. The rest of keystore.WatchBound is for a machine that is busy.
const (
	ProbeEvery   = time.Second
	ProbeTimeout = 700 * time.Millisecond
	proofAge     = 2700 * time.Millisecond
)

// A Proof is how long a watch is still to be believed.
type Proof struct {
	at    time.Time
	timer *time.Timer
}

// NewProof returns the proof of a watch that hears of all that comes after at.
func NewProof(at time.Time) *Proof {
	return &Proof{at, time.NewTimer(time.Until(at.Add(proofAge)))}
}

// Proved notes that all that came before at was told.
func (p *Proof) Proved(at time.Time) {
	p.at = at
	p.timer.Reset(time.Until(at.Add(proofAge)))
}

// Over is ready when the proof has ended.
func (p *Proof) Over() <-chan time.Time { return p.timer.C }

// Stop releases what the proof holds.
func (p *Proof) Stop() { p.timer.Stop() }

// Err is why a watch ends whose proof has.
func (p *Proof) Err() error {
	return fmt.Errorf("%w: for %v there was no proof that changes are told", keystore.ErrUnavailable, time.Since(p.at).Round(time.Millisecond))
}

// Cancelled is why a watch ends whose context has.
func Cancelled(ctx context.Context) error {
	return fmt.Errorf("%w: %w", keystore.ErrUnavailable, ctx.Err())
}

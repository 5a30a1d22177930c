package mirror

import (
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/kms"
)

type counters struct{ disagreements atomic.Uint64 }

type sideCounters struct{ lost, failures, alone, missing atomic.Uint64 }

// Stats are figures of both roots, since Open.
type Stats struct {
	// Disagreements is how often one root did what the other said cannot be done:
	// each is an alarm.
	Disagreements uint64
	Roots         [2]RootStats
}

// RootStats are figures of one of the roots.
type RootStats struct {
	Name     string        // first or second
	Kind     string        // as in the configuration
	Away     bool          // it is not used now
	AwayFor  time.Duration // how long that has been so; 0 if it is not away
	Lost     uint64        // how often it was found to be away
	Failures uint64        // calls that it could not answer
	Alone    uint64        // calls that it answered, as the other could not
	Missing  uint64        // ciphertexts that were made without it
}

// Stats returns the figures of r.
func (r *Root) Stats() Stats {
	st := Stats{Disagreements: r.stats.disagreements.Load()}
	for i, s := range r.sides {
		c := s.condition.Load()
		st.Roots[i] = RootStats{Name: names[i], Kind: s.kind, Away: c.err != nil,
			Lost: s.stats.lost.Load(), Failures: s.stats.failures.Load(), Alone: s.stats.alone.Load(), Missing: s.stats.missing.Load()}
		if c.err != nil && !c.since.IsZero() {
			st.Roots[i].AwayFor = time.Since(c.since)
		}
	}
	return st
}

// Member returns the i-th root, 0 or 1; nil if it has not been opened yet.
func (r *Root) Member(i int) kms.Root {
	if root := r.sides[i].root.Load(); root != nil {
		return *root
	}
	return nil
}

// Degraded names the roots that are away: first, second, or none.
func (r *Root) Degraded() []string {
	var away []string
	for i, s := range r.sides {
		if s.condition.Load().err != nil {
			away = append(away, names[i])
		}
	}
	return away
}

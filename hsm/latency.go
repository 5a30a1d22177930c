package hsm

import (
	"context"
	"slices"
	"time"
)

// A Latency is how long calls took, in seconds: half of them no longer than P50, and
// so on.
type Latency struct {
	Call  string  `json:"call"`
	Calls int     `json:"calls"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

// latencyOf sorts took, which is of at least one call.
func latencyOf(call string, took []time.Duration) Latency {
	slices.Sort(took)
	at := func(percent int) float64 {
		// Nearest rank: the smallest that percent of all are not above.
		return took[(len(took)*percent+99)/100-1].Seconds()
	}
	return Latency{Call: call, Calls: len(took), P50: at(50), P90: at(90), P99: at(99), Max: at(100)}
}

// How much the doctor measures of each call, whatever comes first.
const (
	measuredCalls = 200
	measuredTime  = 2 * time.Second
)

// A measured call is one that the gateway makes while it serves.
type measured struct {
	call string
	run  func() error
	undo func() error // not measured; nil: nothing
}

// latencies measures what the hot path calls, in one session. It needs the root keys
// and the link's own key, and leaves nothing in the token.
func (s session) latencies(ctx context.Context) ([]Latency, error) {
	var all []Latency
	for _, m := range s.hotCalls() {
		took, err := m.measure(ctx)
		if err != nil {
			return all, err
		}
		all = append(all, latencyOf(m.call, took))
	}
	return all, nil
}

// measure makes at least one call.
func (m measured) measure(ctx context.Context) (took []time.Duration, err error) {
	for end := time.Now().Add(measuredTime); len(took) < measuredCalls; {
		begun := time.Now()
		err = m.run()
		ended := time.Now()
		if err == nil && m.undo != nil {
			err = m.undo()
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		took = append(took, ended.Sub(begun))
		if ended.After(end) {
			break
		}
	}
	return took, nil
}

// hotCalls are the calls that the gateway makes while it serves. The login is not
// among them: a token counts its tries.
func (s session) hotCalls() []measured {
	plaintext, additionalData := make([]byte, 32), make([]byte, 72) // a DEK, and what kms binds to it
	key, opened := s.link.probe.object, session{}
	var loaded, sealed = key, []byte(nil)
	calls := []measured{
		{call: "C_OpenSession", run: func() (err error) { opened, err = s.link.open(0); return err },
			undo: func() error { opened.abandon(); return nil }},
		{call: "C_GenerateRandom", run: func() error { _, err := s.random(len(plaintext)); return err }},
		{call: "C_EncryptInit + C_Encrypt", run: func() (err error) { sealed, err = s.seal(key, nil, plaintext, additionalData); return err }},
		{call: "C_DecryptInit + C_Decrypt", run: func() error { _, err := s.unseal(key, sealed, additionalData); return err }},
		{call: "C_SignInit + C_Sign", run: s.useRecordKey},
	}
	if s.link.probe.handle.wrapping != inToken { // else the token wraps no key
		calls = append(calls, measured{call: "C_UnwrapKey", run: func() (err error) { loaded, err = s.unwrap(s.link.probe.handle); return err },
			undo: func() error { return s.destroy(loaded) }})
	}
	return calls
}

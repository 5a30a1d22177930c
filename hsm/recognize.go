package hsm

import (
	"errors"
	"fmt"
	"sync"

	"github.com/keygate/keygate/kms"
)

// A memory is what the first link of a group left for the later ones, to the same
// token and to others, which must find the same root keys: a token that was
// initialised anew, or a wrong one, may have keys with the same labels. It holds no
// secret: a key that nothing uses, wrapped, and a MAC of a constant.
type memory struct {
	Probe  []byte `json:"probe"`  // a key handle, wrapped by the KEK if the token wraps
	Record []byte `json:"record"` // by the record key
	// Others are such handles of other KEKs.
	Others [][]byte `json:"others,omitempty"`
}

// An acquaintance is the memory that the tokens of a group share.
type acquaintance struct {
	mu    sync.Mutex
	known *memory

	// In a worker process: the gateway, which has the acquaintance, does what first does.
	ask func(memory) (memory, error)
}

// recognize compares the root keys of a token with those of the first one, which is
// this one if there was none before. It returns ErrDenied if they differ.
func (a *acquaintance) recognize(s session) error {
	m, err := s.remember()
	if err != nil {
		return err
	}
	known := m
	if a.ask == nil {
		known = a.first(m)
	} else if known, err = a.ask(m); err != nil {
		return err
	}
	return s.recognize(known, m)
}

// first returns the memory that there is, or m, which it is from now on.
func (a *acquaintance) first(m memory) memory {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil {
		a.known = &m
	}
	return *a.known
}

// remember returns the memory of a link.
func (s session) remember() (memory, error) {
	record, err := s.mac(s.link.recordKey.object, []byte(checkConstant))
	m := memory{Probe: s.link.probe.handle.marshal(), Record: record[:]}
	for _, k := range s.link.keks {
		if k.id != s.link.kekID && s.link.probe.handle.wrapping != inToken {
			m.Others = append(m.Others, k.probe.marshal())
		}
	}
	return m, err
}

// recognize returns ErrDenied if the root keys, whose memory is now, are not those
// of the memory before.
func (s session) recognize(before, now memory) error {
	if string(now.Record) != string(before.Record) {
		return fmt.Errorf("hsm: token %q (serial number %s) has another record key than before, or than the others: %w", s.link.token.Label, s.link.token.Serial, kms.ErrDenied)
	}
	for _, other := range before.Others {
		if _, err := s.recognizeKEK(other); err != nil {
			return err
		}
	}
	h, err := s.recognizeKEK(before.Probe)
	// New keys are wrapped as the first token wraps, so that each token can load
	// what another made.
	if err == nil && h.wrapping != inToken {
		s.link.wrap.chosen = h.wrapping
	}
	return err
}

// recognizeKEK shows that the token has the KEK of a probe.
func (s session) recognizeKEK(probe []byte) (keyHandle, error) {
	h, err := parseHandle(probe)
	if err != nil {
		return h, err
	}
	if h.wrapping == inToken {
		return h, nil // the token wraps no key
	}
	object, err := s.load(h)
	if errors.Is(err, kms.ErrCorrupt) {
		return h, fmt.Errorf("hsm: token %q (serial number %s) has another KEK than before, or than the others: %w", s.link.token.Label, s.link.token.Serial, kms.ErrDenied)
	}
	if err != nil {
		return h, err
	}
	return h, s.destroy(object)
}

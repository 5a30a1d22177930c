// Package mirror is a root of trust over two others: a kms.Root whose keys are in
// both, so that what was encrypted opens as long as either of the two is there.
//
// An encryption key is two keys, one made inside each root. A ciphertext has a key
// of its own, used once, which each root encrypts under its own key; the plaintext
// is encrypted under that, in this process, together with both of these halves. So
// each root alone opens all of it, and no half fits another ciphertext.
//
// An authentication key is 32 bytes that are made in this process, imported into
// both roots and wiped, as both have to give the same MAC. So is the record key,
// whose handle is in a file that Init makes.
//
// What needs both roots, to make a key or to encrypt, is refused while one of them
// is away, unless Config.Degraded allows to encrypt with the one that is left. No
// key is ever made in one of them only.
package mirror

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/keygate/keygate/kms"
)

// What Config.Degraded may say.
const (
	DegradedRefused = "refused"
	DegradedAllowed = "allowed"
)

// Config says how two roots are one. It is a section of the configuration file.
type Config struct {
	// RecordKeyFile is the file that holds the handle of the record key, made by
	// Init: the same on all gateways of a cluster. It is no secret, and nothing can
	// be used without it. Required.
	RecordKeyFile string `yaml:"record_key_file"`
	// Degraded is "allowed" if data is to be encrypted while one root is away, with
	// the other: it opens with that one only. "refused" is the default.
	Degraded string `yaml:"degraded,omitempty"`
}

// Check reports what is wrong with c, without looking at the file.
func (c Config) Check() error {
	var faults []error
	if c.RecordKeyFile == "" {
		faults = append(faults, errors.New("mirror: record_key_file: the path of the file is missing"))
	}
	switch c.Degraded {
	case "", DegradedRefused, DegradedAllowed:
	default:
		faults = append(faults, fmt.Errorf("mirror: degraded: %q is neither %s nor %s", c.Degraded, DegradedRefused, DegradedAllowed))
	}
	return errors.Join(faults...)
}

// A Member is one of the two roots.
type Member struct {
	Kind string // as in the configuration: pkcs11, vault ...
	// Open opens it. It is called again, each ten seconds, until it succeeds.
	Open func(context.Context) (kms.Root, error)
	// Final reports that an error of Open is for good, and Open must not be called
	// again: a token that refuses a PIN locks after some tries. Nil: none is.
	Final func(error) bool
}

// The names of the two roots, in errors, logs and figures.
var names = [2]string{"first", "second"}

// A Root is a kms.Root over two. Make one with Open.
type Root struct {
	cfg   Config
	log   *slog.Logger
	times times
	// record is the handle of the record key.
	record keyHandle
	sides  [2]*side

	end     context.CancelFunc // of what runs beside calls
	running sync.WaitGroup     // calls of members that nobody may wait for, and the watches
	odd     sometimes          // disagreements, for the log
	stats   counters
}

var (
	_ kms.Root       = (*Root)(nil)
	_ kms.Degradable = (*Root)(nil)
	_ kms.Partial    = (*Root)(nil)
)

// Format writes which roots r is over, whatever the verb, and not what they hold.
func (r *Root) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "mirror.Root(%s, %s)", r.sides[0].kind, r.sides[1].kind)
}

// times are how long things may take.
type times struct {
	patience time.Duration // until the other root is asked too
	look     time.Duration // bounds a look at a root
	here     time.Duration // between looks at a root that is there
	away     time.Duration // and at one that is away
	reopen   time.Duration // between tries to open a root
	gap      time.Duration // at least between looks
	start    time.Duration // that Open waits for a root, if the other is there
}

var defaultTimes = times{
	patience: 250 * time.Millisecond, look: 3 * time.Second, here: 5 * time.Second, away: time.Second,
	reopen: 10 * time.Second, gap: 250 * time.Millisecond, start: 15 * time.Second,
}

// Open opens both roots. One that cannot be opened, or is not what the record key
// was made in, is away: that is logged, and r serves with the other. It fails if
// that is so of both, unless one is only out of reach. A nil logger means
// slog.Default.
func Open(ctx context.Context, cfg Config, members [2]Member, log *slog.Logger) (*Root, error) {
	return open(ctx, cfg, members, log, defaultTimes)
}

func open(ctx context.Context, cfg Config, members [2]Member, log *slog.Logger, times times) (*Root, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.Default()
	}
	key, err := readRecordKey(cfg.RecordKeyFile)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w: keygate root init makes it, once for all gateways of a cluster", err)
		}
		return nil, fmt.Errorf("mirror: record_key_file: %w", err)
	}
	r := newRoot(cfg, members, log, times)
	r.record = key.handle
	for i, s := range r.sides {
		s.proof = func(ctx context.Context, root kms.Root) error { return key.provedBy(ctx, root, i) }
	}
	if err := r.begin(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func newRoot(cfg Config, members [2]Member, log *slog.Logger, times times) *Root {
	r := &Root{cfg: cfg, log: log, times: times}
	for i, m := range members {
		r.sides[i] = &side{index: i, kind: m.Kind, opens: m.Open, final: m.Final, log: log, times: times, kick: make(chan struct{}, 1), looked: make(chan struct{})}
		r.sides[i].condition.Store(&condition{err: errors.New("it has not been looked at yet")})
	}
	return r
}

// begin opens both roots, and starts to watch them.
func (r *Root) begin(ctx context.Context) error {
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.end = cancel
	for _, s := range r.sides {
		r.running.Go(func() { s.watch(watching) })
	}
	if err := r.awaitSides(ctx); err != nil {
		return err
	}
	var errs []error
	for _, s := range r.sides {
		err := s.condition.Load().err
		if err == nil || s.root.Load() != nil && errors.Is(err, kms.ErrUnavailable) {
			return nil
		}
		errs = append(errs, fmt.Errorf("%v: %w", s, err))
	}
	return errors.Join(errs...)
}

// awaitSides waits until both roots have been looked at, or one was found good and
// the other has had its time.
func (r *Root) awaitSides(ctx context.Context) error {
	enough := time.NewTimer(r.times.start)
	defer enough.Stop()
	for _, s := range r.sides {
		select {
		case <-s.looked:
		case <-enough.C:
			return nil // begin says what is wrong, if nothing is there
		case <-ctx.Done():
			return ended("open", ctx)
		}
	}
	return nil
}

// closeTime bounds how long Close waits for calls, which end with their contexts.
const closeTime = 10 * time.Second

// Close closes both roots.
func (r *Root) Close() error {
	if r.end != nil {
		r.end()
	}
	done := make(chan struct{})
	go func() { r.running.Wait(); close(done) }()
	var errs []error
	select {
	case <-done:
	case <-time.After(closeTime):
		errs = append(errs, errors.New("mirror: close: a call of a root does not end"))
	}
	for _, s := range r.sides {
		if root := s.root.Load(); root != nil {
			errs = append(errs, (*root).Close())
		}
	}
	return errors.Join(errs...)
}

// NewKey makes a key in both roots; see kms.Root. An Encryption key is another one
// in each, which never leaves it.
func (r *Root) NewKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose) ([]byte, error) {
	switch purpose {
	case kms.Encryption:
		return r.makeKey(ctx, purpose, nil, func(ctx context.Context, root kms.Root) ([]byte, error) { return root.NewKey(ctx, id, purpose) })
	case kms.Authentication:
		key, err := r.newMACKey(ctx)
		if err != nil {
			return nil, err
		}
		defer clear(key)
		return r.ImportKey(ctx, id, purpose, key)
	}
	return nil, errPurpose(purpose)
}

// ImportKey brings key into both roots; see kms.Root.
func (r *Root) ImportKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose, key []byte) ([]byte, error) {
	if len(key) != kms.KeySize {
		return nil, fmt.Errorf("mirror: import a key of %d bytes: %w", len(key), kms.ErrKeySize)
	}
	if purpose != kms.Encryption && purpose != kms.Authentication {
		return nil, errPurpose(purpose)
	}
	return r.makeKey(ctx, purpose, key, func(ctx context.Context, root kms.Root) ([]byte, error) {
		handle, err := root.ImportKey(ctx, id, purpose, key)
		if err == nil && purpose == kms.Authentication {
			err = tryMAC(ctx, root, handle, key)
		}
		return handle, err
	})
}

func errPurpose(purpose kms.Purpose) error {
	return fmt.Errorf("mirror: purpose %d: %w", purpose, kms.ErrUnsupported)
}

// tryMAC checks that a root computes HMAC-SHA-256 under key: the other will, and
// one of the two is asked later.
func tryMAC(ctx context.Context, root kms.Root, handle, key []byte) error {
	message := []byte("keygate mirror key check")
	got, err := root.MAC(ctx, handle, message)
	if err != nil {
		return err
	}
	own := hmac.New(sha256.New, key)
	own.Write(message)
	if !hmac.Equal(got[:], own.Sum(nil)) {
		return fmt.Errorf("%w: its MAC is not that of the imported key", kms.ErrUnavailable)
	}
	return nil
}

// newMACKey returns 32 bytes of the random sources of both roots and of this system
// together, for the caller to wipe: two of the three may be bad. HMAC as a randomness
// extractor: NIST SP 800-56C rev. 2, 4.
func (r *Root) newMACKey(ctx context.Context) ([]byte, error) {
	theirs, errs := both(ctx, r, func(ctx context.Context, _ *side, root kms.Root) ([]byte, error) {
		b := make([]byte, kms.KeySize)
		return b, root.Random(ctx, b)
	})
	defer clear(theirs[0])
	defer clear(theirs[1])
	if err := r.joined(ctx, "new key", errs); err != nil {
		return nil, err
	}
	return extract(theirs[0], theirs[1]), nil
}

// extract returns HMAC-SHA-256 of messages, one after the other, under a random key.
func extract(messages ...[]byte) []byte {
	ours := make([]byte, kms.KeySize)
	defer clear(ours)
	rand.Read(ours) // never fails: crypto/rand
	h := hmac.New(sha256.New, ours)
	for _, m := range messages {
		h.Write(m)
	}
	return h.Sum(nil)
}

// makeKey has both roots make a key. If one cannot, what the other made is
// destroyed again: a key in one root only would be lost with it.
func (r *Root) makeKey(ctx context.Context, purpose kms.Purpose, imported []byte, in func(context.Context, kms.Root) ([]byte, error)) ([]byte, error) {
	what := "new key"
	if imported != nil {
		what = "import"
	}
	if err := r.complete(ctx, what); err != nil {
		return nil, err
	}
	halves, errs := both(ctx, r, func(ctx context.Context, _ *side, root kms.Root) ([]byte, error) { return in(ctx, root) })
	err := r.joined(ctx, what, errs)
	var handle []byte
	if err == nil {
		handle, err = keyHandle{purpose: purpose, halves: halves}.marshal()
	}
	if err != nil {
		r.discard(ctx, halves)
		return nil, err
	}
	return handle, nil
}

// complete returns an error unless both roots are there.
func (r *Root) complete(ctx context.Context, what string) error {
	if ctx.Err() != nil {
		return ended(what, ctx)
	}
	var errs [2]error
	for i, s := range r.sides {
		errs[i] = s.away()
	}
	return r.joined(ctx, what+" needs both roots", errs)
}

// discardTime bounds the removal of a key that was made in vain.
const discardTime = 5 * time.Second

// discard destroys keys that no one has the handle of, as far as that is possible
// now: what stays is of no use to anyone.
func (r *Root) discard(ctx context.Context, halves [2][]byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTime)
	defer cancel()
	both(ctx, r, func(ctx context.Context, s *side, root kms.Root) (struct{}, error) {
		if halves[s.index] == nil {
			return struct{}{}, nil
		}
		return struct{}{}, root.DestroyKey(ctx, halves[s.index])
	})
}

// DestroyKey destroys the key in both roots; see kms.Root. If one of them cannot
// say that it is gone there, that is an error.
func (r *Root) DestroyKey(ctx context.Context, handle []byte) error {
	h, err := parseHandle(handle)
	if err != nil {
		return err
	}
	_, errs := both(ctx, r, func(ctx context.Context, s *side, root kms.Root) (struct{}, error) {
		return struct{}{}, root.DestroyKey(ctx, h.halves[s.index])
	})
	return r.joined(ctx, "destroy key", errs)
}

// MAC has one of the roots compute HMAC-SHA-256; see kms.Root.
func (r *Root) MAC(ctx context.Context, handle, message []byte) (sum [kms.MACSize]byte, err error) {
	h := r.record
	if handle != nil {
		if h, err = handleFor(handle, kms.Authentication); err != nil {
			return sum, err
		}
	}
	message = bytes.Clone(message) // a root that is late may read it when this has returned
	return either(ctx, r, "mac", r.sides[:], nil, func(ctx context.Context, s *side, root kms.Root) ([kms.MACSize]byte, error) {
		return root.MAC(ctx, h.halves[s.index], message)
	})
}

// Random fills b from the random source of one of the roots; see kms.Root.
func (r *Root) Random(ctx context.Context, b []byte) error {
	if len(b) > kms.MaxRandom {
		return fmt.Errorf("mirror: %d random bytes at once: %w", len(b), kms.ErrUnsupported)
	}
	filled, err := either(ctx, r, "random", r.sides[:], wipe, func(ctx context.Context, _ *side, root kms.Root) ([]byte, error) {
		own := make([]byte, len(b)) // that of a root that is late must not be the caller's
		return own, root.Random(ctx, own)
	})
	defer clear(filled)
	copy(b, filled)
	return err
}

func wipe(b []byte) { clear(b) }

// Status returns nil if one of the roots can be used now, by using it, and has the
// record key; Degraded tells whether it is one only.
func (r *Root) Status(ctx context.Context) error {
	_, err := either(ctx, r, "status", r.sides[:], nil, func(ctx context.Context, s *side, root kms.Root) (struct{}, error) {
		return struct{}{}, s.use(ctx, root)
	})
	return err
}

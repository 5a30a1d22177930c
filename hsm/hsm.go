// Package hsm is the root of trust over PKCS#11: a kms.Root whose keys are made
// in a token and leave it only wrapped by a KEK that cannot leave it.
//
// It is the only package with C in it. No call of the module runs on the
// goroutine of a caller, so a call that hangs costs one session and not the
// caller; see pool. Whatever depends on the login belongs to a link, and after
// a fault the next call makes another one; see repair.
package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/kms"
)

// A Root is a kms.Root in a PKCS#11 token.
type Root struct {
	cfg    Config
	log    *slog.Logger
	module *module
	pin    pinSource
	pool   *pool // for calls with a session of their own
	keeper *pool // for calls with a loader
	link   atomic.Pointer[link]
	repair repair
	stats  counters
}

var _ kms.Root = (*Root)(nil)

// Format writes which token r is, whatever the verb, and not what r holds: the
// PIN may be in it.
func (r *Root) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "hsm.Root(%q)", r.cfg.Token) }

// Open connects to the token that cfg names: it logs in, with one try, and
// refuses a token that lacks a mechanism, a key that is missing, ambiguous or
// has an attribute that would let it out, and a module that does not encrypt as
// it should. A nil logger means slog.Default.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Root, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.Default()
	}
	m, err := useModule(cfg.Module, cfg.InitArgs)
	if err != nil {
		return nil, err
	}
	r := &Root{cfg: cfg, log: log, module: m, pin: pinSource{from: cfg.PIN}}
	l, err := r.connected(ctx)
	if err != nil {
		r.pool, r.keeper = newPool(0, 0, cfg.Timeout, Queue{}), newPool(0, 0, cfg.Timeout, Queue{})
		return nil, errors.Join(err, r.Close())
	}
	sessions, spares := l.token.sessions(cfg.Sessions)
	if sessions < cfg.Sessions {
		log.Warn("hsm: the token has fewer sessions than are configured", "configured", cfg.Sessions, "used", sessions)
	}
	r.pool = newPool(sessions, spares, cfg.Timeout, cfg.Queue)
	r.keeper = newPool(max(1, len(l.loaders)-keeperSpares), keeperSpares, cfg.Timeout, Queue{})
	return r, nil
}

// keeperSpares is how many calls with a loader may hang before fewer are made.
const keeperSpares = 3

// Close closes the sessions and, if this is the last root that uses it,
// finalizes the module. It waits for the calls that run, but leaves those that
// hang, and the module with them, alone.
func (r *Root) Close() error {
	r.repair.stop()
	err := errors.Join(r.pool.close(), r.keeper.close())
	r.pin.forget()
	patience := r.cfg.Timeout
	if err != nil {
		patience = 0
	}
	ended := make(chan error, 1)
	go func() {
		if l := r.link.Swap(nil); l != nil && err == nil {
			l.close()
		}
		ended <- r.module.release(patience)
	}()
	select {
	case releaseErr := <-ended:
		return errors.Join(err, releaseErr)
	case <-time.After(2 * r.cfg.Timeout):
		return errors.Join(err, errHung)
	}
}

// Token describes the token and its module, as they were when the present
// connection was made.
func (r *Root) Token() TokenInfo {
	if l := r.link.Load(); l != nil {
		return l.token
	}
	return TokenInfo{}
}

// NewKey makes a key in the token; see kms.Root.
func (r *Root) NewKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose) ([]byte, error) {
	return r.makeKey(ctx, id, purpose, nil)
}

// ImportKey brings a key into the token; see kms.Root.
func (r *Root) ImportKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose, key []byte) ([]byte, error) {
	if len(key) != kms.KeySize {
		return nil, fmt.Errorf("hsm: import a key of %d bytes: %w", len(key), kms.ErrKeySize)
	}
	return r.makeKey(ctx, id, purpose, key)
}

func (r *Root) makeKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose, imported []byte) ([]byte, error) {
	if purpose != kms.Encryption && purpose != kms.Authentication {
		return nil, fmt.Errorf("hsm: purpose %d: %w", purpose, kms.ErrUnsupported)
	}
	return run(ctx, r, operation[[]byte]{a: imported, slow: true, run: func(s session, _ *loaded, imported, _ []byte) ([]byte, error) {
		h, err := s.newKey(id, purpose, imported)
		if err != nil {
			return nil, err
		}
		return h.marshal(), nil
	}})
}

// Encrypt encrypts in the token, with AES-256-GCM and a random IV of this
// process; see kms.Root. The ciphertext is the IV, of 12 bytes, what C_Encrypt
// returned, and the tag, of 16.
func (r *Root) Encrypt(ctx context.Context, handle, plaintext, additionalData []byte) ([]byte, error) {
	if len(plaintext) > kms.MaxRootPlaintext || len(additionalData) > kms.MaxRootAD {
		return nil, fmt.Errorf("hsm: encrypt %d bytes with %d of additional data: %w", len(plaintext), len(additionalData), kms.ErrUnsupported)
	}
	return run(ctx, r, operation[[]byte]{handle: handle, purpose: kms.Encryption, a: plaintext, b: additionalData,
		run: func(s session, k *loaded, plaintext, additionalData []byte) ([]byte, error) {
			return s.seal(k.object, nil, plaintext, additionalData)
		}})
}

// Decrypt opens what Encrypt made; see kms.Root.
func (r *Root) Decrypt(ctx context.Context, handle, ciphertext, additionalData []byte) ([]byte, error) {
	if n := len(ciphertext) - ivSize - tagSize; n < 0 || n > kms.MaxRootPlaintext || len(additionalData) > kms.MaxRootAD {
		return nil, fmt.Errorf("hsm: decrypt %d bytes with %d of additional data: %w", len(ciphertext), len(additionalData), kms.ErrCiphertext)
	}
	return run(ctx, r, operation[[]byte]{handle: handle, purpose: kms.Encryption, a: ciphertext, b: additionalData,
		run: func(s session, k *loaded, ciphertext, additionalData []byte) ([]byte, error) {
			return s.decrypt(k, ciphertext, additionalData)
		}, discard: func(plaintext []byte) { clear(plaintext) }})
}

// MAC computes HMAC-SHA-256 in the token, with the record key if handle is nil;
// see kms.Root.
func (r *Root) MAC(ctx context.Context, handle, message []byte) ([kms.MACSize]byte, error) {
	o := operation[[kms.MACSize]byte]{a: message, run: func(s session, k *loaded, message, _ []byte) ([kms.MACSize]byte, error) {
		return s.mac(k.object, message)
	}}
	if handle != nil {
		o.handle, o.purpose = handle, kms.Authentication
	}
	return run(ctx, r, o)
}

// DestroyKey takes the key out of the token if it is loaded there. The handle is
// the only other place that holds it. It returns ErrCorrupt if handle is not one
// of a root over PKCS#11.
func (r *Root) DestroyKey(ctx context.Context, handle []byte) error {
	if _, err := parseHandle(handle); err != nil {
		return err
	}
	l := r.link.Load()
	if !l.usable() {
		return nil // nothing is loaded
	}
	k := l.cached(handle)
	if k == nil {
		return nil
	}
	l.evict(k)
	k.done()
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	_, err := call(ctx, r.keeper, task[struct{}]{run: func(*worker) (struct{}, error) {
		return struct{}{}, l.onLoader(ctx, func(s session) error { s.destroyDoomed(); return nil })
	}})
	return err
}

// Status uses the record key and, with an encryption and its inverse, a key
// that nothing else uses.
func (r *Root) Status(ctx context.Context) error {
	_, err := run(ctx, r, operation[struct{}]{run: func(s session, _ *loaded, _, _ []byte) (struct{}, error) { return s.useLinkKeys() }})
	return err
}

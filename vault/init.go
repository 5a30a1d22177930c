package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/vault/vaultapi"
)

// recordKey names the transit key that authenticates key records.
func (r *Root) recordKey() string { return r.cfg.Prefix + "record" }

// statusKey names the transit key that Status encrypts with, and nothing else.
func (r *Root) statusKey() string { return r.cfg.Prefix + "status" }

// A missingKeyError says that a key of Init is not there, as far as this server
// and this mount go. It is ErrUnavailable.
type missingKeyError struct{ name string }

func (e *missingKeyError) Error() string {
	return fmt.Sprintf("vault: there is no transit key %s: this is another server, namespace or mount than the root's, or keygate root init was not run", e.name)
}

func (e *missingKeyError) Unwrap() error { return kms.ErrUnavailable }

// Made says which keys Init made and which it found.
type Made struct {
	RecordKey     bool   `json:"record_key"`
	StatusKey     bool   `json:"status_key"`
	RecordKeyName string `json:"record_key_name"`
	StatusKeyName string `json:"status_key_name"`
}

// Init makes the two keys of a root, unless they are there, and then checks and
// uses them as Open does: the record key, which is the same on every node of a
// cluster, and the one for Status. It refuses to make a record key where there
// are master keys of the same prefix: theirs was lost, and a new one would have
// every record taken for a forgery.
//
// It also has transit make its wrapping key, which takes an RSA key of 4096 bits:
// on a busy server more time than a call has.
func Init(ctx context.Context, cfg Config) (made Made, err error) {
	cfg.Timeout = max(cfg.Timeout, initTimeout)
	r, err := newRoot(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return made, err
	}
	defer r.Close()
	made.RecordKeyName, made.StatusKeyName = r.recordKey(), r.statusKey()
	if _, err := r.info(ctx, r.recordKey()); vaultapi.Is(err, vaultapi.Absent) {
		if err := r.checkFresh(ctx); err != nil {
			return made, err
		}
		if err := r.create(ctx, r.recordKey(), kms.Authentication); err != nil {
			return made, err
		}
		made.RecordKey = true
	} else if err != nil {
		return made, err
	}
	if _, err := r.info(ctx, r.statusKey()); vaultapi.Is(err, vaultapi.Absent) {
		if err := r.create(ctx, r.statusKey(), kms.Encryption); err != nil {
			return made, err
		}
		made.StatusKey = true
	} else if err != nil {
		return made, err
	}
	if _, err := r.wrappingKey(ctx); err != nil && !errors.Is(err, kms.ErrUnsupported) {
		return made, err
	}
	return made, r.Status(ctx)
}

// initTimeout is how long each call of Init may take at the least.
const initTimeout = time.Minute

// checkFresh refuses a mount with keys of the prefix.
func (r *Root) checkFresh(ctx context.Context) error {
	var out struct{ Keys []string }
	err := r.api.List(ctx, r.cfg.Mount+"/keys", &out)
	if vaultapi.Is(err, vaultapi.Absent) {
		return nil // no keys at all
	}
	if err != nil {
		return failed("list keys", err)
	}
	for _, name := range out.Keys {
		if strings.HasPrefix(name, r.cfg.Prefix) && name != r.statusKey() {
			return fmt.Errorf("vault: there is a transit key %s, but no record key %s: it was lost, and without it no key can be used; restore it: %w", name, r.recordKey(), kms.ErrDenied)
		}
	}
	return nil
}

// create makes a transit key. Of a name that is taken it changes nothing.
func (r *Root) create(ctx context.Context, name string, purpose kms.Purpose) error {
	in := map[string]any{"type": typeOf(purpose), "derived": false, "exportable": false, "allow_plaintext_backup": false}
	if purpose == kms.Authentication {
		in["key_size"] = kms.KeySize
	}
	if err := r.api.Write(ctx, r.path("keys", name), in, nil); err != nil {
		return failed("make key "+name, err)
	}
	return nil
}

// refusedInit finds out why transit refuses to use a key of Init.
func (r *Root) refusedInit(ctx context.Context, name string, cause error) error {
	k, err := r.info(ctx, name)
	switch {
	case vaultapi.Is(err, vaultapi.Absent):
		return &missingKeyError{name}
	case err != nil:
		return err
	case name == r.recordKey() && k.MinEncryption > macVersion:
		return tooOld(name, k)
	}
	return failed("use key "+name, cause)
}

// statusLife is how long Status believes that all is well.
const statusLife = time.Second

// Status makes a MAC with the record key, and encrypts and decrypts with a key
// that nothing else uses, unless that was done within a second. The first time
// it also checks that neither can be exported.
func (r *Root) Status(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("vault: status: %w: %w", kms.ErrUnavailable, err)
	}
	r.mu.Lock()
	well := time.Since(r.wellAt) < statusLife
	r.mu.Unlock()
	if well {
		return nil
	}
	if err := r.examineInit(ctx); err != nil {
		return err
	}
	if _, err := r.MAC(ctx, nil, []byte("keygate status")); err != nil {
		return err
	}
	if err := r.tryStatusKey(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wellAt = time.Now()
	return nil
}

func (r *Root) examineInit(ctx context.Context) error {
	if r.examined.Load() {
		return nil
	}
	for _, key := range []struct{ name, kind string }{{r.recordKey(), typeAuthentication}, {r.statusKey(), typeEncryption}} {
		k, err := r.info(ctx, key.name)
		if vaultapi.Is(err, vaultapi.Absent) {
			return &missingKeyError{key.name}
		}
		if err != nil {
			return err
		}
		if err := k.check(key.name, key.kind); err != nil {
			return err
		}
	}
	r.examined.Store(true)
	return nil
}

func (r *Root) tryStatusKey(ctx context.Context) error {
	plaintext, additionalData := []byte(rand.Text()), []byte("keygate status")
	ciphertext, err := r.encrypt(ctx, r.statusKey(), plaintext, additionalData)
	if vaultapi.Is(err, vaultapi.Refused) {
		return r.refusedInit(ctx, r.statusKey(), err)
	}
	if err != nil {
		return err
	}
	got, err := r.decrypt(ctx, r.statusKey(), ciphertext, additionalData)
	if err != nil {
		return err
	}
	if string(got) != string(plaintext) {
		return fmt.Errorf("vault: status: the server decrypts to something else: %w", kms.ErrUnavailable)
	}
	return nil
}

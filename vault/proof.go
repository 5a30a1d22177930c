package vault

import (
	"context"
	"fmt"
	"time"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/vault/vaultapi"
)

const (
	// proofLife is how long it is believed that a transit key is that of its
	// handle and cannot be exported.
	proofLife = 10 * time.Minute
	// maxProved bounds the keys of which that is known.
	maxProved = 10_000
)

// The types of transit keys.
const (
	typeEncryption     = "aes256-gcm96"
	typeAuthentication = "hmac"
)

func typeOf(purpose kms.Purpose) string {
	if purpose == kms.Encryption {
		return typeEncryption
	}
	return typeAuthentication
}

// keyInfo is what transit says of a key.
type keyInfo struct {
	Type          string `json:"type"`
	Exportable    *bool  `json:"exportable"`
	Backup        *bool  `json:"allow_plaintext_backup"`
	Derived       bool   `json:"derived"`
	Latest        int    `json:"latest_version"`
	MinDecryption int    `json:"min_decryption_version"`
	MinEncryption int    `json:"min_encryption_version"`
}

// info asks what transit says of a key.
func (r *Root) info(ctx context.Context, name string) (keyInfo, error) {
	var k keyInfo
	if err := r.api.Read(ctx, r.path("keys", name), &k); err != nil {
		return k, failed("read key "+name, err)
	}
	return k, nil
}

// check refuses a key that is not as this package makes it, or that transit
// would hand out. Neither setting can be undone there.
func (k keyInfo) check(name, kind string) error {
	if k.Exportable == nil || k.Backup == nil {
		return malformed("read key " + name)
	}
	if *k.Exportable || *k.Backup {
		return fmt.Errorf("vault: the transit key %s can leave the server: exportable is %t, allow_plaintext_backup is %t: %w", name, *k.Exportable, *k.Backup, kms.ErrDenied)
	}
	if k.Type != kind || k.Derived {
		return fmt.Errorf("vault: the transit key %s is of type %q (derived %t), not %q: %w", name, k.Type, k.Derived, kind, kms.ErrCorrupt)
	}
	return nil
}

// prove examines the key of h unless that was done a short time ago. Encrypt
// does it first: what is encrypted under a key that only has the right name is
// lost when the right one is restored.
func (r *Root) prove(ctx context.Context, h keyHandle) error {
	r.mu.Lock()
	at, ok := r.proved[h.name]
	r.mu.Unlock()
	if ok && time.Since(at) < proofLife {
		return nil
	}
	return r.examine(ctx, h)
}

func (r *Root) noteProved(h keyHandle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.proved) >= maxProved {
		clear(r.proved)
	}
	r.proved[h.name] = time.Now()
}

func (r *Root) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.proved, name)
}

// examine looks at an encryption key, and has it open the ciphertext that its
// handle carries.
func (r *Root) examine(ctx context.Context, h keyHandle) error {
	r.forget(h.name)
	k, err := r.lookUp(ctx, h)
	if err != nil {
		return err
	}
	plaintext, err := r.decrypt(ctx, h.name, h.check, checkData(h.id))
	switch {
	case vaultapi.Is(err, vaultapi.Refused) && k.MinDecryption > 1:
		return fmt.Errorf("vault: min_decryption_version of the transit key %s is %d: it does not open what version 1 made: %w", h.name, k.MinDecryption, kms.ErrDenied)
	case vaultapi.Is(err, vaultapi.Refused) || err == nil && len(plaintext) != 0:
		return fmt.Errorf("vault: the transit key %s is another one than the handle's: %w", h.name, kms.ErrCorrupt)
	case err != nil:
		return err
	}
	r.noteProved(h)
	return nil
}

// lookUp returns what transit says of the key of h, if it is as it must be.
func (r *Root) lookUp(ctx context.Context, h keyHandle) (keyInfo, error) {
	k, err := r.info(ctx, h.name)
	if vaultapi.Is(err, vaultapi.Absent) {
		return k, r.missing(ctx, h.name)
	}
	if err != nil {
		return k, err
	}
	return k, k.check(h.name, typeOf(h.purpose))
}

// missing is the error for a transit key that is not there. If the root's own
// keys are, it was lost or deleted: ErrCorrupt, an alarm, as no later try will
// help. If they are not, this is another server or mount than the root's, and
// what the root has is not known.
func (r *Root) missing(ctx context.Context, name string) error {
	_, err := r.info(ctx, r.recordKey())
	if err == nil {
		return fmt.Errorf("vault: the transit key %s is gone, and the root's other keys are there: %w", name, kms.ErrCorrupt)
	}
	if vaultapi.Is(err, vaultapi.Absent) {
		return &missingKeyError{r.recordKey()}
	}
	return err
}

// refusedUse finds out why transit refuses to use the key of h: cause is what
// it said.
func (r *Root) refusedUse(ctx context.Context, h keyHandle, op string, cause error) error {
	r.forget(h.name)
	k, err := r.lookUp(ctx, h)
	if err != nil {
		return err
	}
	if h.purpose == kms.Authentication && k.MinEncryption > macVersion {
		return tooOld(h.name, k)
	}
	if h.purpose == kms.Encryption {
		if err := r.examine(ctx, h); err != nil {
			return err
		}
	}
	return failed(op, cause)
}

func tooOld(name string, k keyInfo) error {
	return fmt.Errorf("vault: min_encryption_version of the transit key %s is %d: its version 1 makes no MACs: %w", name, k.MinEncryption, kms.ErrDenied)
}

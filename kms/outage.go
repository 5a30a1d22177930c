package kms

import (
	"context"
	"errors"
	"time"
)

// rootEncrypt is Root.Encrypt, counted and watched.
func (k *KMS) rootEncrypt(ctx context.Context, handle, plaintext, additionalData []byte) ([]byte, error) {
	c, err := k.root.Encrypt(ctx, handle, plaintext, additionalData)
	if err != nil {
		return nil, k.rootError(err)
	}
	k.rootAnswered()
	return c, nil
}

// rootDecrypt is Root.Decrypt, counted and watched.
func (k *KMS) rootDecrypt(ctx context.Context, handle, ciphertext, additionalData []byte) ([]byte, error) {
	p, err := k.root.Decrypt(ctx, handle, ciphertext, additionalData)
	if err != nil {
		return nil, k.rootError(err)
	}
	k.rootAnswered()
	return p, nil
}

// rootError counts what a root answers when it cannot be used. The first such
// answer after a good one is the beginning of an outage.
func (k *KMS) rootError(err error) error {
	if errors.Is(err, ErrCiphertext) {
		k.rootAnswered()
		return err
	}
	k.stats.rootErrors.Add(1)
	k.rootFailed(err)
	return err
}

func (k *KMS) rootFailed(err error) {
	if errors.Is(err, ErrUnavailable) && !errors.Is(err, context.Canceled) {
		k.outage.CompareAndSwap(0, k.cfg.Now().UnixNano())
	}
}

// rootSeen learns from a status of the root. Without it the outage that one
// failed call began would last, on a node with nothing to ask of the root, until
// its window is used up when the next one comes.
func (k *KMS) rootSeen(status error) {
	if status == nil {
		k.rootAnswered()
		return
	}
	k.rootFailed(status)
}

// rootAnswered ends an outage.
func (k *KMS) rootAnswered() {
	if k.outage.Load() != 0 {
		k.outage.Store(0)
	}
}

// outageFor returns for how long the root has been out, 0 if it is not.
func (k *KMS) outageFor() time.Duration {
	since := k.outage.Load()
	if since == 0 {
		return 0
	}
	return time.Duration(k.cfg.Now().UnixNano() - since)
}

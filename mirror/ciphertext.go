package mirror

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/keygate/keygate/kms"
)

// A message is a ciphertext. Its bytes are
//
//	1     format, 1
//	2+n   size of the first root's half, and the half; 0 and none if it was made
//	      while that root was away
//	2+m   the same of the second; not both are 0
//	28+k  body: AES-256-GCM of the plaintext under the message key: nonce 12,
//	      encrypted plaintext, tag 16
//	8     the first bytes of the SHA-256 hash of all before
//
// The message key is 32 bytes and is used once. A half is what Root.Encrypt of one
// root makes of the message key and 8 bytes of its SHA-256 hash, with the additional
// data of halfData. The additional data of the body is all before it, and the hash of
// the caller's. So the body opens only with exactly these halves: one that was put in
// from another message, cut out or changed is found with the other one alone.
//
// The hash at the end finds damage without a call of a root. It proves nothing.
type message struct {
	halves [2][]byte
	head   []byte // all before the body
	body   []byte
}

const (
	messageFormat = 1
	gcmOverhead   = 12 + 16
	// keySum is how many bytes of the hash of a message key are encrypted with it: a
	// root that opens a half to something else fails, and the message is not bad.
	keySum = 8
	// maxHalf bounds a half, so that a wrapped branch key stays under
	// envelope.MaxWrapped, 4096 bytes.
	maxHalf    = 1900
	maxMessage = 1 + 2*(2+maxHalf) + gcmOverhead + kms.MaxRootPlaintext + sumSize
	domain     = "keygate mirror 1\x00"
)

// halfData is the additional data of a half: a constant, so that it is nothing else
// that the root has encrypted, and the hash of the caller's, of one size.
func halfData(additionalData []byte) []byte {
	sum := sha256.Sum256(additionalData)
	return append([]byte(domain), sum[:]...)
}

// bodyData is the additional data of the body.
func (m message) bodyData(additionalData []byte) []byte {
	sum := sha256.Sum256(additionalData)
	return append(bytes.Clone(m.head), sum[:]...)
}

// newHead sets the head of m by its halves.
func (m *message) newHead() {
	m.head = []byte{messageFormat}
	for _, half := range m.halves {
		m.head = appendSized(m.head, half)
	}
}

// parseMessage reads a ciphertext, or returns ErrCiphertext. The halves are copies.
func parseMessage(b []byte) (message, error) {
	m, err := readMessage(b)
	if err != nil {
		return m, fmt.Errorf("mirror: decrypt %d bytes: %w: %w", len(b), err, kms.ErrCiphertext)
	}
	return m, nil
}

func readMessage(b []byte) (m message, err error) {
	if len(b) > maxMessage {
		return m, errors.New("too long")
	}
	all, ok := cutSum(b)
	if !ok || len(all) < 1 {
		return m, errors.New("damaged")
	}
	if all[0] != messageFormat {
		return m, fmt.Errorf("unknown format %d", all[0])
	}
	rest := all[1:]
	for i := range m.halves {
		if m.halves[i], rest, ok = cutSized(rest); !ok || len(m.halves[i]) > maxHalf {
			return m, errors.New("with parts of wrong sizes")
		}
		m.halves[i] = bytes.Clone(m.halves[i])
	}
	if len(m.halves[0])+len(m.halves[1]) == 0 || len(rest) < gcmOverhead || len(rest) > gcmOverhead+kms.MaxRootPlaintext {
		return m, errors.New("with parts of wrong sizes")
	}
	m.head, m.body = all[:len(all)-len(rest)], rest
	return m, nil
}

// Encrypt encrypts in this process, under a message key that both roots encrypt and
// have decrypted again; see kms.Root. While one root is away, Config.Degraded says
// whether the other is enough.
func (r *Root) Encrypt(ctx context.Context, handle, plaintext, additionalData []byte) ([]byte, error) {
	h, err := handleFor(handle, kms.Encryption)
	if err != nil {
		return nil, err
	}
	if len(plaintext) > kms.MaxRootPlaintext || len(additionalData) > kms.MaxRootAD {
		return nil, fmt.Errorf("mirror: encrypt %d bytes with %d of additional data: %w", len(plaintext), len(additionalData), kms.ErrUnsupported)
	}
	// The plaintext is in the key's making, as branch keys and DEKs are random
	// themselves: it is no worse than they are where the system's source is bad.
	key := extract(plaintext)
	defer clear(key)
	var m message
	if m.halves, err = r.sealHalves(ctx, h, key, halfData(additionalData)); err != nil {
		return nil, err
	}
	m.newHead()
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	return appendSum(append(m.head, gcm.Seal(nil, nil, plaintext, m.bodyData(additionalData))...)), nil
}

// sealHalves returns what the roots make of a message key.
func (r *Root) sealHalves(ctx context.Context, h keyHandle, key, data []byte) ([2][]byte, error) {
	if r.cfg.Degraded != DegradedAllowed {
		if err := r.complete(ctx, "encrypt"); err != nil {
			return [2][]byte{}, err
		}
	}
	halves, errs := both(ctx, r, func(ctx context.Context, s *side, root kms.Root) ([]byte, error) {
		return sealHalf(ctx, root, h.halves[s.index], key, data)
	})
	err := r.joined(ctx, "encrypt", errs)
	if err == nil || !r.oneIsEnough(ctx, errs) {
		return halves, err
	}
	for i, s := range r.sides {
		if errs[i] != nil {
			halves[i] = nil
			s.stats.missing.Add(1)
			if meaning(errs[i]) == kms.ErrCorrupt {
				r.disagree(ctx, "encrypt", r.sides[1-i], errs[i])
			}
		}
	}
	return halves, nil
}

// oneIsEnough reports whether what one root has done may stand without the other.
func (r *Root) oneIsEnough(ctx context.Context, errs [2]error) bool {
	if r.cfg.Degraded != DegradedAllowed || ctx.Err() != nil || errs[0] != nil && errs[1] != nil {
		return false
	}
	return meaning(errors.Join(errs[:]...)) != kms.ErrUnsupported
}

// sealHalf has a root encrypt a message key, and decrypt it again: nobody would
// notice a half that does not open before the other root is lost.
func sealHalf(ctx context.Context, root kms.Root, handle, key, data []byte) ([]byte, error) {
	sum := sha256.Sum256(key)
	summed := append(append(make([]byte, 0, kms.KeySize+keySum), key...), sum[:keySum]...)
	defer clear(summed)
	half, err := root.Encrypt(ctx, handle, summed, data)
	if err != nil {
		return nil, err
	}
	if len(half) == 0 || len(half) > maxHalf {
		return nil, fmt.Errorf("it encrypts %d bytes to %d, which are not from 1 to %d: %w", len(summed), len(half), maxHalf, kms.ErrUnsupported)
	}
	back, err := root.Decrypt(ctx, handle, half, data)
	defer clear(back)
	switch {
	case errors.Is(err, kms.ErrCiphertext):
		return nil, fmt.Errorf("%w: it does not open what it has encrypted: %v", kms.ErrUnavailable, err)
	case err == nil && !bytes.Equal(back, summed):
		return nil, fmt.Errorf("%w: it opens what it has encrypted to something else", kms.ErrUnavailable)
	}
	return half, err
}

// Decrypt opens what Encrypt made, with either root; see kms.Root. ErrCiphertext is
// returned only if a root says so of its half, or opens it to a message key that does
// not open the body, and the other root does not open it either. One root is enough
// for that, as it is where there is only one: each half was opened once when it was
// made, and a root says ErrCiphertext only when it is well.
func (r *Root) Decrypt(ctx context.Context, handle, ciphertext, additionalData []byte) ([]byte, error) {
	h, err := handleFor(handle, kms.Encryption)
	if err != nil {
		return nil, err
	}
	if len(additionalData) > kms.MaxRootAD {
		return nil, fmt.Errorf("mirror: decrypt with %d bytes of additional data: %w", len(additionalData), kms.ErrCiphertext)
	}
	m, err := parseMessage(ciphertext)
	if err != nil {
		return nil, err
	}
	m.body = bytes.Clone(m.body)
	ofHalf, ofBody := halfData(additionalData), m.bodyData(additionalData)
	return either(ctx, r, "decrypt", r.holders(m), wipe, func(ctx context.Context, s *side, root kms.Root) ([]byte, error) {
		key, err := openHalf(ctx, root, h.halves[s.index], m.halves[s.index], ofHalf)
		if err != nil {
			return nil, err
		}
		defer clear(key)
		return openBody(key, m.body, ofBody)
	})
}

// holders returns the sides that have a half of m.
func (r *Root) holders(m message) (sides []*side) {
	for i, s := range r.sides {
		if len(m.halves[i]) > 0 {
			sides = append(sides, s)
		}
	}
	return sides
}

// openHalf returns the message key in a half, for the caller to wipe.
func openHalf(ctx context.Context, root kms.Root, handle, half, data []byte) ([]byte, error) {
	summed, err := root.Decrypt(ctx, handle, half, data)
	if err != nil {
		return nil, err
	}
	if len(summed) != kms.KeySize+keySum {
		clear(summed)
		return nil, fmt.Errorf("%w: it opens a half to %d bytes", kms.ErrUnavailable, len(summed))
	}
	key := summed[:kms.KeySize]
	if sum := sha256.Sum256(key); subtle.ConstantTimeCompare(sum[:keySum], summed[kms.KeySize:]) != 1 {
		clear(summed)
		return nil, fmt.Errorf("%w: it opens a half to something that was not encrypted", kms.ErrUnavailable)
	}
	clear(summed[kms.KeySize:])
	return key, nil
}

func openBody(key, body, data []byte) ([]byte, error) {
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	plaintext, err := gcm.Open(nil, nil, body, data)
	if err != nil {
		return nil, fmt.Errorf("the body, or the other half, is not that of this half: %w", kms.ErrCiphertext)
	}
	return plaintext, nil
}

// newGCM returns AES-256-GCM that makes its nonces itself, as FIPS 140-3 mode
// requires.
func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w: %w", kms.ErrUnavailable, err)
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w: %w", kms.ErrUnavailable, err)
	}
	return gcm, nil
}

// Partial reports whether a ciphertext was made while one root was away, so that
// only the other one opens it.
func (r *Root) Partial(ciphertext []byte) bool {
	m, err := readMessage(ciphertext)
	return err == nil && len(r.holders(m)) == 1
}

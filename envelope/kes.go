package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"fmt"
)

// A KES is a ciphertext that KES made under an AES-256 key. The key that opens
// it is HMAC-SHA-256(master key, IV).
type KES struct {
	IV     [16]byte
	nonce  [nonceSize]byte
	sealed []byte // ciphertext and tag
}

// kesOverhead is what KES's newest form adds to a plaintext, in bytes.
const kesOverhead = tagSize + 16 + nonceSize

// ParseKES reads the three forms of KES; the result shares memory with
// ciphertext. What does not parse as one of the two older forms is taken for
// the newest, which has no structure: a random one may begin as they do. It
// returns ErrFormat for what is too short or too long to be any of them, and
// ErrUnsupported for one that an older form marks as ChaCha20.
func ParseKES(ciphertext []byte) (KES, error) {
	if len(ciphertext) < kesOverhead || len(ciphertext) > MaxSize {
		return KES{}, fmt.Errorf("%w: %d bytes", ErrFormat, len(ciphertext))
	}
	for _, parse := range []func([]byte) (KES, string, bool){parseKESMessagePack, parseKESJSON} {
		c, algorithm, ok := parse(ciphertext)
		switch {
		case ok && kesAES[algorithm]:
			return c, nil
		case ok && kesChaCha[algorithm]:
			return KES{}, fmt.Errorf("%w: %s", ErrUnsupported, algorithm)
		}
	}
	return parseKESRaw(ciphertext), nil
}

// The names of algorithms in the two older forms.
var (
	kesAES    = map[string]bool{"AES256": true, "AES256-GCM_SHA256": true, "AES-256-GCM-HMAC-SHA-256": true}
	kesChaCha = map[string]bool{"ChaCha20": true, "XCHACHA20-POLY1305": true, "ChaCha20Poly1305": true}
)

// parseKESRaw reads ciphertext, tag, iv, nonce: at least kesOverhead bytes.
func parseKESRaw(b []byte) (c KES) {
	end := len(b) - len(c.IV) - len(c.nonce)
	c.sealed = b[:end:end]
	copy(c.IV[:], b[end:])
	copy(c.nonce[:], b[end+len(c.IV):])
	return c
}

func newKES(iv, nonce, sealed []byte) (c KES, ok bool) {
	if len(iv) != len(c.IV) || len(nonce) != len(c.nonce) || len(sealed) < tagSize {
		return KES{}, false
	}
	copy(c.IV[:], iv)
	copy(c.nonce[:], nonce)
	c.sealed = sealed
	return c, true
}

// parseKESJSON reads {"aead","id","iv","nonce","bytes"}.
func parseKESJSON(b []byte) (c KES, algorithm string, ok bool) {
	if len(b) == 0 || b[0] != '{' {
		return KES{}, "", false
	}
	var v struct {
		AEAD  string `json:"aead"`
		IV    []byte `json:"iv"`
		Nonce []byte `json:"nonce"`
		Bytes []byte `json:"bytes"`
	}
	if json.Unmarshal(b, &v) != nil {
		return KES{}, "", false
	}
	c, ok = newKES(v.IV, v.Nonce, v.Bytes)
	return c, v.AEAD, ok
}

// parseKESMessagePack reads an array of five: the strings algorithm and id, and
// the byte strings iv, nonce and bytes.
func parseKESMessagePack(b []byte) (c KES, algorithm string, ok bool) {
	if len(b) == 0 || b[0] != 0x95 {
		return KES{}, "", false
	}
	p := messagePack{b: b[1:]}
	name, _ := p.str(), p.str()
	iv, nonce, sealed := p.bin(), p.bin(), p.bin()
	if p.bad || len(p.b) != 0 {
		return KES{}, "", false
	}
	c, ok = newKES(iv, nonce, sealed)
	return c, string(name), ok
}

// OpenKES returns the plaintext of c, or ErrAuth. subkey is
// HMAC-SHA-256(master key, c.IV), and the caller wipes it; the context is the
// additional data itself.
func OpenKES(c KES, subkey *[KeySize]byte, context []byte) ([]byte, error) {
	block, err := aes.NewCipher(subkey[:])
	if err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	// The nonce comes from the ciphertext. NewGCMWithRandomNonce takes it from
	// the front, and is allowed where GODEBUG=fips140=only forbids NewGCM.
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	sealed := make([]byte, 0, nonceSize+len(c.sealed))
	sealed = append(append(sealed, c.nonce[:]...), c.sealed...)
	plaintext, err := aead.Open(nil, nil, sealed, context)
	if err != nil {
		return nil, ErrAuth
	}
	return plaintext, nil
}

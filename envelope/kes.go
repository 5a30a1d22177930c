package envelope

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
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

// ParseKES reads the three forms of KES. What does not parse as one of the two
// older ones is taken for the newest, which has no structure: ErrFormat means
// that it is shorter than that one can be, or for an algorithm other than AES.
func ParseKES(ciphertext []byte) (KES, error) {
	if len(ciphertext) > MaxSize {
		return KES{}, fmt.Errorf("%w: %d bytes", ErrFormat, len(ciphertext))
	}
	if c, algorithm, ok := parseKESMessagePack(ciphertext); ok {
		return c, checkKES(algorithm)
	}
	if c, algorithm, ok := parseKESJSON(ciphertext); ok {
		return c, checkKES(algorithm)
	}
	const overhead = tagSize + 16 + nonceSize
	if len(ciphertext) < overhead {
		return KES{}, fmt.Errorf("%w: %d bytes", ErrFormat, len(ciphertext))
	}
	var c KES
	end := len(ciphertext) - 16 - nonceSize
	c.sealed = ciphertext[:end:end]
	copy(c.IV[:], ciphertext[end:])
	copy(c.nonce[:], ciphertext[end+16:])
	return c, nil
}

func checkKES(algorithm string) error {
	switch algorithm {
	case "AES256", "AES256-GCM_SHA256", "AES-256-GCM-HMAC-SHA-256":
		return nil
	}
	return fmt.Errorf("%w: not of AES-256-GCM", ErrFormat)
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
	if json.NewDecoder(bytes.NewReader(b)).Decode(&v) != nil {
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

// A messagePack takes values from the front of b. Once one was of another kind
// or too long, bad is set and every value is nil.
type messagePack struct {
	b   []byte
	bad bool
}

func (p *messagePack) take(n int) []byte {
	if p.bad || n < 0 || n > len(p.b) {
		p.bad = true
		return nil
	}
	v := p.b[:n:n]
	p.b = p.b[n:]
	return v
}

// length reads a length of size bytes.
func (p *messagePack) length(size int) int {
	v := p.take(size)
	switch {
	case p.bad:
		return -1
	case size == 1:
		return int(v[0])
	case size == 2:
		return int(binary.BigEndian.Uint16(v))
	}
	return int(binary.BigEndian.Uint32(v))
}

// str reads a fixstr, str 8, str 16 or str 32.
func (p *messagePack) str() []byte {
	kind := p.take(1)
	switch {
	case p.bad:
		return nil
	case kind[0]&0xe0 == 0xa0:
		return p.take(int(kind[0] & 0x1f))
	case 0xd9 <= kind[0] && kind[0] <= 0xdb:
		return p.take(p.length(1 << (kind[0] - 0xd9)))
	}
	p.bad = true
	return nil
}

// bin reads a bin 8, bin 16 or bin 32.
func (p *messagePack) bin() []byte {
	kind := p.take(1)
	if !p.bad && 0xc4 <= kind[0] && kind[0] <= 0xc6 {
		return p.take(p.length(1 << (kind[0] - 0xc4)))
	}
	p.bad = true
	return nil
}

// OpenKES returns the plaintext of c, or ErrAuth. subkey is
// HMAC-SHA-256(master key, c.IV); the context is the additional data itself.
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

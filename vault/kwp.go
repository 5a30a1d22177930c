package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
)

// wrapPadded wraps key by kek, an AES key, with AES key wrap with padding
// (RFC 5649 4.1, NIST SP 800-38F KWP-AE), as transit's import wants it.
func wrapPadded(kek, key []byte) ([]byte, error) {
	if len(key) == 0 || len(key) > 4096 {
		return nil, errors.New("vault: key wrap: a key of a wrong size")
	}
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	n := (len(key) + 7) / 8 // semiblocks
	out := make([]byte, 8+8*n)
	binary.BigEndian.PutUint32(out, 0xa65959a6) // the alternative initial value, RFC 5649 3
	binary.BigEndian.PutUint32(out[4:], uint32(len(key)))
	copy(out[8:], key)
	if n == 1 {
		block.Encrypt(out, out)
		return out, nil
	}
	wrapBlocks(block, out)
	return out, nil
}

// wrapBlocks is the wrapping process of RFC 3394 2.2.1, index based, in place:
// the first semiblock is the initial value.
func wrapBlocks(block cipher.Block, b []byte) {
	n := len(b)/8 - 1
	var buf [aes.BlockSize]byte
	defer clear(buf[:])
	copy(buf[:8], b)
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(buf[8:], b[8*i:8*i+8])
			block.Encrypt(buf[:], buf[:])
			copy(b[8*i:], buf[8:])
			t := binary.BigEndian.Uint64(buf[:]) ^ uint64(n*j+i)
			binary.BigEndian.PutUint64(buf[:], t)
		}
	}
	copy(b, buf[:8])
}

package api

import "encoding/base64"

// The answers of data keys encode themselves, byte for byte as package
// json would (but see appendBinary), so that no copy of a secret stays behind in a buffer of that
// package. AppendJSON appends the JSON of an answer to dst, which MaxJSON is room
// enough for, so that none stays behind in a buffer that was too small, and Wipe
// overwrites the answer's secret.

// maxJSON is the room for an answer with binary fields of so many bytes in all.
func maxJSON(bytes int) int { return base64.StdEncoding.EncodedLen(bytes) + 64 }

// MaxJSON returns at least the bytes that AppendJSON appends.
func (r *GenerateKeyResponse) MaxJSON() int { return maxJSON(len(r.Plaintext) + len(r.Ciphertext)) }

// AppendJSON appends the answer as JSON.
func (r *GenerateKeyResponse) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	if r.Plaintext != nil {
		dst = append(appendBinary(append(dst, `"plaintext":`...), r.Plaintext), ',')
	}
	return append(appendBinary(append(dst, `"ciphertext":`...), r.Ciphertext), '}')
}

// Wipe overwrites the plaintext.
func (r *GenerateKeyResponse) Wipe() { clear(r.Plaintext) }

// MaxJSON returns at least the bytes that AppendJSON appends.
func (r *EncryptResponse) MaxJSON() int { return maxJSON(len(r.Ciphertext)) }

// AppendJSON appends the answer as JSON.
func (r *EncryptResponse) AppendJSON(dst []byte) []byte {
	return append(appendBinary(append(dst, `{"ciphertext":`...), r.Ciphertext), '}')
}

// Wipe does nothing: a ciphertext is no secret.
func (r *EncryptResponse) Wipe() {}

// MaxJSON returns at least the bytes that AppendJSON appends.
func (r *DecryptResponse) MaxJSON() int { return maxJSON(len(r.Plaintext)) }

// AppendJSON appends the answer as JSON.
func (r *DecryptResponse) AppendJSON(dst []byte) []byte {
	return append(appendBinary(append(dst, `{"plaintext":`...), r.Plaintext), '}')
}

// Wipe overwrites the plaintext.
func (r *DecryptResponse) Wipe() { clear(r.Plaintext) }

// MaxJSON returns at least the bytes that AppendJSON appends.
func (r *HMACResponse) MaxJSON() int { return maxJSON(len(r.HMAC)) }

// AppendJSON appends the answer as JSON.
func (r *HMACResponse) AppendJSON(dst []byte) []byte {
	return append(appendBinary(append(dst, `{"hmac":`...), r.HMAC), '}')
}

// Wipe overwrites the HMAC.
func (r *HMACResponse) Wipe() { clear(r.HMAC) }

// appendBinary appends b in base64. Unlike package json it writes an empty
// string for nil, not null: a plaintext of no bytes is one.
func appendBinary(dst, b []byte) []byte {
	dst = base64.StdEncoding.AppendEncode(append(dst, '"'), b)
	return append(dst, '"')
}

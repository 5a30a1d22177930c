package api

import "encoding/base64"

// The answers of data keys encode themselves, byte for byte as package
// json would (but see appendBinary), so that no copy of a secret stays behind in a buffer of that
// package. AppendJSON appends the JSON of an answer to dst, and Wipe overwrites
// the answer's secret.

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

// AppendJSON appends the answer as JSON.
func (r *EncryptResponse) AppendJSON(dst []byte) []byte {
	return append(appendBinary(append(dst, `{"ciphertext":`...), r.Ciphertext), '}')
}

// Wipe does nothing: a ciphertext is no secret.
func (r *EncryptResponse) Wipe() {}

// AppendJSON appends the answer as JSON.
func (r *DecryptResponse) AppendJSON(dst []byte) []byte {
	return append(appendBinary(append(dst, `{"plaintext":`...), r.Plaintext), '}')
}

// Wipe overwrites the plaintext.
func (r *DecryptResponse) Wipe() { clear(r.Plaintext) }

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

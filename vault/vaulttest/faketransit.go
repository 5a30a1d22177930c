package vaulttest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

type transitKey struct {
	kind       string
	versions   [][]byte
	deletion   bool
	exportable bool
	minDecrypt int
}

// wrappingKey is made once for a process; Vault's has 4096 bits.
var wrappingKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func text(body map[string]any, field string) string { s, _ := body[field].(string); return s }

func decode(body map[string]any, field string) []byte {
	b, _ := base64.StdEncoding.DecodeString(text(body, field))
	return b
}

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// Rotate adds a version to a transit key, as an operator would.
func (f *Fake) Rotate(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.transit[name]
	k.versions = append(k.versions, newBytes(32))
}

// Forget removes a transit key, as if Vault had lost it.
func (f *Fake) Forget(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.transit, name)
}

// TransitKeys returns the names of the transit keys.
func (f *Fake) TransitKeys() (names []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name := range f.transit {
		names = append(names, name)
	}
	return names
}

func newBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func (f *Fake) transitRoute(method, path string, body map[string]any) reply {
	verb, name, _ := strings.Cut(path, "/")
	name, sub, _ := strings.Cut(name, "/")
	k := f.transit[name]
	switch {
	case verb == "random":
		n, _ := body["bytes"].(float64)
		return ok(map[string]any{"random_bytes": encode(newBytes(int(n)))})
	case verb == "wrapping_key":
		der, err := x509.MarshalPKIXPublicKey(wrappingKey().Public())
		if err != nil {
			panic(err)
		}
		return ok(map[string]any{"public_key": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))})
	case verb == "keys" && name == "":
		names := []string{}
		for name := range f.transit {
			names = append(names, name)
		}
		return ok(map[string]any{"keys": names})
	case verb == "keys":
		return f.keyRoute(method, name, sub, k, body)
	case verb == "encrypt" && k == nil && body["convergent_encryption"] != true:
		k = &transitKey{kind: "aes256-gcm96", versions: [][]byte{newBytes(32)}}
		f.transit[name] = k // as Vault does
		return k.encrypt(body)
	case k == nil:
		return bad(http.StatusBadRequest, "encryption key not found")
	case verb == "encrypt":
		return k.encrypt(body)
	case verb == "decrypt":
		return k.decrypt(body)
	case verb == "hmac":
		return k.hmac(body)
	}
	return bad(http.StatusNotFound)
}

func (f *Fake) keyRoute(method, name, sub string, k *transitKey, body map[string]any) reply {
	switch {
	case sub == "import":
		key, err := unwrap(decode(body, "ciphertext"))
		if err != nil {
			return bad(http.StatusInternalServerError, err.Error())
		}
		f.transit[name] = &transitKey{kind: text(body, "type"), versions: [][]byte{key}}
		return reply{status: http.StatusNoContent}
	case sub == "config" && k == nil:
		return bad(http.StatusBadRequest, "no existing key named "+name+" could be found")
	case sub == "config":
		k.deletion, _ = body["deletion_allowed"].(bool)
		return reply{status: http.StatusNoContent}
	case method == http.MethodDelete && k == nil:
		return bad(http.StatusBadRequest, "could not delete key; not found")
	case method == http.MethodDelete:
		if !k.deletion {
			return bad(http.StatusBadRequest, "deletion is not allowed for this key")
		}
		delete(f.transit, name)
		return reply{status: http.StatusNoContent}
	case method == http.MethodGet && k == nil:
		return bad(http.StatusNotFound)
	case method == http.MethodGet:
		return ok(map[string]any{
			"name": name, "type": k.kind, "exportable": k.exportable, "allow_plaintext_backup": false, "derived": false,
			"deletion_allowed": k.deletion, "latest_version": len(k.versions), "min_decryption_version": max(k.minDecrypt, 1), "min_encryption_version": 0, "min_available_version": 0,
		})
	}
	if k == nil {
		f.transit[name] = &transitKey{kind: text(body, "type"), versions: [][]byte{newBytes(32)}}
	}
	return reply{status: http.StatusNoContent}
}

func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func (k *transitKey) encrypt(body map[string]any) reply {
	if k.kind != "aes256-gcm96" {
		return bad(http.StatusBadRequest, "message encryption not supported for key type "+k.kind)
	}
	version := len(k.versions)
	sealed := gcm(k.versions[version-1]).Seal(nil, nil, decode(body, "plaintext"), decode(body, "associated_data"))
	return ok(map[string]any{"ciphertext": fmt.Sprintf("vault:v%d:%s", version, encode(sealed)), "key_version": version})
}

func (k *transitKey) decrypt(body map[string]any) reply {
	var version int
	var sealed string
	if _, err := fmt.Sscanf(text(body, "ciphertext"), "vault:v%d:%s", &version, &sealed); err != nil {
		return bad(http.StatusBadRequest, "invalid ciphertext: no prefix")
	}
	if version > len(k.versions) {
		return bad(http.StatusBadRequest, "invalid ciphertext: version is too new")
	}
	if version < k.minDecrypt {
		return bad(http.StatusBadRequest, "ciphertext or signature version is disallowed by policy (too old)")
	}
	raw, _ := base64.StdEncoding.DecodeString(sealed)
	plaintext, err := gcm(k.versions[max(version, 1)-1]).Open(nil, nil, raw, decode(body, "associated_data"))
	if err != nil {
		return bad(http.StatusBadRequest, "cipher: message authentication failed")
	}
	return ok(map[string]any{"plaintext": encode(plaintext)})
}

func (k *transitKey) hmac(body map[string]any) reply {
	version, _ := body["key_version"].(float64)
	if version == 0 {
		version = float64(len(k.versions))
	}
	var results []map[string]any
	for _, item := range body["batch_input"].([]any) {
		h := hmac.New(sha256.New, k.versions[int(version)-1])
		h.Write(decode(item.(map[string]any), "input"))
		results = append(results, map[string]any{"hmac": fmt.Sprintf("vault:v%d:%s", int(version), encode(h.Sum(nil)))})
	}
	return ok(map[string]any{"batch_results": results})
}

// unwrap opens what is imported: a key of AES-256 by RSA-OAEP, and by that one,
// with RFC 5649, the key.
func unwrap(b []byte) ([]byte, error) {
	if len(b) <= 256 {
		return nil, errors.New("provided ciphertext is too short")
	}
	ephemeral, err := rsa.DecryptOAEP(sha256.New(), nil, wrappingKey(), b[:256], nil)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(ephemeral)
	if err != nil {
		return nil, err
	}
	return unwrapPadded(block, b[256:])
}

// unwrapPadded is RFC 5649 4.2 for keys of more than 8 bytes.
func unwrapPadded(block cipher.Block, wrapped []byte) ([]byte, error) {
	n := len(wrapped)/8 - 1
	a, r := append([]byte(nil), wrapped[:8]...), append([]byte(nil), wrapped[8:]...)
	b := make([]byte, 16)
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			copy(b, a)
			b[7] ^= byte(n*j + i)
			copy(b[8:], r[(i-1)*8:i*8])
			block.Decrypt(b, b)
			copy(a, b[:8])
			copy(r[(i-1)*8:], b[8:])
		}
	}
	size := int(binary.BigEndian.Uint32(a[4:]))
	if binary.BigEndian.Uint32(a) != 0xa65959a6 || size > len(r) || size <= len(r)-8 {
		return nil, errors.New("unwrap failed")
	}
	return r[:size], nil
}

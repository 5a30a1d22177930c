package api

import (
	"fmt"
	"io"
	"log/slog"
)

// A Secret is bytes of a key, a plaintext, a message or an HMAC. On the wire it is
// base64, as any []byte. Packages fmt and slog get a mark in its place, which tells
// nothing of its length. It can be assigned to and from []byte.
//
// The structs that hold one say so to slog themselves (LogValue), as slog's JSON
// handler gives them to package json otherwise. It does so with slices of them, too,
// which have no method to prevent it: do not log these.
type Secret []byte

const redacted = "[redacted]"

// Format writes a mark, whatever the verb is.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// String returns a mark.
func (Secret) String() string { return redacted }

// LogValue returns a mark.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// LogValue returns a mark: the request holds a key.
func (ImportKeyRequest) LogValue() slog.Value { return slog.StringValue(redacted) }

// LogValue returns a mark: the answer holds a data key.
func (GenerateKeyResponse) LogValue() slog.Value { return slog.StringValue(redacted) }

// LogValue returns a mark: the request holds a plaintext.
func (EncryptRequest) LogValue() slog.Value { return slog.StringValue(redacted) }

// LogValue returns a mark: the answer holds a plaintext.
func (DecryptResponse) LogValue() slog.Value { return slog.StringValue(redacted) }

// LogValue returns a mark: the request holds a message.
func (HMACRequest) LogValue() slog.Value { return slog.StringValue(redacted) }

// LogValue returns a mark: the answer holds an HMAC.
func (HMACResponse) LogValue() slog.Value { return slog.StringValue(redacted) }

// LogValue returns a mark: the item holds a plaintext.
func (BatchDecryptItem) LogValue() slog.Value { return slog.StringValue(redacted) }

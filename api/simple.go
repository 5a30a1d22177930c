package api

import (
	"bytes"
	"encoding/base64"
)

// Nearly all bodies of data keys are one object of a few binary fields without
// escapes. DecodeSimple reads these, and leaves all else, also what is malformed, to
// package json: whatever it takes, package json reads in the same way. It changes
// nothing where it reports false.

// DecodeSimple reads a body that is simple.
func (r *GenerateKeyRequest) DecodeSimple(body []byte) bool {
	var fields [1][]byte
	if !simpleObject(body, []string{"context"}, fields[:]) {
		return false
	}
	context, ok := simpleBinary(fields[0])
	if ok {
		r.Context = context
	}
	return ok
}

// DecodeSimple reads a body that is simple.
func (r *DecryptRequest) DecodeSimple(body []byte) bool {
	var fields [2][]byte
	if !simpleObject(body, []string{"ciphertext", "context"}, fields[:]) {
		return false
	}
	ciphertext, ok := simpleBinary(fields[0])
	if !ok {
		return false
	}
	context, ok := simpleBinary(fields[1])
	if ok {
		r.Ciphertext, r.Context = ciphertext, context
	}
	return ok
}

// DecodeSimple reads a body that is simple.
func (r *EncryptRequest) DecodeSimple(body []byte) bool {
	var fields [2][]byte
	if !simpleObject(body, []string{"plaintext", "context"}, fields[:]) {
		return false
	}
	plaintext, ok := simpleBinary(fields[0])
	if !ok {
		return false
	}
	context, ok := simpleBinary(fields[1])
	if !ok {
		clear(plaintext)
		return false
	}
	r.Plaintext, r.Context = plaintext, context
	return true
}

// simpleBinary decodes what stands between the quotes of a field. None is nil.
func simpleBinary(text []byte) ([]byte, bool) {
	if text == nil {
		return nil, true
	}
	b := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(b, text)
	if err != nil {
		clear(b)
		return nil, false
	}
	return b[:n], true
}

// simpleObject puts into fields what stands between the quotes of the fields of
// those names, which have no escapes and stand there once at the most, in an object
// that has no others and that nothing follows.
func simpleObject(b []byte, names []string, fields [][]byte) bool {
	b, ok := after(b, '{')
	if !ok {
		return false
	}
	if end, ok := after(b, '}'); ok {
		return len(skipSpace(end)) == 0
	}
	for {
		var name, value []byte
		if name, b, ok = plainString(b); !ok {
			return false
		}
		if b, ok = after(b, ':'); !ok {
			return false
		}
		if value, b, ok = plainString(b); !ok {
			return false
		}
		i := index(names, name)
		if i < 0 || fields[i] != nil {
			return false
		}
		fields[i] = value
		if end, ok := after(b, '}'); ok {
			return len(skipSpace(end)) == 0
		}
		if b, ok = after(b, ','); !ok {
			return false
		}
	}
}

func index(names []string, name []byte) int {
	for i := range names {
		if string(name) == names[i] {
			return i
		}
	}
	return -1
}

// plainString reads a string without escapes. What it returns first is never nil
// where there is one.
func plainString(b []byte) (text, rest []byte, ok bool) {
	b, ok = after(b, '"')
	if !ok {
		return nil, nil, false
	}
	n := bytes.IndexByte(b, '"')
	if n < 0 {
		return nil, nil, false
	}
	text = b[:n:n]
	if bytes.IndexByte(text, '\\') >= 0 || bytes.ContainsAny(text, "\r\n") {
		return nil, nil, false // package base64 would pass over line breaks; package json does not
	}
	return text, b[n+1:], true
}

// after returns what follows c, if that is what comes next.
func after(b []byte, c byte) ([]byte, bool) {
	b = skipSpace(b)
	if len(b) == 0 || b[0] != c {
		return nil, false
	}
	return b[1:], true
}

func skipSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t' || b[0] == '\n' || b[0] == '\r') {
		b = b[1:]
	}
	return b
}

package vault

import (
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/keygate/keygate/kms"
)

const (
	ivSize        = 12
	tagSize       = 16
	wirePrefix    = "vault:v"
	maxCiphertext = len(wirePrefix) + 10 + 1 + (kms.MaxRootPlaintext+ivSize+tagSize+2)/3*4
)

// A value is what transit returns: "vault:v", the version of the key, a colon,
// and bytes in base64.
type value struct {
	version int
	raw     []byte
}

// parseValue takes a value in the one way that transit writes it. Transit reads
// more: base64 with line breaks or bits that are not used, and numbers with
// zeros before them, so that a ciphertext could be changed and still open.
func parseValue(text string) (value, bool) {
	rest, ok := strings.CutPrefix(text, wirePrefix)
	if !ok {
		return value{}, false
	}
	number, encoded, ok := strings.Cut(rest, ":")
	version, err := strconv.ParseUint(number, 10, 31)
	if !ok || err != nil || version == 0 || strconv.FormatUint(version, 10) != number {
		return value{}, false
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || base64.StdEncoding.EncodeToString(raw) != encoded {
		return value{}, false
	}
	return value{version: int(version), raw: raw}, true
}

// isCiphertext reports whether text can be of Encrypt.
func isCiphertext(text []byte) bool {
	if len(text) > maxCiphertext {
		return false
	}
	v, ok := parseValue(string(text))
	return ok && len(v.raw) >= ivSize+tagSize && len(v.raw) <= kms.MaxRootPlaintext+ivSize+tagSize
}

package fs

import (
	"strings"

	"github.com/keygate/keygate/keystore"
)

// The names of files. A record's file is its name with suffix; an upper-case
// letter is written as % and the lower-case letter, so that App and app are two
// files also where the file system ignores case (KS-12: APFS, ext4 casefold,
// SMB). No other file of a store ends in suffix.
const (
	suffix       = ".record"
	identityFile = "identity"
	tempPrefix   = ".tmp-"
)

// fileName returns the name of the file for a valid name: at most 167 bytes.
func fileName(name string) string {
	var b strings.Builder
	b.Grow(len(name) + len(suffix))
	for i := range len(name) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			b.WriteByte('%')
			c += 'a' - 'A'
		}
		b.WriteByte(c)
	}
	b.WriteString(suffix)
	return b.String()
}

// recordName is the inverse of fileName; ok is false for any file name that
// fileName does not make.
func recordName(file string) (name string, ok bool) {
	stem, ok := strings.CutSuffix(file, suffix)
	if !ok {
		return "", false
	}
	var b strings.Builder
	for i := 0; i < len(stem); i++ {
		c := stem[i]
		if c == '%' && i+1 < len(stem) && 'a' <= stem[i+1] && stem[i+1] <= 'z' {
			i++
			c = stem[i] - ('a' - 'A')
		}
		b.WriteByte(c)
	}
	name = b.String()
	return name, keystore.ValidName(name) && fileName(name) == file
}

func isTemp(file string) bool { return strings.HasPrefix(file, tempPrefix) }

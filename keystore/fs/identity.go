package fs

import (
	"errors"
	"strings"

	"github.com/keygate/keygate/keystore"
)

// The identity file says whose store a directory is, so that an empty directory
// or another cluster's is never taken for an empty store:
//
//	keygate key store 1
//	<identity>
//
// Updates and deletes also lock it; it is never written after Init.
const (
	identityHead    = "keygate key store 1\n"
	maxIdentity     = 128
	maxIdentityFile = len(identityHead) + maxIdentity + 1
)

func identityText(identity string) []byte { return []byte(identityHead + identity + "\n") }

// validIdentity: 1 to 128 of the printable ASCII characters, without space.
func validIdentity(identity string) bool {
	return identity != "" && len(identity) <= maxIdentity &&
		strings.IndexFunc(identity, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// readIdentity returns the identity that the directory fd bears. None, or one
// that cannot be read, is ErrUnavailable or ErrDenied.
func (s *Store) readIdentity(fd int) (string, fileID, error) {
	text, st, err := s.readFile(fd, identityFile, maxIdentityFile)
	switch {
	case errors.Is(err, errAbsent):
		return "", fileID{}, unavailable("no identity file: not a key store, or not mounted")
	case errors.Is(err, keystore.ErrCorrupt):
		return "", fileID{}, unavailable("identity file: %v", err)
	case err != nil:
		return "", fileID{}, err
	}
	identity, ok := strings.CutPrefix(string(text), identityHead)
	identity, ended := strings.CutSuffix(identity, "\n")
	if !ok || !ended || !validIdentity(identity) {
		return "", fileID{}, unavailable("identity file is not one of keygate")
	}
	return identity, regularID(&st), nil
}

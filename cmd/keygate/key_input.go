package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/keygate/keygate/kms"
)

// importedKey reads the key of an import. On a terminal it is not shown.
func (s *session) importedKey(args []string, raw bool) ([]byte, error) {
	in, err := s.keyText(args, raw)
	if err != nil {
		return nil, err
	}
	if raw {
		return checkKeySize(in)
	}
	defer clear(in)
	key, err := decodeBase64(in)
	if err != nil {
		return nil, errors.New("the key is not base64 (a key of 32 bytes as they are needs --raw)")
	}
	return checkKeySize(key)
}

func (s *session) keyText(args []string, raw bool) ([]byte, error) {
	if len(args) == 0 && !raw {
		if key, ok, err := s.promptedKey(); ok {
			return key, err
		}
	}
	return s.secret(args, "key")
}

func checkKeySize(key []byte) ([]byte, error) {
	if len(key) != kms.KeySize {
		clear(key)
		return nil, fmt.Errorf("the key has %d bytes, not %d", len(key), kms.KeySize)
	}
	return key, nil
}

// secret reads the file that args names, or standard input. what says what it
// is.
func (s *session) secret(args []string, what string) ([]byte, error) {
	if len(args) > 0 && args[0] != "-" {
		b, err := readFile(args[0])
		if errors.Is(err, fs.ErrNotExist) {
			// The name may be the secret itself: users of KES give it so.
			err = fmt.Errorf("there is no such file: the %s is read from a file or standard input, it is no argument", what)
		}
		return b, err
	}
	return readBounded(s.in, "standard input")
}

// promptedKey reads a key that is typed at a terminal, and does not show it. It
// reports false if standard input is no terminal.
func (s *session) promptedKey() (key []byte, ok bool, err error) {
	f, isFile := s.in.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return nil, false, nil
	}
	fmt.Fprint(os.Stderr, "key in base64: ")
	defer fmt.Fprintln(os.Stderr)
	key, err = term.ReadPassword(int(f.Fd()))
	return key, true, err
}

// ciphertext returns the ciphertext that is an argument or on standard input.
func (s *session) ciphertext(args []string) ([]byte, error) {
	var text []byte
	if len(args) > 0 && args[0] != "-" {
		text = []byte(args[0])
	} else {
		var err error
		if text, err = readBounded(s.in, "standard input"); err != nil {
			return nil, err
		}
	}
	ciphertext, err := decodeBase64(text)
	if err != nil {
		return nil, errors.New("the ciphertext is not base64")
	}
	return ciphertext, nil
}

func decodeBase64(text []byte) ([]byte, error) {
	text = bytes.TrimSpace(text)
	b := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(b, text)
	return b[:n], err
}

// writePlaintext writes a plaintext as it is, but to a terminal only if it is
// text: other bytes can be commands to it.
func writePlaintext(out io.Writer, plaintext []byte) error {
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		_, err := out.Write(plaintext)
		return err
	}
	if !isText(plaintext) {
		return errors.New("the plaintext is not text: send it to a file, or use --json")
	}
	_, err := fmt.Fprintf(out, "%s\n", bytes.TrimSuffix(plaintext, []byte("\n")))
	return err
}

func isText(b []byte) bool {
	return utf8.Valid(b) && bytes.IndexFunc(b, func(r rune) bool {
		return !unicode.IsPrint(r) && r != '\n' && r != '\t'
	}) < 0
}

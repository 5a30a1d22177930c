package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/keygate/keygate/kms"
)

// importedKey reads the key of an import. On a terminal it is not shown.
func (s *session) importedKey(args []string, raw bool) ([]byte, error) {
	in, err := s.secret(args, "key in base64: ")
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

func checkKeySize(key []byte) ([]byte, error) {
	if len(key) != kms.KeySize {
		clear(key)
		return nil, fmt.Errorf("the key has %d bytes, not %d", len(key), kms.KeySize)
	}
	return key, nil
}

// secret reads the file that args names, or standard input.
func (s *session) secret(args []string, prompt string) ([]byte, error) {
	if len(args) > 0 && args[0] != "-" {
		return readFile(args[0])
	}
	f, ok := s.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return readInput(s.in, "-")
	}
	fmt.Fprint(os.Stderr, prompt)
	defer fmt.Fprintln(os.Stderr)
	return term.ReadPassword(int(f.Fd()))
}

// ciphertext returns the ciphertext that is an argument or on standard input.
func (s *session) ciphertext(args []string) ([]byte, error) {
	var text []byte
	if len(args) > 0 && args[0] != "-" {
		text = []byte(args[0])
	} else {
		var err error
		if text, err = readInput(s.in, "-"); err != nil {
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

package main

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxInputFile bounds the files and the standard input that a command reads.
// The gateway takes no larger request.
const maxInputFile = 1_000_000

// readInput reads a file, or standard input where name is empty or "-".
func readInput(stdin io.Reader, name string) ([]byte, error) {
	if name == "" || name == "-" {
		return readBounded(stdin, "standard input")
	}
	return readFile(name)
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f, name)
}

func readBounded(r io.Reader, name string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxInputFile+1))
	if err == nil && len(b) > maxInputFile {
		err = fmt.Errorf("%s has more than %d bytes", name, maxInputFile)
	}
	if err != nil {
		clear(b)
		return nil, err
	}
	return b, nil
}

func readPrivateKey(name string) (crypto.Signer, error) {
	b, err := readFile(name)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	key, err := decodePrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}

// decodePrivateKey returns the first private key of a PEM text: PKCS #8, or the
// older forms of RSA and EC keys.
func decodePrivateKey(b []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "EC PARAMETERS" || block.Type == "CERTIFICATE" {
			continue
		}
		defer clear(block.Bytes)
		return parsePrivateKey(block)
	}
	return nil, errors.New("no private key in PEM form")
}

func parsePrivateKey(block *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	switch {
	case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
		return nil, errors.New("the private key is encrypted: decrypt it first")
	case block.Type == "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case block.Type == "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case block.Type == "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("unexpected PEM block %q", block.Type)
	}
	if err != nil {
		return nil, errors.New("the private key is malformed") // the cause could quote it
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the private key cannot sign")
	}
	return signer, nil
}

// parseCertificates returns all certificates of a PEM text.
func parseCertificates(b []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("no certificate in PEM form")
	}
	return all, nil
}

func readCertificates(name string) ([]*x509.Certificate, error) {
	b, err := readFile(name)
	if err != nil {
		return nil, err
	}
	all, err := parseCertificates(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return all, nil
}

// writeFile puts a file in place whole and durable, or not at all. Without
// replace, a file of that name stays as it is and the error is fs.ErrExist.
func writeFile(name string, data []byte, mode os.FileMode, replace bool) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, ".keygate-*")
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if rmErr := os.Remove(f.Name()); err == nil && rmErr != nil && !os.IsNotExist(rmErr) {
			err = rmErr
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := io.Copy(f, bytes.NewReader(data)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	place := os.Link
	if replace {
		place = os.Rename
	}
	if err := place(f.Name(), name); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s: %w", name, fs.ErrExist) // without the name of the temporary file
		}
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

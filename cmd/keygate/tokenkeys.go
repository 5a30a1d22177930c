package main

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/kms"
)

// Private keys in the token of root.pkcs11, which the configuration names by PKCS #11
// URIs. They are looked for when the root is open: a check of the file connects to
// nothing.

// keyInToken reports whether tls.key names a key in the token.
func (c *configuration) keyInToken() bool { return strings.HasPrefix(c.TLS.Key, "pkcs11:") }

// checkTokenKey reads tls.key as the name of a key in the token.
func (c *configuration) checkTokenKey() error {
	if c.TLS.Password != "" {
		return errors.New("tls.password is for a key in a file")
	}
	name, err := c.nameKey(c.TLS.Key)
	c.tlsKey = name
	return err
}

// nameKey reads a URI, and has the root opened so that the key can be used.
func (c *configuration) nameKey(uri string) (*hsm.KeyName, error) {
	name, err := hsm.ParseKeyName(uri)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "hsm: "))
	}
	if c.Root.PKCS11 == nil {
		return nil, fmt.Errorf("%q names a key in the token of root.pkcs11, which is not there", uri)
	}
	c.Root.PKCS11.Signs = true
	return &name, nil
}

// checkCheckpoint looks at audit.checkpoint.
func (c *configuration) checkCheckpoint(y *yamlFile) {
	checkpoint := c.Audit.Checkpoint
	if err := checkpoint.Check(); err != nil {
		text := strings.TrimPrefix(err.Error(), "audit: ")
		field, _, _ := strings.Cut(strings.TrimPrefix(text, "checkpoint."), ":")
		y.failAt(at("audit", "checkpoint", field), "audit.%s", text)
	}
	if checkpoint.Key == "" {
		return
	}
	var err error
	if c.auditKey, err = c.nameKey(checkpoint.Key); err != nil {
		y.failAt(at("audit", "checkpoint", "key"), "audit.checkpoint.key: %v", err)
	}
}

var errKeyUses = errors.New("the key that signs the audit log or attestations must not be that of TLS")

// checkKeyUses refuses one key for TLS and for what is kept: a client chooses a part of
// what TLS has signed.
func (c *configuration) checkKeyUses(y *yamlFile) {
	if c.tlsKey == nil {
		return
	}
	same := func(other hsm.KeyName) bool {
		return c.tlsKey.Object != "" && c.tlsKey.Object == other.Object || len(other.ID) > 0 && bytes.Equal(c.tlsKey.ID, other.ID)
	}
	if c.auditKey != nil && same(*c.auditKey) || same(hsm.KeyName{Object: c.Root.PKCS11.SigningKey}) {
		y.failAt(at("tls", "key"), "tls.key: %v", errKeyUses)
	}
}

// bindServerKey puts the private key that tls.key names in the token into force, if
// it names one. That of before, if it is the same and the certificate's, is not looked
// for again: the token may be away.
func (c *configuration) bindServerKey(ctx context.Context, root kms.Root, before *configuration) error {
	if c.tlsKey == nil || !c.keyInToken() {
		return nil
	}
	leaf := c.state.Certificate.Leaf
	if before != nil && before.TLS.Key == c.TLS.Key {
		if key, ok := before.state.Certificate.PrivateKey.(*hsm.Signer); ok && c.checkServerKey(leaf, key) == nil {
			c.state.Certificate.PrivateKey = key
			return nil
		}
	}
	key, err := signerOf(ctx, root, *c.tlsKey)
	if err == nil {
		err = c.checkServerKey(leaf, key)
	}
	if err == nil {
		err = c.checkOtherUses(ctx, root, key)
	}
	if err != nil {
		return fmt.Errorf("tls.key: %w", err)
	}
	c.state.Certificate.PrivateKey = key
	return nil
}

// checkOtherUses is checkKeyUses for keys that have more than one name: their public
// keys are compared. One that cannot be used now cannot sign, either.
func (c *configuration) checkOtherUses(ctx context.Context, root kms.Root, key crypto.Signer) error {
	names := []hsm.KeyName{{Object: c.Root.PKCS11.SigningKey}}
	if c.auditKey != nil {
		names = append(names, *c.auditKey)
	}
	for _, name := range names {
		if name.Object == "" && len(name.ID) == 0 {
			continue
		}
		other, err := signerOf(ctx, root, name)
		if err != nil {
			continue
		}
		if public, ok := other.Public().(interface{ Equal(crypto.PublicKey) bool }); ok && public.Equal(key.Public()) {
			return errKeyUses
		}
	}
	return nil
}

func signerOf(ctx context.Context, root kms.Root, name hsm.KeyName) (crypto.Signer, error) {
	r, ok := root.(*hsm.Root)
	if !ok {
		return nil, errors.New("the root of trust is no token")
	}
	s, err := r.Signer(ctx, name)
	if err != nil {
		return nil, err // s is a nil pointer, which would not be nil in an interface
	}
	return s, nil
}

// useTokenKeys finds the private keys that the configuration names.
func (n *node) useTokenKeys(ctx context.Context) error {
	if err := n.cfg.bindServerKey(ctx, n.root, nil); err != nil {
		return err
	}
	if n.cfg.auditKey == nil {
		return nil
	}
	key, err := signerOf(ctx, n.root, *n.cfg.auditKey)
	if err == nil {
		err = n.trail.SignCheckpoints(key)
	}
	if err != nil {
		return fmt.Errorf("audit.checkpoint.key: %w", err)
	}
	return nil
}

package main

import (
	"os"
	"path/filepath"
	"time"

	"github.com/keygate/keygate/hsm/p11shim"
)

// operations are the functions that have the token use or make a key. Those
// that begin one (C_EncryptInit) or end it are part of it.
var operations = []string{
	"C_Encrypt", "C_Decrypt", "C_Sign", "C_Verify", "C_GenerateKey", "C_CreateObject", "C_WrapKey", "C_UnwrapKey", "C_DeriveKey", "C_GenerateRandom",
}

// A shim stands between a gateway and its PKCS#11 module, counts the calls and
// can make them slow.
type shim struct {
	*p11shim.Control
	module string // its own
}

// newShim builds the shim, with a control file of its own.
func (b *bench) newShim() (*shim, error) {
	module, err := p11shim.Build(b.dir)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, "shim-")
	if err != nil {
		return nil, err
	}
	control, err := p11shim.NewControl(filepath.Join(dir, "control"), b.state.module)
	return &shim{control, module}, err
}

// slow makes each call of a function take this much longer, in whole
// milliseconds.
func (s *shim) slow(function string, by time.Duration) error { return s.Slow(by, function) }

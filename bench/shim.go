package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// functions is the order of CK_FUNCTION_LIST (PKCS#11 v2.40), to which the
// control file of the shim keeps.
var functions = []string{
	"C_Initialize", "C_Finalize", "C_GetInfo", "C_GetFunctionList", "C_GetSlotList", "C_GetSlotInfo", "C_GetTokenInfo",
	"C_GetMechanismList", "C_GetMechanismInfo", "C_InitToken", "C_InitPIN", "C_SetPIN", "C_OpenSession", "C_CloseSession",
	"C_CloseAllSessions", "C_GetSessionInfo", "C_GetOperationState", "C_SetOperationState", "C_Login", "C_Logout",
	"C_CreateObject", "C_CopyObject", "C_DestroyObject", "C_GetObjectSize", "C_GetAttributeValue", "C_SetAttributeValue",
	"C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal", "C_EncryptInit", "C_Encrypt", "C_EncryptUpdate", "C_EncryptFinal",
	"C_DecryptInit", "C_Decrypt", "C_DecryptUpdate", "C_DecryptFinal", "C_DigestInit", "C_Digest", "C_DigestUpdate", "C_DigestKey",
	"C_DigestFinal", "C_SignInit", "C_Sign", "C_SignUpdate", "C_SignFinal", "C_SignRecoverInit", "C_SignRecover", "C_VerifyInit",
	"C_Verify", "C_VerifyUpdate", "C_VerifyFinal", "C_VerifyRecoverInit", "C_VerifyRecover", "C_DigestEncryptUpdate",
	"C_DecryptDigestUpdate", "C_SignEncryptUpdate", "C_DecryptVerifyUpdate", "C_GenerateKey", "C_GenerateKeyPair", "C_WrapKey",
	"C_UnwrapKey", "C_DeriveKey", "C_SeedRandom", "C_GenerateRandom", "C_GetFunctionStatus", "C_CancelFunction", "C_WaitForSlotEvent",
}

// operations are the functions that have the token use or make a key. Those
// that begin one (C_EncryptInit) or end it are part of it.
var operations = []string{
	"C_Encrypt", "C_Decrypt", "C_Sign", "C_Verify", "C_GenerateKey", "C_CreateObject", "C_WrapKey", "C_UnwrapKey", "C_DeriveKey", "C_GenerateRandom",
}

// A shim stands between a gateway and its PKCS#11 module, counts the calls and
// can make them slow: hsm/testdata/shim.c.
type shim struct {
	control *os.File
	module  string // its own
	real    string
}

// The layout of struct entry in shim.c, of words of 8 bytes.
const (
	entrySize = 80
	atCalls   = 0
	atSleep   = 32
)

// newShim builds the shim, with a control file of its own.
func (b *bench) newShim(ctx context.Context) (*shim, error) {
	module := filepath.Join(b.dir, "shim.so")
	source := filepath.Join(b.repo, "hsm", "testdata", "shim.c")
	if out, err := exec.CommandContext(ctx, "cc", "-O2", "-shared", "-fPIC", "-o", module, source, "-ldl").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(source), err, out)
	}
	control, err := os.CreateTemp(b.dir, "shim-control-")
	if err != nil {
		return nil, err
	}
	return &shim{control: control, module: module, real: b.state.module}, control.Truncate(int64(len(functions)) * entrySize)
}

// env is what the gateway's process needs in its environment.
func (s *shim) env() []string {
	return []string{"SHIM_MODULE=" + s.real, "SHIM_CONTROL=" + s.control.Name()}
}

func (s *shim) close() { s.control.Close() }

// slow makes each call of a function take this much longer, in whole
// milliseconds.
func (s *shim) slow(function string, by time.Duration) error {
	b := binary.NativeEndian.AppendUint64(nil, uint64(by.Milliseconds()))
	_, err := s.control.WriteAt(b, int64(slices.Index(functions, function))*entrySize+atSleep)
	return err
}

// A tally is how many calls of each function were made.
type tally map[string]uint64

func (s *shim) calls() (tally, error) {
	all := make([]byte, len(functions)*entrySize)
	if _, err := s.control.ReadAt(all, 0); err != nil {
		return nil, err
	}
	t := make(tally)
	for i, f := range functions {
		t[f] = binary.NativeEndian.Uint64(all[i*entrySize+atCalls:])
	}
	return t, nil
}

// since returns the calls that t has more than before.
func (t tally) since(before tally) tally {
	d := make(tally)
	for f, n := range t {
		if n > before[f] {
			d[f] = n - before[f]
		}
	}
	return d
}

// of adds up the calls of these functions.
func (t tally) of(names []string) (n uint64) {
	for _, f := range names {
		n += t[f]
	}
	return n
}

package hsm_test

import (
	"bytes"
	"crypto/aes"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/kms/roottest"
)

// Byte 1 of a handle.
const (
	kw  = 1
	kwp = 2
	gcm = 4
)

// The suite passes with KWP on NSS, too; here it is run with KEYGATE_LONG=1.
func TestRootWithPaddedWrapping(t *testing.T) {
	if os.Getenv("KEYGATE_LONG") != "1" {
		t.Skip("KEYGATE_LONG is not 1")
	}
	roottest.Run(t, func(t *testing.T) kms.Root {
		cfg := hsmtest.Config(t)
		cfg.Wrapping = "aes-kwp" // which SoftHSM has by CKM_AES_KEY_WRAP_PAD, and does not list
		return hsmtest.Open(t, cfg)
	})
}

// wrapsWith checks that new keys are wrapped so.
func wrapsWith(t *testing.T, r kms.Root, wrapping byte) []byte {
	t.Helper()
	handle := newKey(t, r, kms.Encryption)
	if handle[1] != wrapping {
		t.Errorf("new keys have wrapping %d, not %d", handle[1], wrapping)
	}
	return handle
}

func TestKeysOfEveryWrappingAreLoadedWhateverIsChosen(t *testing.T) {
	cfg := hsmtest.Config(t)
	var handles, ciphertexts [][]byte
	for _, test := range []struct {
		name string
		want byte
	}{{"", kw}, {"aes-kw", kw}, {"aes-kwp", kwp}} {
		cfg.Wrapping = test.name
		r := hsmtest.Open(t, cfg)
		handle := wrapsWith(t, r, test.want)
		ciphertext, err := r.Encrypt(t.Context(), handle, []byte(test.name), nil)
		ok(t, err)
		handles, ciphertexts = append(handles, handle), append(ciphertexts, ciphertext)
	}
	for _, name := range []string{"aes-kw", "aes-kwp"} {
		cfg.Wrapping = name
		r := hsmtest.Open(t, cfg)
		for i, handle := range handles {
			_, err := r.Decrypt(t.Context(), handle, ciphertexts[i], nil)
			ok(t, err)
		}
	}
}

func TestHS23_AWrappingThatIsMissingIsRefused(t *testing.T) {
	cfg := hsmtest.Config(t)
	cfg.Wrapping = "aes-gcm" // SoftHSM has the mechanism, but not to wrap with
	err := refused(t, cfg)
	is(t, err, kms.ErrUnsupported)
	says(t, err, "aes-gcm")
	says(t, err, "CKM_AES_GCM")
}

func TestHS23_TheFallbackIsNamed(t *testing.T) {
	s, cfg := shimmed(t)
	s.hide(pkcs11.CKM_AES_KEY_WRAP)
	var log bytes.Buffer
	r, err := hsm.Open(t.Context(), cfg, slog.New(slog.NewTextHandler(&log, nil)))
	ok(t, err)
	wrapsWith(t, r, kwp)
	ok(t, r.Close())
	if !strings.Contains(log.String(), "WARN") || !strings.Contains(log.String(), "does not have aes-kw, so keys are wrapped with aes-kwp") {
		t.Errorf("the log is %q", log.String())
	}
	report, err := hsm.Doctor(t.Context(), cfg)
	ok(t, err)
	found := ""
	for _, c := range report.Checks {
		if c.What == "wrapping" {
			found = c.Found
		}
	}
	if want := "aes-kwp, by CKM_AES_KEY_WRAP_PAD; the token does not have aes-kw"; found != want {
		t.Errorf("the doctor says %q, not %q", found, want)
	}
	cfg.Wrapping = "aes-kw"
	says(t, refused(t, cfg), "no mechanism for aes-kw")
}

func TestHS23_AKeyThatTheTokenCannotUnwrap(t *testing.T) {
	s, cfg := shimmed(t)
	handle := wrapsWith(t, hsmtest.Open(t, cfg), kw)
	s.hide(pkcs11.CKM_AES_KEY_WRAP)
	r := hsmtest.Open(t, cfg)
	_, err := r.Encrypt(t.Context(), handle, nil, nil)
	is(t, err, kms.ErrUnsupported) // the handle is as good as it was
	says(t, err, "wrapped with aes-kw")
	says(t, err, "CKM_AES_KEY_WRAP")
}

// What a mechanism is that makers disagree about, the token has to show.
func TestHS23_AMechanismWithAnotherAnswerIsNotUsed(t *testing.T) {
	s, cfg := shimmed(t)
	cfg.Wrapping = "aes-kwp"
	s.fail("C_WrapKey", fault{times: 1, flip: 5})
	is(t, refused(t, cfg), kms.ErrUnsupported)
	s.heal()
	s.fail("C_CreateObject", fault{code: pkcs11.CKR_TEMPLATE_INCONSISTENT, times: 1}) // known keys are not let in
	is(t, refused(t, cfg), kms.ErrUnsupported)
	s.heal()
	s.fail("C_WrapKey", fault{code: pkcs11.CKR_DEVICE_ERROR, times: forever}) // a fault says nothing
	is(t, refused(t, cfg), kms.ErrUnavailable)
	s.heal()
	wrapsWith(t, hsmtest.Open(t, cfg), kwp)
}

// A fault while a mechanism is looked for is not remembered as its absence.
func TestHS09_AFaultIsNoMissingMechanism(t *testing.T) {
	s, cfg := shimmed(t)
	cfg.Wrapping = "aes-kwp"
	handle := wrapsWith(t, hsmtest.Open(t, cfg), kwp)
	cfg.Wrapping = "aes-kw"
	r := hsmtest.Open(t, cfg)
	s.fail("C_WrapKey", fault{code: pkcs11.CKR_GENERAL_ERROR, times: forever})
	_, err := r.Encrypt(t.Context(), handle, nil, nil)
	is(t, err, kms.ErrUnavailable)
	s.heal()
	waitFor(t, func() bool {
		_, err := r.Encrypt(t.Context(), handle, nil, nil)
		return err == nil
	})
}

// The padded wrapping of a key of known bytes, by Go.
func TestPaddedWrappingIsRFC5649(t *testing.T) {
	block, err := aes.NewCipher(hsm.AnswerKEK)
	ok(t, err)
	for _, test := range []struct {
		name       string
		first      []byte
		key, wants []byte
	}{
		{"RFC 3394 2.2.3.1", bytes.Repeat([]byte{0xa6}, 8), hsm.AnswerKey, hsm.AnswerKW},
		{"RFC 5649 3", []byte{0xa6, 0x59, 0x59, 0xa6, 0, 0, 0, 32}, hsm.AnswerKey, hsm.AnswerKWP},
	} {
		out := append(bytes.Clone(test.first), test.key...)
		for j := range 6 { // RFC 3394 2.2.1
			for i := 1; i <= 4; i++ {
				b := append(bytes.Clone(out[:8]), out[8*i:8*i+8]...)
				block.Encrypt(b, b)
				b[7] ^= byte(4*j + i)
				copy(out[:8], b[:8])
				copy(out[8*i:], b[8:])
			}
		}
		if !bytes.Equal(out, test.wants) {
			t.Errorf("%s: %x, not %x", test.name, out, test.wants)
		}
	}
}

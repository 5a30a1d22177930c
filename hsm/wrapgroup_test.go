package hsm_test

import (
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

// Of two tokens one has KWP only. If it comes first, the other wraps so too, and
// each loads what any made.
func TestHS16_TokensOfAGroupWrapAlike(t *testing.T) {
	shims, cfg := pair(t)
	shims[0].hide(pkcs11.CKM_AES_KEY_WRAP)
	shims[1].unplug()
	root := hsmtest.Open(t, cfg)
	shims[1].heal()
	waitFor(t, func() bool { return root.Tokens()[1].Works })
	for range 10 { // by both
		useGroup(t, root, wrapsWith(t, root, kwp))
	}
}

// If it comes second it is refused: it could not load what the other makes.
func TestHS16_ATokenThatCannotUnwrapIsRefused(t *testing.T) {
	shims, cfg := pair(t)
	shims[0].hide(pkcs11.CKM_AES_KEY_WRAP)
	shims[1].unplug()
	cfg.Tokens[0], cfg.Tokens[1] = cfg.Tokens[1], cfg.Tokens[0]
	shims[0].unplug()
	shims[1].heal()
	root := hsmtest.Open(t, cfg)
	handle := wrapsWith(t, root, kw)
	shims[0].heal()
	shims[0].hide(pkcs11.CKM_AES_KEY_WRAP)
	waitFor(t, func() bool {
		return strings.Contains(root.Tokens()[1].Why, "wrapped with aes-kw, and the token has no mechanism for that")
	})
	for range 10 {
		useGroup(t, root, handle)
	}
}

// Keys that stay in a token are not asked of several, and are not said to be lost.
func TestAKeyInOneTokenIsNotAskedOfSeveral(t *testing.T) {
	_, cfg := pair(t)
	one := cfg.EachToken()[0]
	one.Residency = "token"
	handle := newKey(t, hsmtest.Open(t, one), kms.Encryption)
	_, err := hsmtest.Open(t, cfg).Encrypt(t.Context(), handle, nil, nil)
	is(t, err, kms.ErrUnsupported)
	says(t, err, "root.pkcs11.tokens names several")
}

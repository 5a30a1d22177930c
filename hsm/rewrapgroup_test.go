package hsm_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/softhsm"
)

// groupAfter returns a group of the token of c and a clone that was made before the new
// KEK or after, whose present KEK is the new one.
func (c *ceremony) groupAfter(t *testing.T, cloneHasIt bool) ([2]*shim, hsm.Config) {
	t.Helper()
	var clone softhsm.Fixture
	if !cloneHasIt {
		clone = softhsm.Clone(t, c.f)
	}
	c.begin(t)
	if cloneHasIt {
		clone = softhsm.Clone(t, c.f)
	}
	shims, cfg := pairOf(t, c.f, clone)
	cfg.KEK, cfg.OtherKEKs = c.after.KEK, c.after.OtherKEKs
	return shims, cfg
}

// A key is not wrapped again by a KEK that a token of the group does not have: before,
// any of them opened it.
func TestOP10_HS16_ARewrappedKeyIsKnownToAllTokens(t *testing.T) {
	c := newCeremony(t)
	_, cfg := c.groupAfter(t, false)
	root := hsmtest.Open(t, cfg)
	for _, old := range [][]byte{c.cipher, c.mac} {
		next, changed, err := root.Rewrap(t.Context(), old)
		if err == nil {
			t.Errorf("a key was wrapped again, changed: %v, %d bytes, by a KEK that one of two tokens does not have", changed, len(next))
			continue
		}
		is(t, err, kms.ErrUnavailable)
		says(t, err, "no secret key")
	}
	c.opens(t, root, c.cipher, c.mac)
}

func TestOP10_HS16_AGroupRewraps(t *testing.T) {
	for lost := range 2 {
		c := newCeremony(t)
		shims, cfg := c.groupAfter(t, true)
		root := hsmtest.Open(t, cfg)
		var handles [][]byte
		for _, old := range [][]byte{c.cipher, c.mac} {
			next, changed, err := root.Rewrap(t.Context(), old)
			ok(t, err)
			if !changed || bytes.Equal(next, old) {
				t.Error("the key was not wrapped again")
			}
			handles = append(handles, next)
		}
		shims[lost].unplug()
		c.opens(t, root, handles[0], handles[1])
		_, _, err := root.Rewrap(t.Context(), c.cipher) // while one is away, no key depends on the other alone
		is(t, err, kms.ErrUnavailable)
	}
}

// A key that the token does not wrap again must not end the run over all.
func TestOP10_AKeyThatIsNotWrappedAgainIsNoFaultOfTheToken(t *testing.T) {
	c := newCeremony(t)
	c.begin(t)
	s, cfg := shimBefore(t, c.f, c.f.Module, c.after)
	root := hsmtest.Open(t, cfg)
	s.fail("C_WrapKey", fault{code: pkcs11.CKR_KEY_NOT_WRAPPABLE, times: 2})
	_, _, err := root.Rewrap(t.Context(), c.cipher)
	is(t, err, kms.ErrUnsupported)
	if st := root.Tokens()[0]; !st.Works {
		t.Errorf("it is out of use: %s", st.Why)
	}
}

// Of two runs of a ceremony the slower one makes no second KEK of the name: neither could
// be used then.
func TestOP10_TwoCeremoniesMakeOneKEK(t *testing.T) {
	c := newCeremony(t)
	s, slow := shimBefore(t, c.f, softhsm.CopyOfModule(t, c.f), c.before)
	s.fail("C_GenerateKey", fault{sleep: time.Second})
	ended := make(chan error, 1)
	go func() {
		_, err := hsm.BeginRotation(t.Context(), slow, hsm.PIN{File: c.f.SOFile})
		ended <- err
	}()
	waitFor(t, func() bool { return s.calls("C_GenerateKey") > 0 })
	c.begin(t)
	err := <-ended
	is(t, err, kms.ErrDenied)
	says(t, err, "by now")
	hsmtest.Open(t, c.after)
}

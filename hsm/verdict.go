package hsm

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// settle runs op, whose answer may mean that its input is bad, that the token does
// not do what is asked, or that the token failed. Only if a canary, which asks the
// same with input that is known to be good, succeeds before and after a second try
// that answered so again, it is the input, and settle returns verdict; a client that
// is told so takes its data for lost. Where nothing can be wrong with the input,
// verdict is nil. The canary also shows that the session is usable.
func settle[T any](s session, verdict error, canary func() error, op func() (T, error)) (T, error) {
	result, err := op()
	for tries := 0; ; tries++ {
		c, _ := classOf(err)
		bad := verdict != nil && (s.answersBadInput(err) || errors.Is(err, errAnother))
		if !bad && c != requestFault {
			return result, err
		}
		switch cerr := canary(); {
		case cerr != nil:
			return result, askedBefore(err)
		case bad && tries >= s.roundsFor(verdict, c):
			return result, fmt.Errorf("%w: %w", &settled{err}, verdict)
		case !bad && tries == 1:
			return result, err
		}
		result, err = op()
	}
}

// roundsFor returns after how many tries more an input counts as bad: an intermittent
// fault must not look like lost data. One is enough for a code that means nothing else,
// and for a ciphertext if tagIsBad comes after it.
func (s session) roundsFor(verdict error, c class) int {
	if c == inputFault || verdict == kms.ErrCiphertext && s.link.refusals.recomputes {
		return 1
	}
	return 3 + rand.IntN(2) // a fault of every second call must not keep step
}

// A token's answers to bad input, as they were found out when it was connected to.
type refusals struct {
	tag  uint // of C_Decrypt to a ciphertext with another tag
	wrap uint // of C_UnwrapKey to a wrapped key that was changed

	recomputes bool // it takes an IV a second time, as tagIsBad does
}

// answersBadInput reports whether err is what the token would answer to bad input.
// It may have failed all the same.
func (s session) answersBadInput(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	if e.class() == inputFault {
		return true
	}
	return e.Function == "C_Decrypt" && e.Code == s.link.refusals.tag || e.Function == "C_UnwrapKey" && e.Code == s.link.refusals.wrap
}

// vendorDefined is the first of the codes that PKCS#11 leaves to makers.
const vendorDefined = 0x80000000

// refuses runs op, which is given bad input, twice, and returns the code of the
// answer. It must be one that can mean bad input, and the same both times: a fault at
// this moment would be taken for the answer to bad input from then on.
func refuses(what string, op func() error) (code uint, err error) {
	for i := range 2 {
		answer := op()
		if answer == nil {
			return 0, fmt.Errorf("%w: it takes %s", errWrong, what)
		}
		e, ok := errors.AsType[*Error](answer)
		if !ok {
			return 0, answer
		}
		if c := e.class(); !c.unsure() && e.Code < vendorDefined || i > 0 && e.Code != code {
			return 0, fmt.Errorf("hsm: the answer to %s cannot be told from a fault: %w", what, answer)
		}
		code = e.Code
	}
	return code, nil
}

// A settled error has the text of an Error, but not what it wraps: that the
// token is unavailable was found to be wrong.
type settled struct{ err error }

func (s *settled) Error() string { return s.err.Error() }

// decrypt opens a ciphertext of the root under k.
func (s session) decrypt(k *loaded, ciphertext, additionalData []byte) ([]byte, error) {
	plaintext, err := settle(s, kms.ErrCiphertext,
		func() error { return s.verify(k.object, k.handle) },
		func() ([]byte, error) { return s.unseal(k.object, ciphertext, additionalData) })
	if !errors.Is(err, kms.ErrCiphertext) || isInputFault(err) || !s.link.refusals.recomputes {
		return plaintext, err
	}
	if doubt := s.tagIsBad(k.object, ciphertext, additionalData); doubt != nil {
		return nil, askedBefore(doubt) // and all is tried again
	}
	return nil, err
}

// isInputFault reports whether err is of a code that means bad input only.
func isInputFault(err error) bool {
	s, ok := errors.AsType[*settled](err)
	if !ok {
		return false
	}
	c, ok := classOf(s.err)
	return ok && c == inputFault
}

// tagIsBad returns nil if the tag of a ciphertext is not the right one, as the token
// computes it when it encrypts, and an error if it is, or cannot be told. It is for tokens
// whose answer to a bad tag also means a fault: one that comes and goes must not
// make a client think that his data is lost. AES-GCM encrypts by XOR, so to encrypt the
// ciphertext gives the plaintext, and to encrypt that the ciphertext and its tag (NIST SP
// 800-38D 7.1). The IV is used again for that, and nothing of it leaves this function.
func (s session) tagIsBad(key pkcs11.ObjectHandle, ciphertext, additionalData []byte) error {
	iv, sealed := ciphertext[:ivSize], ciphertext[ivSize:]
	body, tag := sealed[:len(sealed)-tagSize], sealed[len(sealed)-tagSize:]
	plain, again := make([]byte, len(sealed)), make([]byte, len(sealed))
	defer clear(plain)
	defer clear(again)
	if _, err := s.link.module.gcm(true, s.handle, key, iv, additionalData, body, plain); err != nil {
		return err
	}
	if _, err := s.link.module.gcm(true, s.handle, key, iv, additionalData, plain[:len(body)], again); err != nil {
		return err
	}
	switch {
	case !bytes.Equal(again[:len(body)], body):
		return fmt.Errorf("%w: a plaintext encrypts to another ciphertext under the same IV", errWrong)
	case bytes.Equal(again[len(body):], tag):
		return fmt.Errorf("%w: it refuses a ciphertext whose tag is right", errWrong)
	}
	return nil
}

package hsm

import (
	"errors"
	"fmt"

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
		bad := verdict != nil && s.answersBadInput(err)
		if !bad && c != requestFault {
			return result, err
		}
		switch cerr := canary(); {
		case cerr != nil:
			return result, askedBefore(err)
		case tries == 1 && bad:
			return result, fmt.Errorf("%w: %w", &settled{err}, verdict)
		case tries == 1:
			return result, err
		}
		result, err = op()
	}
}

// A token's answers to bad input, as they were found out when it was connected to.
type refusals struct {
	tag  uint // of C_Decrypt to a ciphertext with another tag
	wrap uint // of C_UnwrapKey to a wrapped key that was changed
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
	return settle(s, kms.ErrCiphertext,
		func() error { return s.verify(k.object, k.handle) },
		func() ([]byte, error) { return s.unseal(k.object, ciphertext, additionalData) })
}

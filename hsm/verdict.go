package hsm

import (
	"fmt"

	"github.com/keygate/keygate/kms"
)

// settle runs op, whose answer may mean that its input is bad or that the token
// failed. Only if a canary succeeds before and after a second try that answered
// so again, the input is bad, and settle returns verdict; a client that is told
// so takes its data for lost. The canary also shows that the session is usable.
func settle[T any](verdict error, canary func() error, op func() (T, error)) (T, error) {
	result, err := op()
	for tries := 0; ; tries++ {
		c, ok := classOf(err)
		if !ok || c != inputFault {
			return result, err
		}
		if cerr := canary(); cerr != nil {
			return result, err
		}
		if tries == 1 {
			return result, fmt.Errorf("%w: %w", &settled{err}, verdict)
		}
		result, err = op()
	}
}

// A settled error has the text of an Error, but not what it wraps: that the
// token is unavailable was found to be wrong.
type settled struct{ err error }

func (s *settled) Error() string { return s.err.Error() }

// decrypt opens a ciphertext of the root under k.
func (s session) decrypt(k *loaded, ciphertext, additionalData []byte) ([]byte, error) {
	return settle(kms.ErrCiphertext,
		func() error { return s.verify(k.object, k.handle) },
		func() ([]byte, error) { return s.unseal(k.object, ciphertext, additionalData) })
}

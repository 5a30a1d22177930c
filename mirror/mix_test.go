package mirror_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/mirror"
)

// A made ciphertext, and what it is of.
type specimen struct {
	key             int // index of its handle
	plaintext, data []byte
	bytes           []byte
}

// Halves and bodies of ciphertexts, of one key and of several, with the same
// additional data and with other, are put together at random, swapped, cut and
// changed, under handles that are themselves put together of others; with both roots
// there, or one. What opens is a ciphertext that was made, under its handle's key, to
// its plaintext; all else is refused.
func TestHS17_HalvesDoNotMix(t *testing.T) {
	const seed = 17
	rnd := rand.New(rand.NewPCG(seed, seed))
	w := locals(t, mirror.DegradedAllowed)
	handles, made := specimens(t, w)
	for _, away := range []int{-1, 0, 1} {
		if away >= 0 {
			w.lose(t, away, refuses)
		}
		opened := 0
		for range 1500 {
			m := mixed(rnd, handles, made)
			p, err := w.Decrypt(t.Context(), m.handle, m.bytes, m.data)
			i := slices.IndexFunc(made, func(s specimen) bool { return bytes.Equal(s.bytes, m.bytes) })
			switch {
			case err == nil && (i < 0 || !bytes.Equal(p, made[i].plaintext) || !bytes.Equal(m.data, made[i].data)):
				t.Fatalf("%s opens to %q, with root %d away", m.how, p, away)
			case err == nil:
				opened++
			case m.whole && i >= 0 && !w.Partial(m.bytes):
				t.Fatalf("a good ciphertext does not open with root %d away: %v", away, err)
			case !errors.Is(err, kms.ErrCiphertext) && !errors.Is(err, kms.ErrUnavailable):
				t.Fatalf("%s, with root %d away: %v", m.how, away, err)
			case errors.Is(err, kms.ErrUnavailable) && away < 0:
				t.Fatalf("%s is unavailable though both roots are there: %v", m.how, err)
			}
		}
		if opened == 0 {
			t.Error("nothing was opened: the test proves nothing")
		}
		w.mend(t)
	}
}

// specimens makes ciphertexts of three keys, the last of which is one in both roots.
// Some have one half.
func specimens(t *testing.T, w *world) (handles [][]byte, made []specimen) {
	t.Helper()
	for i := range 3 {
		handle, err := w.NewKey(t.Context(), kms.KeyID{byte(i)}, kms.Encryption)
		if i == 2 {
			handle, err = w.ImportKey(t.Context(), kms.KeyID{byte(i)}, kms.Encryption, make([]byte, kms.KeySize))
		}
		ok(t, err)
		handles = append(handles, handle)
	}
	for away := -1; away < 2; away++ {
		if away >= 0 {
			w.lose(t, away, refuses)
		}
		for i := range handles {
			for j := range 3 {
				s := specimen{key: i, plaintext: fmt.Appendf(nil, "plaintext %d %d %d", away, i, j), data: []byte{byte(j / 2)}}
				var err error
				s.bytes, err = w.Encrypt(t.Context(), handles[i], s.plaintext, s.data)
				ok(t, err)
				made = append(made, s)
			}
		}
		w.mend(t)
	}
	return handles, made
}

type mixture struct {
	how           string
	whole         bool // nothing was mixed
	handle, bytes []byte
	data          []byte
}

func mixed(rnd *rand.Rand, handles [][]byte, made []specimen) mixture {
	pick := func() specimen { return made[rnd.IntN(len(made))] }
	one := pick()
	m := mixture{handle: handles[one.key], bytes: slices.Clone(one.bytes), data: one.data}
	halves, body := mirror.SplitCiphertext(m.bytes)
	other, body2 := mirror.SplitCiphertext(pick().bytes)
	switch rnd.IntN(9) {
	case 0:
		m.how, m.whole = "an unchanged ciphertext", true
	case 1:
		m.how = "a ciphertext with another's half"
		halves[rnd.IntN(2)] = other[rnd.IntN(2)]
		m.bytes = mirror.JoinCiphertext(halves, body)
	case 2:
		m.how = "a ciphertext with another's body"
		m.bytes = mirror.JoinCiphertext(halves, body2)
	case 3:
		m.how = "a ciphertext with swapped halves"
		m.bytes = mirror.JoinCiphertext([2][]byte{halves[1], halves[0]}, body)
	case 4:
		m.how = "a ciphertext without a half"
		halves[rnd.IntN(2)] = nil
		m.bytes = mirror.JoinCiphertext(halves, body)
	case 5:
		m.how = "a ciphertext with one half twice"
		i := rnd.IntN(2)
		halves[i] = halves[1-i]
		m.bytes = mirror.JoinCiphertext(halves, body)
	case 6:
		m.how = "a cut ciphertext"
		m.bytes = m.bytes[:rnd.IntN(len(m.bytes))]
		if len(m.bytes) > mirror.SumSize {
			m.bytes = mirror.Resum(m.bytes)
		}
	case 7:
		m.how = "a changed ciphertext"
		m.bytes[rnd.IntN(len(m.bytes)-mirror.SumSize)] ^= 1 << rnd.IntN(8)
		m.bytes = mirror.Resum(m.bytes)
	case 8:
		m.how = "a ciphertext under a handle of two keys"
		a, b := mirror.SplitHandle(m.handle), mirror.SplitHandle(handles[rnd.IntN(len(handles))])
		i := rnd.IntN(2)
		a[i] = b[i]
		m.handle = mirror.JoinHandle(byte(kms.Encryption), a)
	}
	return m
}

package hsm

import (
	"errors"
	"testing"

	"github.com/miekg/pkcs11"
)

func TestLoadersLeaveTheSessionsOfATokenWithFew(t *testing.T) {
	for _, c := range []struct{ most, wanted, want int }{
		{0, 16, 16 + keeperSpares}, {0, 4, 4 + keeperSpares}, {0, 100, maxLoaders + keeperSpares}, // no limit is known
		{100, 16, 16 + keeperSpares}, {40, 16, 8}, {33, 16, 1}, {16, 16, 1}, {2, 16, 1}, {1, 16, 1},
	} {
		info := TokenInfo{MaxSessions: uint(c.most)}
		got := info.loaders(c.wanted)
		if got != c.want {
			t.Errorf("of %d sessions, %d wanted: %d load keys, not %d", c.most, c.wanted, got, c.want)
		}
		if n, spares := info.sessions(c.wanted); c.most > 1 && n+spares+got > c.most {
			t.Errorf("of %d sessions %d+%d+%d are used", c.most, n, spares, got)
		}
	}
}

func TestANumberThatIsGivenTwiceBreaksTheLink(t *testing.T) {
	k := &loaded{object: 7}
	l := &link{objects: map[pkcs11.ObjectHandle]*loaded{7: k}}
	if err := l.isNew(8); err != nil || l.broken.Load() {
		t.Errorf("another number: %v", err)
	}
	if err := l.isNew(7); !errors.Is(err, errStale) || !repairable(err) {
		t.Errorf("error is %v", err)
	}
	if !l.broken.Load() {
		t.Error("the link goes on")
	}
}

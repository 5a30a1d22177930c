package hsm

import (
	"errors"
	"testing"

	"github.com/keygate/keygate/kms"
)

func TestAKeyIsLookedAtAgainOnlyIfAnObjectWasMade(t *testing.T) {
	var c objectCount
	if made, quiet := c.now(); made != 0 || !quiet {
		t.Errorf("%d made, quiet %v", made, quiet)
	}
	leave := c.enter()
	if _, quiet := c.now(); quiet {
		t.Error("a call runs")
	}
	leave()
	if made, quiet := c.now(); made != 1 || !quiet {
		t.Errorf("%d made, quiet %v", made, quiet)
	}
	if errors.Is(errAnother, kms.ErrCorrupt) {
		t.Error("another MAC is no corrupt record by itself")
	}
}

package hsm_test

import (
	"testing"
	"time"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

// A token that is away does not cost another one in the same library its connection
// each time that it is looked for.
func TestHS16_ATokenThatIsAwayLeavesAnotherOfItsLibraryAlone(t *testing.T) {
	s, cfg := shimmed(t)
	label := cfg.Token
	cfg.Token, cfg.Tokens = "", []hsm.TokenConfig{{Token: label}, {Token: "away"}}
	root := hsmtest.Open(t, cfg)
	handle := newKey(t, root, kms.Encryption)
	before := root.Tokens()[0].Stats.Connections
	looked := s.calls("C_GetSlotList")
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		_, err := root.Encrypt(t.Context(), handle, []byte("plaintext"), nil)
		ok(t, err)
	}
	if n := root.Tokens()[0].Stats.Connections - before; n > 4 {
		t.Errorf("the token that works was connected to %d times anew", n)
	}
	if s.calls("C_GetSlotList")-looked < 4 {
		t.Error("the token that is away is not looked for")
	}
}

package kms_test

import (
	"testing"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/kms"
)

func TestTheModeOfAKeyComesBeforeTheGateways(t *testing.T) {
	n := newBranchNode(t, nil)
	info, err := n.CreateKeyWithMode(t.Context(), "d", "", envelope.Direct)
	ok(t, err)
	if info.Mode != envelope.Direct {
		t.Errorf("mode is %v", info.Mode)
	}
	_, _, use, err := n.GenerateDataKey(t.Context(), "d", nil)
	ok(t, err)
	if use.Mode != envelope.Direct {
		t.Errorf("mode of a use is %v", use.Mode)
	}
	n.cfg.Mode = envelope.Direct
	direct := n.another(t)
	info, err = direct.DescribeKey(t.Context(), "a")
	ok(t, err)
	if info.Mode != envelope.Direct {
		t.Errorf("a key without a mode of its own is %v", info.Mode)
	}
	_, err = n.CreateKeyWithMode(t.Context(), "e", "", 3)
	is(t, err, kms.ErrUnsupported)
}

func TestSetModeHoldsOnEveryNodeAndOldCiphertextsOpen(t *testing.T) {
	n := newBranchNode(t, nil)
	other := n.another(t)
	dek, ciphertext := n.generate(t)
	opens(t, other, dek, ciphertext)

	info, err := n.SetMode(t.Context(), "a", envelope.Direct)
	ok(t, err)
	if info.Mode != envelope.Direct {
		t.Errorf("mode is %v", info.Mode)
	}
	if got := n.Stats().Branches; got != 0 {
		t.Errorf("%d branch keys in memory of a key in direct mode", got)
	}
	directDEK, direct, use, err := n.GenerateDataKey(t.Context(), "a", []byte("ctx"))
	ok(t, err)
	if use.Mode != envelope.Direct {
		t.Errorf("mode of a use is %v", use.Mode)
	}
	n.clock.advance(n.cfg.RecordTTL)
	_, _, use, err = other.GenerateDataKey(t.Context(), "a", nil)
	ok(t, err)
	if use.Mode != envelope.Direct || other.Stats().Branches != 0 {
		t.Errorf("on another node mode is %v, with %d branch keys", use.Mode, other.Stats().Branches)
	}

	info, err = n.SetMode(t.Context(), "a", 0)
	ok(t, err)
	if info.Mode != envelope.Branch {
		t.Errorf("the default mode is %v", info.Mode)
	}
	opens(t, n.KMS, dek, ciphertext)
	opens(t, n.KMS, directDEK, direct)
}

func TestSetModeIsRefused(t *testing.T) {
	n := newBranchNode(t, nil)
	_, err := n.SetMode(t.Context(), "none", envelope.Direct)
	is(t, err, kms.ErrKeyNotFound)
	_, err = n.SetMode(t.Context(), "-", envelope.Direct)
	is(t, err, kms.ErrName)
	_, err = n.SetMode(t.Context(), "a", 3)
	is(t, err, kms.ErrUnsupported)
	_, err = n.DeleteKey(t.Context(), "a")
	ok(t, err)
	_, err = n.SetMode(t.Context(), "a", envelope.Direct)
	is(t, err, kms.ErrPendingDeletion)
}

package main

import (
	"slices"
	"testing"

	"github.com/keygate/keygate/hsm"
)

func TestEachTokenHasALabelOfItsOwn(t *testing.T) {
	slot := uint(7)
	got := tokenLabels([]hsm.Config{{Token: "a"}, {Token: "b", Serial: "1"}, {Token: "b", Serial: "2"}, {Slot: &slot}, {Token: "b"}})
	if want := []string{"a", "b/1", "b/2", "/slot-7", "b/4"}; !slices.Equal(got, want) {
		t.Errorf("the labels are %q, not %q", got, want)
	}
}

package main

import (
	"strings"
	"testing"
)

func TestStoreInitWarnsRootOfAnOwnerThatNoServiceHas(t *testing.T) {
	var asRoot, asUser strings.Builder
	warnOwner(&asRoot, 0)
	warnOwner(&asUser, 999)
	if !strings.Contains(asRoot.String(), "runuser -u keygate") || asUser.Len() > 0 {
		t.Errorf("root is told %q, and another user %q", asRoot.String(), asUser.String())
	}
}

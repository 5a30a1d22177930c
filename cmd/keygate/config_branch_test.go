package main

import (
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/kms"
)

func TestBranchSection(t *testing.T) {
	serverFiles(t)
	c, err := parse(base + "mode: direct\nbranch: {lifetime: 5m, uses: 1000, opened_lifetime: 10m, opened: 7, outage: 1m}\n")
	if err != nil {
		t.Fatal(err)
	}
	got := c.kms(nil)
	if got.Mode != envelope.Direct || got.BranchLifetime != 5*time.Minute || got.BranchUses != 1000 || got.OpenedLifetime != 10*time.Minute || got.MaxOpened != 7 || got.Outage != time.Minute {
		t.Errorf("settings are %+v", got)
	}
	c, err = parse(base + "branch: {outage: 0s}\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.kms(nil); got.Outage >= 0 || got.Mode != envelope.Branch {
		t.Errorf("outage 0s is %v, which does not forbid it; mode is %v", got.Outage, got.Mode)
	}
	c, err = parse(base)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.kms(nil); got.Outage != kms.DefaultOutage {
		t.Errorf("the default outage is %v", got.Outage)
	}
}

func TestBranchSectionIsChecked(t *testing.T) {
	serverFiles(t)
	for text, want := range map[string]string{
		"mode: fast":                            "mode is neither branch nor direct",
		"branch: {lifetime: 25h}":               "branch.lifetime is not more than 0 and at most 24h0m0s",
		"branch: {lifetime: 0s}":                "branch.lifetime is not",
		"branch: {opened_lifetime: -1s}":        "branch.opened_lifetime is not",
		"branch: {uses: 0}":                     "branch.uses is not from 1 to 4294967295",
		"branch: {uses: 4294967296}":            "branch.uses is not from 1 to 4294967295",
		"branch: {opened: 0}":                   "branch.opened is less than 1",
		"branch: {outage: 25h}":                 "branch.outage is not from 0",
		"branch: {outage: -1s}":                 "branch.outage is not from 0",
		"branch: {lifetime: 1h, lifetimes: 1h}": "lifetimes",
	} {
		if _, err := parse(base + text + "\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, not %q", text, err, want)
		}
	}
}

package hsm

import (
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// TokenInfo describes a token and its module.
type TokenInfo struct {
	Label        string `json:"label"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Library      string `json:"library"`                // description and version of the module
	MaxSessions  uint   `json:"max_sessions,omitempty"` // zero: no limit is known
}

// sessions returns how many sessions to use where so many are wanted, and how
// many more there may be in place of those that hang. One is for the anchor.
func (t TokenInfo) sessions(wanted int) (n, spares int) {
	if t.MaxSessions == 0 {
		return wanted, wanted
	}
	most := max(int(t.MaxSessions)-1, 1)
	n = min(wanted, most)
	return n, min(wanted, most-n)
}

// loaders returns how many sessions there may be that load keys, where the token
// has room for them beside those of sessions(wanted): keeperSpares of them are
// for calls that take the place of others that hang.
func (t TokenInfo) loaders(wanted int) int {
	most := min(wanted, maxLoaders) + keeperSpares
	if t.MaxSessions == 0 {
		return most
	}
	n, spares := t.sessions(wanted)
	return max(1, min(most, int(t.MaxSessions)-n-spares))
}

// requiredMechanisms are what a root needs of a token.
var requiredMechanisms = []struct {
	id   uint
	name string
}{
	{pkcs11.CKM_AES_GCM, "CKM_AES_GCM"},
	{pkcs11.CKM_AES_KEY_WRAP, "CKM_AES_KEY_WRAP"},
	{pkcs11.CKM_AES_KEY_GEN, "CKM_AES_KEY_GEN"},
	{pkcs11.CKM_GENERIC_SECRET_KEY_GEN, "CKM_GENERIC_SECRET_KEY_GEN"},
	{pkcs11.CKM_SHA256_HMAC, "CKM_SHA256_HMAC"},
}

const maxSessions = 1 << 20

// findToken returns the slot of the one token that c names.
func findToken(m *module, c Config) (uint, TokenInfo, error) {
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return 0, TokenInfo{}, answered("C_GetSlotList", err)
	}
	var found []uint
	var info TokenInfo
	for _, slot := range slots {
		t, err := m.ctx.GetTokenInfo(slot)
		if err != nil || t.Label != c.Token || c.Serial != "" && t.SerialNumber != c.Serial {
			continue // a token that does not answer is not this one; if it is, none is found
		}
		found = append(found, slot)
		info = TokenInfo{Label: t.Label, Serial: t.SerialNumber, Manufacturer: t.ManufacturerID, Model: t.Model, MaxSessions: t.MaxSessionCount}
		if t.MaxSessionCount > maxSessions { // PKCS#11 v2.40 3.2: not available, or more than anybody needs
			info.MaxSessions = 0
		}
	}
	switch len(found) {
	case 0:
		return 0, info, &notFoundError{text: fmt.Sprintf("%s has no token %s", c.Module, c.tokenName())}
	case 1:
		info.Library, err = library(m)
		return found[0], info, err
	}
	return 0, TokenInfo{}, fmt.Errorf("hsm: %s has %d tokens %s: give the serial number of the right one: %w", c.Module, len(found), c.tokenName(), kms.ErrDenied)
}

func (c Config) tokenName() string {
	if c.Serial != "" {
		return fmt.Sprintf("%q with the serial number %q", c.Token, c.Serial)
	}
	return fmt.Sprintf("%q", c.Token)
}

// A notFoundError says that a token or a key is not there. It may come back,
// so it is ErrUnavailable.
type notFoundError struct{ text string }

func (e *notFoundError) Error() string { return "hsm: " + e.text }
func (e *notFoundError) Unwrap() error { return kms.ErrUnavailable }

func library(m *module) (string, error) {
	info, err := m.ctx.GetInfo()
	if err != nil {
		return "", answered("C_GetInfo", err)
	}
	return fmt.Sprintf("%s %d.%d", strings.TrimRight(info.LibraryDescription, " \x00"), info.LibraryVersion.Major, info.LibraryVersion.Minor), nil
}

// checkMechanisms looks for the required mechanisms.
func checkMechanisms(m *module, slot uint) ([]Check, error) {
	list, err := m.ctx.GetMechanismList(slot)
	if err != nil {
		return nil, answered("C_GetMechanismList", err)
	}
	has := make(map[uint]bool)
	for _, mechanism := range list {
		has[mechanism.Mechanism] = true
	}
	var checks []Check
	for _, required := range requiredMechanisms {
		c := Check{What: required.name, Found: "there", OK: true}
		if !has[required.id] {
			c = Check{What: required.name, Found: "missing", Why: "the token does not have this mechanism", err: kms.ErrUnsupported}
		}
		checks = append(checks, c)
	}
	return checks, nil
}

package hsm

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
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

// requiredMechanisms are what a root needs of a token, beside one that wraps.
var requiredMechanisms = []struct {
	id   uint
	name string
}{
	{pkcs11.CKM_AES_GCM, "CKM_AES_GCM"},
	{pkcs11.CKM_AES_KEY_GEN, "CKM_AES_KEY_GEN"},
	{pkcs11.CKM_GENERIC_SECRET_KEY_GEN, "CKM_GENERIC_SECRET_KEY_GEN"},
	{pkcs11.CKM_SHA256_HMAC, "CKM_SHA256_HMAC"},
}

const maxSessions = 1 << 20

// A slotToken is what a token that answers says of itself, and its slot.
type slotToken struct {
	slot uint
	info pkcs11.TokenInfo
}

// made reports whether the token was initialised: a slot may have one that was not.
func (t slotToken) made() bool { return t.info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 }

// tokens returns the tokens that answer. One that does not is neither a free one
// nor the one that is looked for; if it is, none is found.
func (m *module) tokens() (all []slotToken, err error) {
	all, _, err = m.tokensAndSilent()
	return all, err
}

// tokensAndSilent also returns how many did not answer.
func (m *module) tokensAndSilent() (all []slotToken, silent int, err error) {
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return nil, 0, answered("C_GetSlotList", err)
	}
	for _, slot := range slots {
		if info, err := m.ctx.GetTokenInfo(slot); err == nil {
			all = append(all, slotToken{slot, info})
		}
	}
	return all, len(slots) - len(all), nil
}

// findToken returns the slot of the one token that c names.
func findToken(m *module, c Config) (uint, TokenInfo, error) {
	tokens, silent, err := m.tokensAndSilent()
	if err != nil {
		return 0, TokenInfo{}, err
	}
	var found []slotToken
	for _, t := range tokens {
		if c.means(t) {
			found = append(found, t)
		}
	}
	if len(found) != 1 {
		return 0, TokenInfo{}, m.notOne(c, tokens, found, silent == 0)
	}
	t := found[0].info
	info := TokenInfo{Label: t.Label, Serial: t.SerialNumber, Manufacturer: t.ManufacturerID, Model: t.Model, MaxSessions: t.MaxSessionCount}
	if t.MaxSessionCount > maxSessions { // PKCS#11 v2.40 3.2: not available, or more than anybody needs
		info.MaxSessions = 0
	}
	info.Library, err = library(m)
	return found[0].slot, info, err
}

// notOne says why the tokens that were found are not the one that c names, and
// what there is in its place. hidden says that it may be there, and not be shown.
func (m *module) notOne(c Config, tokens, found []slotToken, hidden bool) error {
	if len(found) > 0 {
		var serials []string
		for _, t := range found {
			serials = append(serials, strconv.Quote(t.info.SerialNumber))
		}
		return &notFoundError{text: fmt.Sprintf("%s has %d tokens %s, with the serial numbers %s: set root.pkcs11.serial to that of the right one",
			c.Module, len(found), c.tokenName(), strings.Join(serials, ", "))}
	}
	text := fmt.Sprintf("%s has no token %s; %s", c.Module, c.tokenName(), labels(tokens))
	if soft, err := m.isSoftHSM(); err == nil && soft {
		text += "; SOFTHSM2_CONF, which says where SoftHSM has its tokens, is " + cmp.Or(os.Getenv("SOFTHSM2_CONF"), "not set")
	}
	return &notFoundError{text: text, token: hidden}
}

// labels says which tokens there are.
func labels(tokens []slotToken) string {
	var all []string
	for _, t := range tokens {
		if t.made() {
			all = append(all, fmt.Sprintf("%q (serial number %s)", t.info.Label, t.info.SerialNumber))
		}
	}
	if len(all) == 0 {
		return "it shows none"
	}
	return "it shows " + strings.Join(all, ", ")
}

// isSoftHSM reports whether the module is SoftHSM's.
func (m *module) isSoftHSM() (bool, error) {
	info, err := m.ctx.GetInfo()
	if err != nil {
		return false, answered("C_GetInfo", err)
	}
	return strings.TrimRight(info.ManufacturerID, " \x00") == "SoftHSM", nil
}

// A notFoundError says that a token or a key is not there. It may come back,
// so it is ErrUnavailable.
type notFoundError struct {
	text  string
	token bool // it is a token, which may be there and not be shown; see search
}

func (e *notFoundError) Error() string { return "hsm: " + e.text }
func (e *notFoundError) Unwrap() error { return kms.ErrUnavailable }

func library(m *module) (string, error) {
	info, err := m.ctx.GetInfo()
	if err != nil {
		return "", answered("C_GetInfo", err)
	}
	return fmt.Sprintf("%s %d.%d", strings.TrimRight(info.LibraryDescription, " \x00"), info.LibraryVersion.Major, info.LibraryVersion.Minor), nil
}

// checkMechanisms looks for the required mechanisms and for one that wraps.
func (s session) checkMechanisms(c Config) ([]Check, error) {
	list, err := s.link.module.ctx.GetMechanismList(s.link.slot)
	if err != nil {
		return nil, answered("C_GetMechanismList", err)
	}
	has := make(map[uint]bool)
	for _, mechanism := range list {
		has[mechanism.Mechanism] = true
	}
	s.link.wrap.listed = has
	var checks []Check
	for _, required := range requiredMechanisms {
		c := Check{What: required.name, Found: "there", OK: true}
		if !has[required.id] {
			c = Check{What: required.name, Found: "missing", Why: "the token does not have this mechanism", err: kms.ErrUnsupported}
		}
		checks = append(checks, c)
	}
	wraps, err := s.chooseWrapping(c)
	return append(checks, wraps), err
}

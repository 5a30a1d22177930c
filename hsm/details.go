package hsm

import (
	"fmt"
	"strings"
	"time"

	"github.com/miekg/pkcs11"
)

// TokenDetails is what a token says of itself without a login, beyond TokenInfo.
type TokenDetails struct {
	Cryptoki     string   `json:"cryptoki"` // version of the interface: "2.40"
	Slot         uint     `json:"slot"`
	Description  string   `json:"slot_description"`
	Hardware     string   `json:"hardware"` // version
	Firmware     string   `json:"firmware"` // version
	Flags        []string `json:"flags"`    // "LOGIN_REQUIRED": those of CK_TOKEN_INFO that are set
	Clock        *Clock   `json:"clock,omitempty"`
	Sessions     Limit    `json:"sessions"`
	RWSessions   Limit    `json:"rw_sessions"`
	PublicBytes  Limit    `json:"public_memory"`
	PrivateBytes Limit    `json:"private_memory"`
	MinPIN       uint     `json:"min_pin"` // bytes
	MaxPIN       uint     `json:"max_pin"`
}

// A Clock is that of the token, which has whole seconds. Nothing here depends on it.
type Clock struct {
	Time   time.Time `json:"time"`
	Offset float64   `json:"offset"` // seconds that it is ahead of this machine's
}

// A Limit is how much of something is in use, and how much there may be. Nil: the
// token does not tell.
type Limit struct {
	Used  *uint `json:"used,omitempty"`
	Most  *uint `json:"most,omitempty"`
	NoEnd bool  `json:"unlimited,omitempty"`
}

func (l Limit) String() string {
	used, most := "?", "?"
	if l.Used != nil {
		used = fmt.Sprint(*l.Used)
	}
	switch {
	case l.NoEnd:
		most = "no limit"
	case l.Most != nil:
		most = fmt.Sprint(*l.Most)
	}
	return used + " of " + most
}

// A Mechanism is one that the token lists. Of key sizes, in bits or bytes as the
// mechanism has it (PKCS#11 v2.40 base 3.5), zero stands for those without meaning.
type Mechanism struct {
	Name   string   `json:"name"`
	MinKey uint     `json:"min_key"`
	MaxKey uint     `json:"max_key"`
	Flags  []string `json:"flags"`
	Needed bool     `json:"needed"` // by a root
}

// details returns what is known about the token t in a slot.
func (m *module) details(slot uint, t pkcs11.TokenInfo, now time.Time) (TokenDetails, error) {
	var d TokenDetails
	info, err := m.ctx.GetInfo()
	if err != nil {
		return d, answered("C_GetInfo", err)
	}
	place, err := m.ctx.GetSlotInfo(slot)
	if err != nil {
		return d, answered("C_GetSlotInfo", err)
	}
	return TokenDetails{
		// CK_VERSION: the minor part is in hundredths. PKCS#11 v2.40 base 3.1.
		Cryptoki:    fmt.Sprintf("%d.%02d", info.CryptokiVersion.Major, info.CryptokiVersion.Minor),
		Slot:        slot,
		Description: strings.TrimRight(place.SlotDescription, " \x00"),
		Hardware:    version(t.HardwareVersion),
		Firmware:    version(t.FirmwareVersion),
		Flags:       flagNames(t.Flags, tokenFlags),
		Clock:       clockOf(t, now),
		Sessions:    sessionLimit(t.SessionCount, t.MaxSessionCount),
		RWSessions:  sessionLimit(t.RwSessionCount, t.MaxRwSessionCount),
		PublicBytes: memoryLimit(t.FreePublicMemory, t.TotalPublicMemory), PrivateBytes: memoryLimit(t.FreePrivateMemory, t.TotalPrivateMemory),
		MinPIN: t.MinPinLen, MaxPIN: t.MaxPinLen,
	}, nil
}

func version(v pkcs11.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// told returns nil for CK_UNAVAILABLE_INFORMATION, which is all ones.
func told(n uint) *uint {
	if n == ^uint(0) {
		return nil
	}
	return &n
}

// sessionLimit takes the two figures of CK_TOKEN_INFO. A most of zero is
// CK_EFFECTIVELY_INFINITE.
func sessionLimit(used, most uint) Limit {
	l := Limit{Used: told(used), Most: told(most), NoEnd: most == 0}
	if l.NoEnd {
		l.Most = nil
	}
	return l
}

func memoryLimit(free, total uint) Limit {
	l := Limit{Most: told(total)}
	if told(free) != nil && l.Most != nil && free <= total {
		used := total - free
		l.Used = &used
	}
	return l
}

// clockOf reads utcTime of CK_TOKEN_INFO: YYYYMMDDhhmmss and two zeros.
func clockOf(t pkcs11.TokenInfo, now time.Time) *Clock {
	const layout = "20060102150405"
	if t.Flags&pkcs11.CKF_CLOCK_ON_TOKEN == 0 || len(t.UTCTime) < len(layout) {
		return nil
	}
	at, err := time.Parse(layout, t.UTCTime[:len(layout)])
	if err != nil {
		return nil
	}
	return &Clock{Time: at, Offset: at.Sub(now.Truncate(time.Second)).Seconds()}
}

// mechanisms returns what the token lists, in its order. The sizes and flags of one
// about which it does not answer are missing.
func (m *module) mechanisms(slot uint) ([]Mechanism, error) {
	list, err := m.ctx.GetMechanismList(slot)
	if err != nil {
		return nil, answered("C_GetMechanismList", err)
	}
	all := []Mechanism{}
	for _, one := range list {
		d := Mechanism{Name: mechanismName(one.Mechanism), Needed: needed(one.Mechanism), Flags: []string{}}
		if info, err := m.ctx.GetMechanismInfo(slot, []*pkcs11.Mechanism{one}); err == nil {
			d.Flags = flagNames(info.Flags, mechanismFlags)
			if told(info.MinKeySize) != nil && told(info.MaxKeySize) != nil {
				d.MinKey, d.MaxKey = info.MinKeySize, info.MaxKeySize
			}
		}
		all = append(all, d)
	}
	return all, nil
}

func needed(id uint) bool {
	for _, required := range requiredMechanisms {
		if required.id == id {
			return true
		}
	}
	return false
}

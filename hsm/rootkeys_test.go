package hsm_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/softhsm"
)

// The root keys of TestHS18. Each has every attribute right but the one that is
// named.
const (
	kek = iota
	recordKey
)

// make makes a root key with some flags of its own.
func (r raw) make(which int, set map[uint]bool) pkcs11.ObjectHandle {
	r.t.Helper()
	if which == kek {
		return r.makeKEK(but(goodKEK, set))
	}
	return r.makeRecordKey(but(goodRecordKey, set))
}

// makeThen makes a root key with some flags, sets others, as whoever has the PIN
// can, and puts a copy in its place that cannot be changed any more: what is wrong
// is the history of the key, and that SoftHSM let it be copied.
func (r raw) makeThen(which int, set, then map[uint]bool) {
	r.t.Helper()
	loose := map[uint]bool{pkcs11.CKA_MODIFIABLE: true, pkcs11.CKA_COPYABLE: true, pkcs11.CKA_DESTROYABLE: true}
	key := r.make(which, but(loose, set))
	ok(r.t, r.SetAttributeValue(r.session, key, flags(nil, then)))
	// In this order: what follows CKA_MODIFIABLE cannot be set in SoftHSM.
	tight := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_DESTROYABLE, false), pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false)}
	_, err := r.CopyObject(r.session, key, tight)
	ok(r.t, err)
	ok(r.t, r.DestroyObject(r.session, key))
}

// makeImported makes a root key of bytes that someone knows.
func (r raw) makeImported(which int) {
	r.t.Helper()
	base, kind, set := kekBase(), pkcs11.CKK_AES, goodKEK
	if which == recordKey {
		base, kind, set = recordKeyBase(), pkcs11.CKK_GENERIC_SECRET, goodRecordKey
	}
	_, err := r.CreateObject(r.session, flags(append(base,
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, make([]byte, 32))), set))
	ok(r.t, err)
}

// wrongOf returns the attributes of one root key that the doctor finds wrong, but for
// CKA_UNWRAP_TEMPLATE, which no KEK of these tests has.
func wrongOf(report hsm.Report, which int) (wrong []string) {
	label := []string{kek: fmt.Sprintf("KEK %q: ", hsm.DefaultKEK), recordKey: fmt.Sprintf("record key %q: ", hsm.DefaultRecordKey)}[which]
	for _, c := range report.Checks {
		if attribute, its := strings.CutPrefix(c.What, label); its && !c.OK && attribute != "CKA_UNWRAP_TEMPLATE" {
			wrong = append(wrong, attribute)
		}
	}
	return wrong
}

func TestHS18_BadRootKeysAreRefusedByName(t *testing.T) {
	type row struct {
		what  string
		which int
		make  func(raw)
		wrong []string
	}
	var rows []row
	flag := func(what string, which int, attribute uint, value bool, wrong ...string) {
		rows = append(rows, row{what, which, func(r raw) { r.make(which, map[uint]bool{attribute: value}) }, wrong})
	}
	for which, key := range []string{kek: "a KEK", recordKey: "a record key"} {
		flag(key+" for all to see", which, pkcs11.CKA_PRIVATE, false, "CKA_PRIVATE")
		flag(key+" that is not sensitive", which, pkcs11.CKA_SENSITIVE, false, "CKA_SENSITIVE", "CKA_ALWAYS_SENSITIVE")
		flag(key+" that can be extracted", which, pkcs11.CKA_EXTRACTABLE, true, "CKA_EXTRACTABLE", "CKA_NEVER_EXTRACTABLE")
		flag(key+" that can be modified", which, pkcs11.CKA_MODIFIABLE, true, "CKA_MODIFIABLE")
		flag(key+" that can be copied", which, pkcs11.CKA_COPYABLE, true, "CKA_COPYABLE")
		flag(key+" that can be destroyed", which, pkcs11.CKA_DESTROYABLE, true, "CKA_DESTROYABLE")
		flag(key+" that encrypts", which, pkcs11.CKA_ENCRYPT, true, "CKA_ENCRYPT")
		flag(key+" that decrypts", which, pkcs11.CKA_DECRYPT, true, "CKA_DECRYPT")
		flag(key+" that derives", which, pkcs11.CKA_DERIVE, true, "CKA_DERIVE")
		rows = append(rows,
			row{key + " that was extractable", which, func(r raw) {
				r.makeThen(which, map[uint]bool{pkcs11.CKA_EXTRACTABLE: true}, map[uint]bool{pkcs11.CKA_EXTRACTABLE: false})
			}, []string{"CKA_NEVER_EXTRACTABLE", "CKA_COPYABLE"}},
			row{key + " that was not sensitive", which, func(r raw) {
				r.makeThen(which, map[uint]bool{pkcs11.CKA_SENSITIVE: false}, map[uint]bool{pkcs11.CKA_SENSITIVE: true})
			}, []string{"CKA_ALWAYS_SENSITIVE", "CKA_COPYABLE"}},
			row{key + " that was imported", which, func(r raw) { r.makeImported(which) },
				[]string{"CKA_ALWAYS_SENSITIVE", "CKA_NEVER_EXTRACTABLE", "CKA_LOCAL"}})
	}
	flag("a KEK that does not wrap", kek, pkcs11.CKA_WRAP, false, "CKA_WRAP")
	flag("a KEK that does not unwrap", kek, pkcs11.CKA_UNWRAP, false, "CKA_UNWRAP")
	flag("a KEK that signs", kek, pkcs11.CKA_SIGN, true, "CKA_SIGN")
	flag("a KEK that verifies", kek, pkcs11.CKA_VERIFY, true, "CKA_VERIFY")
	flag("a record key that does not sign", recordKey, pkcs11.CKA_SIGN, false, "CKA_SIGN")
	flag("a record key that wraps", recordKey, pkcs11.CKA_WRAP, true, "CKA_WRAP")
	flag("a record key that unwraps", recordKey, pkcs11.CKA_UNWRAP, true, "CKA_UNWRAP")

	for _, row := range rows {
		t.Run(row.what, func(t *testing.T) {
			f := softhsm.Token(t)
			other := recordKey - row.which
			as(t, f, func(r raw) {
				row.make(r)
				r.make(other, nil)
			})
			err := refused(t, configOf(f))
			for _, attribute := range row.wrong {
				says(t, err, ": "+attribute+" is ")
			}
			report, err := hsm.Doctor(t.Context(), configOf(f))
			ok(t, err)
			if got := wrongOf(report, row.which); !slices.Equal(got, row.wrong) || report.OK {
				t.Errorf("the doctor finds %q wrong, not %q", got, row.wrong)
			}
			if got := wrongOf(report, other); got != nil {
				t.Errorf("and %q of the other key", got)
			}
		})
	}
}

func TestHS18_AKEKWithoutAnUnwrapTemplateIsRefused(t *testing.T) {
	f := softhsm.Token(t)
	as(t, f, func(r raw) {
		r.make(kek, nil)
		r.make(recordKey, nil)
	})
	says(t, refused(t, configOf(f)), "the KEK has no CKA_UNWRAP_TEMPLATE")
}

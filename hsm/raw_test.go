package hsm_test

import (
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/softhsm"
)

// A raw is a session of the token's user, without package hsm: what someone who
// has the PIN can do.
type raw struct {
	t *testing.T
	*pkcs11.Ctx
	session pkcs11.SessionHandle
}

func openRaw(t *testing.T, ctx *pkcs11.Ctx, f softhsm.Fixture) pkcs11.SessionHandle {
	t.Helper()
	slots, err := ctx.GetSlotList(true)
	ok(t, err)
	for _, slot := range slots {
		info, err := ctx.GetTokenInfo(slot)
		ok(t, err)
		if info.Label != f.Label {
			continue
		}
		session, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		ok(t, err)
		ok(t, ctx.Login(session, pkcs11.CKU_USER, f.PIN))
		return session
	}
	t.Fatalf("no token %s", f.Label)
	return 0
}

// as runs fn with a raw session that is over when it returns.
func as(t *testing.T, f softhsm.Fixture, fn func(raw)) {
	t.Helper()
	ctx := pkcs11.New(f.Module)
	ok(t, ctx.Initialize())
	defer func() { ok(t, ctx.Finalize()) }() // also when fn ends the test
	fn(raw{t, ctx, openRaw(t, ctx, f)})
}

func (r raw) generate(mechanism uint, template []*pkcs11.Attribute) pkcs11.ObjectHandle {
	r.t.Helper()
	object, err := r.GenerateKey(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, template)
	ok(r.t, err)
	return object
}

func (r raw) find(label string) pkcs11.ObjectHandle {
	r.t.Helper()
	ok(r.t, r.FindObjectsInit(r.session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}))
	found, _, err := r.FindObjects(r.session, 2)
	ok(r.t, err)
	ok(r.t, r.FindObjectsFinal(r.session))
	if len(found) != 1 {
		r.t.Fatalf("%d objects %s", len(found), label)
	}
	return found[0]
}

// flags is a template of Boolean attributes over a base of others.
func flags(base []*pkcs11.Attribute, set map[uint]bool) []*pkcs11.Attribute {
	for attribute, value := range set {
		base = append(base, pkcs11.NewAttribute(attribute, value))
	}
	return base
}

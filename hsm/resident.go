package hsm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/within"
)

// The values of Config.Residency.
const (
	residencyWrapped = "wrapped"
	residencyToken   = "token"
)

// A resident key is an object of the token that was made there and never leaves
// it. Its handle has the wrapping inToken and names the object: the CKA_ID is the
// key id, of 16 bytes, and a number, of 8, which is in the handle where others have
// the CKA_ID of their KEK, since a named key has several keys of one key id, and each
// try to make one another name. The CKA_LABEL is "keygate-" and the key id in hex, for
// people.
//
// What is found by that name is used only if it is the key of the check.

// objectID returns the CKA_ID of a resident key.
func (h keyHandle) objectID() []byte { return append(h.id[:len(h.id):len(h.id)], h.kek[:]...) }

const residentPrefix = "keygate-"

func (h keyHandle) objectLabel() string { return residentPrefix + h.id.String() }

// isResident reports whether a handle is that of a resident key.
func isResident(handle []byte) bool {
	return len(handle) > 1 && handle[0] == handleFormat && wrapping(handle[1]) == inToken
}

// errInOneToken is the answer where a resident key is asked of several tokens.
var errInOneToken = fmt.Errorf("hsm: the key is in the one token that it was made in (residency: token), and root.pkcs11.tokens names several: %w", kms.ErrUnsupported)

// newNumber returns a number for keys that an op is to make in the token.
func newNumber() (number kekID) {
	rand.Read(number[:])
	return number
}

// makeKey makes the key of o and returns its handle.
func (s session) makeKey(o *op, imported []byte) (keyHandle, error) {
	if !o.resident() {
		return s.newKey(o.id, o.purpose, imported)
	}
	n := int(o.begun.n.Add(1)) - 1
	if n >= maxMade {
		return keyHandle{}, fmt.Errorf("hsm: a key in the token was begun %d times: %w", n, kms.ErrUnavailable)
	}
	return s.newResident(o.nth(n), imported)
}

// resident reports whether o makes an object in the token.
func (o *op) resident() bool { return o.kind == opNewKey && o.number != kekID{} }

// newResident makes the key that h names, or imports it, and returns h with its
// check. The key has been found by its name and used once. What was made if that fails
// is destroyed later: see leftovers.go.
func (s session) newResident(h keyHandle, imported []byte) (keyHandle, error) {
	object, err := s.createResident(h, imported)
	if err != nil {
		return h, err
	}
	if err := s.staysInside(object, imported == nil); err != nil {
		return h, err
	}
	if h.check, err = s.checkOf(object, h); err != nil {
		return h, err
	}
	_, err = s.findResident(h)
	return h, err
}

func (s session) createResident(h keyHandle, imported []byte) (object pkcs11.ObjectHandle, err error) {
	known, err := s.knowsCopyable()
	if err != nil {
		return 0, err
	}
	if imported != nil {
		object, err = s.link.module.importKey(s.handle, h.purpose == kms.Encryption, imported, &residentName{h.objectID(), h.objectLabel(), known})
	} else {
		mechanism := uint(pkcs11.CKM_AES_KEY_GEN)
		if h.purpose == kms.Authentication {
			mechanism = pkcs11.CKM_GENERIC_SECRET_KEY_GEN
		}
		object, err = s.link.module.ctx.GenerateKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, residentTemplate(h, known))
		err = answered("C_GenerateKey", err)
	}
	if err != nil {
		return 0, err
	}
	return object, s.link.isNew(object)
}

// A residentName is what an imported key is called in the token.
type residentName struct {
	id       []byte
	label    string
	copyable bool // the token knows CKA_COPYABLE, which is to be false
}

// residentTemplate is that of a master key for one purpose, in the token.
func residentTemplate(h keyHandle, copyable bool) []*pkcs11.Attribute {
	template := slices.DeleteFunc(keyTemplate(h.purpose, false), func(a *pkcs11.Attribute) bool { return a.Type == pkcs11.CKA_TOKEN })
	template = append(template,
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, kms.KeySize),
		pkcs11.NewAttribute(pkcs11.CKA_ID, h.objectID()),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, h.objectLabel()),
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false))
	if copyable {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, false))
	}
	return template
}

// knowsCopyable reports whether the token knows CKA_COPYABLE: it does if the
// record key has it. To try it is no way to find out: what is made in the token
// is not made twice.
func (s session) knowsCopyable() (bool, error) {
	_, err := s.attribute(s.link.recordKey.object, pkcs11.CKA_COPYABLE)
	if e, ok := errors.AsType[*Error](err); ok && e.Code == pkcs11.CKR_ATTRIBUTE_TYPE_INVALID {
		return false, nil
	}
	return err == nil, err
}

// staysInside returns ErrDenied if the token made a key that may leave it,
// whatever was asked.
func (s session) staysInside(object pkcs11.ObjectHandle, made bool) error {
	rules := []rule{{pkcs11.CKA_TOKEN, "CKA_TOKEN", true, "it would be gone with the session", false},
		{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", true, whyLeaves, false},
		{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false, whyLeaves, false}}
	if made {
		rules = append(rules, rule{pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", true, whyMade, false})
	}
	var checks []Check
	for _, r := range rules {
		c, err := s.follows("new key", object, r)
		if err != nil {
			return err
		}
		checks = append(checks, c)
	}
	return refused(checks)
}

// errNoObject says that the token shows no object of that name. One that has lost
// the login shows no private object, so it says nothing yet of the key.
var errNoObject = fmt.Errorf("hsm: the token has no such key: %w", kms.ErrUnavailable)

// errShowsNothing says that the token shows no record key either, which is there.
var errShowsNothing = fmt.Errorf("hsm: the token shows no object by its name, not even the record key: %w", kms.ErrUnavailable)

// showsObjects is the canary of a search: it finds the record key by its label.
func (s session) showsObjects() error {
	if err := s.canary(); err != nil {
		return err
	}
	label, err := s.attribute(s.link.recordKey.object, pkcs11.CKA_LABEL)
	if err != nil {
		return err
	}
	found, err := s.find([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}, 1)
	if err == nil && len(found) == 0 {
		err = errShowsNothing
	}
	return err
}

// loadResident returns the object of a resident key, which has been used once. It
// is ErrCorrupt if the token works and has no such key, or others of its name only.
func (s session) loadResident(h keyHandle) (object pkcs11.ObjectHandle, err error) {
	for range 1 + s.roundsFor(kms.ErrCorrupt, tokenFault) {
		object, err = settle(s, kms.ErrCorrupt, s.canary, func() (pkcs11.ObjectHandle, error) { return s.findResident(h) })
		if !errors.Is(err, errNoObject) {
			return object, err
		}
		if canaryErr := s.showsObjects(); canaryErr != nil {
			return 0, errors.Join(err, canaryErr)
		}
	}
	return 0, fmt.Errorf("hsm: key handle: token %q (serial number %s) has no key %x: it was destroyed, or is in another token: %w", s.link.token.Label, s.link.token.Serial, h.objectID(), kms.ErrCorrupt)
}

// findResident returns the object of h: of those that have its name the one that is
// the right key.
func (s session) findResident(h keyHandle) (pkcs11.ObjectHandle, error) {
	found, err := s.residents(h)
	if err != nil {
		return 0, err
	}
	err = errNoObject
	for _, object := range found {
		wrong := s.verify(object, h)
		if wrong == nil {
			s.link.noteNamesakes(h, len(found)-1)
			return object, nil
		}
		if errors.Is(err, errNoObject) || !s.isAnotherKey(wrong) {
			err = wrong // a fault says more than that one of them is another key
		}
	}
	return 0, err
}

// isAnotherKey reports whether an answer of verify is one that another key gives.
func (s session) isAnotherKey(err error) bool {
	return errors.Is(err, errAnother) || s.answersBadInput(err)
}

// noteNamesakes logs that others have the name of a resident key.
func (l *link) noteNamesakes(h keyHandle, others int) {
	if others > 0 && l.log != nil {
		l.log.Warn("hsm: the token has several keys of one name, of which one is the right one and is used", "token", l.token.Label, "object", fmt.Sprintf("%x", h.objectID()), "others", others)
	}
}

// maxNamesakes is how many objects of one name are looked at.
const maxNamesakes = 32

// residents returns the objects that have the name of h.
func (s session) residents(h keyHandle) ([]pkcs11.ObjectHandle, error) {
	return s.find([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_ID, h.objectID()),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, h.objectLabel()),
	}, maxNamesakes)
}

// destroyResident destroys what has the name of h and makes sure that nothing has it
// any longer. If nothing has it, the token shows what it has. The session can write.
func (s session) destroyResident(h keyHandle) error {
	found, err := s.residents(h)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return s.showsObjects()
	}
	for _, object := range found {
		if err := s.destroy(object); err != nil {
			return err
		}
	}
	if found, err = s.residents(h); err == nil && len(found) > 0 {
		err = fmt.Errorf("hsm: the key %x was destroyed and is still in the token: %w", h.objectID(), kms.ErrUnavailable)
	}
	return err
}

// writable runs fn with a session of the same link that can change the token.
func (s session) writable(fn func(session) error) error {
	if s.link.flags&pkcs11.CKF_RW_SESSION != 0 {
		return fn(s)
	}
	rw, err := s.link.open(pkcs11.CKF_RW_SESSION)
	if err != nil {
		return err
	}
	defer rw.abandon()
	return fn(rw)
}

// destroyResident destroys a resident key: that of a handle, or one that nobody has. A
// call that used it meanwhile fails.
func (t *token) destroyResident(ctx context.Context, handle []byte, h keyHandle) error {
	w := new(within.Context)
	w.Begin(ctx, time.Now().Add(t.cfg.Timeout))
	defer w.Stop()
	err := t.tryDestroyResident(w, handle, h)
	if err != nil && repairable(err) && w.Err() == nil {
		err = t.tryDestroyResident(w, handle, h)
	}
	return err
}

func (t *token) tryDestroyResident(ctx context.Context, handle []byte, h keyHandle) error {
	l, err := t.linkFor(ctx, &op{kind: opDestroy})
	if err != nil {
		return err
	}
	if k := l.cached(handle); k != nil {
		l.evict(k)
		k.done()
	}
	letGo, err := t.changeObjects(ctx, t.keeper)
	if err != nil {
		return err
	}
	_, err = call(ctx, t.keeper, task[struct{}]{end: letGo, slow: true, run: func(*worker) (struct{}, error) {
		return struct{}{}, l.onLoader(ctx, func(s session) error {
			return s.writable(func(rw session) error { return rw.destroyResident(h) })
		})
	}})
	return err
}

// longChange is how long a call that makes or destroys objects may take before it is
// taken for one that hangs, in multiples of Config.Timeout: the wait for a session, and
// the call, which its caller has left long before.
const longChange = 2

// changeObjects returns when no other call makes or destroys objects of a token of t's
// module, but those that hang, if one more may hang in p. The next may when letGo is
// called.
func (t *token) changeObjects(ctx context.Context, p *pool) (letGo func(), err error) {
	return t.module.changing.take(ctx, longChange*t.cfg.Timeout, p.canLose)
}

// makeAnyProbe makes the link's own key as one that is wrapped. If the token does
// not wrap, or has no key be extractable, and need not, since keys stay in it, the
// key is one that is never wrapped.
func (s session) makeAnyProbe() error {
	if s.link.wrap.chosen != 0 {
		err := s.makeProbes()
		if c, ok := classOf(err); !s.link.keeps || !ok || c != requestFault {
			return err
		}
	}
	s.link.wrap.note = "the token wraps no key, so only keys that stay in the token can be used"
	return s.makeInnerProbe()
}

// makeInnerProbe makes the link's own key as a session object that is never
// extractable.
func (s session) makeInnerProbe() error {
	h := keyHandle{wrapping: inToken, purpose: kms.Encryption}
	rand.Read(h.id[:])
	template := append(keyTemplate(h.purpose, false), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, kms.KeySize))
	object, err := s.link.module.ctx.GenerateKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, template)
	if err != nil {
		return answered("C_GenerateKey", err)
	}
	if h.check, err = s.checkOf(object, h); err != nil {
		return err
	}
	s.link.probe = &loaded{link: s.link, object: object, handle: h}
	return s.canary()
}

package hsm

import "github.com/miekg/pkcs11"

// calls are the calls of a module that go through miekg/pkcs11, under the names
// that they have there. Together with functions, which are our own, they are all
// the ways into a module: each call is entered in the book.
type calls struct {
	raw   *pkcs11.Ctx
	book  *book
	makes *objectCount
}

func (c calls) Initialize(options ...pkcs11.InitializeOption) (err error) {
	defer c.book.enter(fnInitialize).done(&err)
	return c.raw.Initialize(options...)
}

func (c calls) Finalize() (err error) {
	defer c.book.enter(fnFinalize).done(&err)
	return c.raw.Finalize()
}

func (c calls) GetInfo() (_ pkcs11.Info, err error) {
	defer c.book.enter(fnGetInfo).done(&err)
	return c.raw.GetInfo()
}

func (c calls) GetSlotList(tokenPresent bool) (_ []uint, err error) {
	defer c.book.enter(fnGetSlotList).done(&err)
	return c.raw.GetSlotList(tokenPresent)
}

func (c calls) GetSlotInfo(slot uint) (_ pkcs11.SlotInfo, err error) {
	defer c.book.enter(fnGetSlotInfo).done(&err)
	return c.raw.GetSlotInfo(slot)
}

func (c calls) GetTokenInfo(slot uint) (_ pkcs11.TokenInfo, err error) {
	defer c.book.enter(fnGetTokenInfo).done(&err)
	return c.raw.GetTokenInfo(slot)
}

func (c calls) GetMechanismList(slot uint) (_ []*pkcs11.Mechanism, err error) {
	defer c.book.enter(fnGetMechanismList).done(&err)
	return c.raw.GetMechanismList(slot)
}

func (c calls) GetMechanismInfo(slot uint, m []*pkcs11.Mechanism) (_ pkcs11.MechanismInfo, err error) {
	defer c.book.enter(fnGetMechanismInfo).done(&err)
	return c.raw.GetMechanismInfo(slot, m)
}

func (c calls) InitToken(slot uint, officerPIN, label string) (err error) {
	defer c.book.enter(fnInitToken).done(&err)
	return c.raw.InitToken(slot, officerPIN, label)
}

func (c calls) InitPIN(s pkcs11.SessionHandle, pin string) (err error) {
	defer c.book.enter(fnInitPIN).done(&err)
	return c.raw.InitPIN(s, pin)
}

func (c calls) OpenSession(slot, flags uint) (_ pkcs11.SessionHandle, err error) {
	defer c.book.enter(fnOpenSession).done(&err)
	return c.raw.OpenSession(slot, flags)
}

func (c calls) CloseSession(s pkcs11.SessionHandle) (err error) {
	defer c.book.enter(fnCloseSession).done(&err)
	return c.raw.CloseSession(s)
}

func (c calls) CloseAllSessions(slot uint) (err error) {
	defer c.book.enter(fnCloseAllSessions).done(&err)
	return c.raw.CloseAllSessions(slot)
}

func (c calls) GetSessionInfo(s pkcs11.SessionHandle) (_ pkcs11.SessionInfo, err error) {
	defer c.book.enter(fnGetSessionInfo).done(&err)
	return c.raw.GetSessionInfo(s)
}

// Login is for the security officer of a trial token. The user's PIN goes through
// functions.login, which leaves no copy of it in the C heap.
func (c calls) Login(s pkcs11.SessionHandle, user uint, pin string) (err error) {
	defer c.book.enter(fnLogin).done(&err)
	return c.raw.Login(s, user, pin)
}

func (c calls) Logout(s pkcs11.SessionHandle) (err error) {
	defer c.book.enter(fnLogout).done(&err)
	return c.raw.Logout(s)
}

func (c calls) CopyObject(s pkcs11.SessionHandle, object pkcs11.ObjectHandle, template []*pkcs11.Attribute) (_ pkcs11.ObjectHandle, err error) {
	defer c.book.enter(fnCopyObject).done(&err)
	defer c.makes.enter()()
	return c.raw.CopyObject(s, object, template)
}

func (c calls) DestroyObject(s pkcs11.SessionHandle, object pkcs11.ObjectHandle) (err error) {
	defer c.book.enter(fnDestroyObject).done(&err)
	return c.raw.DestroyObject(s, object)
}

func (c calls) GetAttributeValue(s pkcs11.SessionHandle, object pkcs11.ObjectHandle, template []*pkcs11.Attribute) (_ []*pkcs11.Attribute, err error) {
	defer c.book.enter(fnGetAttributeValue).done(&err)
	return c.raw.GetAttributeValue(s, object, template)
}

func (c calls) FindObjectsInit(s pkcs11.SessionHandle, template []*pkcs11.Attribute) (err error) {
	defer c.book.enter(fnFindObjectsInit).done(&err)
	return c.raw.FindObjectsInit(s, template)
}

func (c calls) FindObjects(s pkcs11.SessionHandle, limit int) (_ []pkcs11.ObjectHandle, _ bool, err error) {
	defer c.book.enter(fnFindObjects).done(&err)
	return c.raw.FindObjects(s, limit)
}

func (c calls) FindObjectsFinal(s pkcs11.SessionHandle) (err error) {
	defer c.book.enter(fnFindObjectsFinal).done(&err)
	return c.raw.FindObjectsFinal(s)
}

func (c calls) GenerateKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, template []*pkcs11.Attribute) (_ pkcs11.ObjectHandle, err error) {
	defer c.book.enter(fnGenerateKey).done(&err)
	defer c.makes.enter()()
	return c.raw.GenerateKey(s, m, template)
}

func (c calls) GenerateKeyPair(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, public, private []*pkcs11.Attribute) (_, _ pkcs11.ObjectHandle, err error) {
	defer c.book.enter(fnGenerateKeyPair).done(&err)
	defer c.makes.enter()()
	return c.raw.GenerateKeyPair(s, m, public, private)
}

// WrapKey is for what is done once: each call of it that fails leaks its buffer.
// Master keys are wrapped by functions.wrapKey.
func (c calls) WrapKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, wrapping, key pkcs11.ObjectHandle) (_ []byte, err error) {
	defer c.book.enter(fnWrapKey).done(&err)
	return c.raw.WrapKey(s, m, wrapping, key)
}

func (c calls) CreateObject(s pkcs11.SessionHandle, template []*pkcs11.Attribute) (_ pkcs11.ObjectHandle, err error) {
	defer c.book.enter(fnCreateObject).done(&err)
	defer c.makes.enter()()
	return c.raw.CreateObject(s, template)
}

func (c calls) UnwrapKey(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, unwrapping pkcs11.ObjectHandle, wrapped []byte, template []*pkcs11.Attribute) (_ pkcs11.ObjectHandle, err error) {
	defer c.book.enter(fnUnwrapKey).done(&err)
	defer c.makes.enter()()
	return c.raw.UnwrapKey(s, m, unwrapping, wrapped, template)
}

func (c calls) GenerateRandom(s pkcs11.SessionHandle, size int) (_ []byte, err error) {
	defer c.book.enter(fnGenerateRandom).done(&err)
	return c.raw.GenerateRandom(s, size)
}

package hsm_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/kms"
)

// The fault matrix (F4, HS-01): each function of the module that is called, times
// each code that it may answer, once, three times and for ever; and each function
// that hangs, is slow, or ends the process. While a fault is on, and after it, all
// operations of a root are done, and what they return is compared with what it must
// be. docs/hsm-faults.md is written from the results.

// A reach says when a function is called.
type reach int

const (
	inUse        reach = iota // by operations on the connection that there is
	onConnect                 // when the root connects anew
	onInitialize              // when the module is initialised anew
	onClose                   // when it cannot be finalised for that
)

// A matrixFunction is a function of the module that a root calls.
type matrixFunction struct {
	name  string
	reach reach
}

var matrixFunctions = []matrixFunction{
	{"C_Initialize", onInitialize},
	{"C_Finalize", onInitialize},
	{"C_GetInfo", onConnect},
	{"C_GetSlotList", onConnect},
	{"C_GetTokenInfo", onConnect},
	{"C_GetMechanismList", onConnect},
	{"C_OpenSession", onConnect},
	{"C_CloseSession", onConnect},
	{"C_CloseAllSessions", onClose},
	{"C_GetSessionInfo", onConnect},
	{"C_Login", onInitialize},
	{"C_CreateObject", inUse},
	{"C_DestroyObject", inUse},
	{"C_GetAttributeValue", onConnect},
	{"C_FindObjectsInit", onConnect},
	{"C_FindObjects", onConnect},
	{"C_FindObjectsFinal", onConnect},
	{"C_EncryptInit", inUse},
	{"C_Encrypt", inUse},
	{"C_DecryptInit", inUse},
	{"C_Decrypt", inUse},
	{"C_SignInit", inUse},
	{"C_Sign", inUse},
	{"C_GenerateKey", inUse},
	{"C_WrapKey", inUse},
	{"C_UnwrapKey", inUse},
	{"C_GenerateRandom", inUse},
}

// otherFunctions are called by no root, but by InitToken, which makes a token for
// tests, and by Doctor; ceremonyFunctions by BeginRotation, CopyRootKeys and
// InitSigningKey, while somebody looks on.
var (
	otherFunctions    = []string{"C_InitToken", "C_InitPIN", "C_GetSlotInfo", "C_GetMechanismInfo"}
	ceremonyFunctions = []string{"C_CopyObject", "C_GenerateKeyPair", "C_Logout"}
)

// vendorCode is in the range that PKCS#11 leaves to makers.
const vendorCode = 0x80000001

// matrixCodes are what a function may answer.
var matrixCodes = []uint{
	pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_HOST_MEMORY, pkcs11.CKR_FUNCTION_CANCELED,
	pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_DEVICE_REMOVED,
	pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_SLOT_ID_INVALID,
	pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_SESSION_COUNT,
	pkcs11.CKR_OPERATION_ACTIVE, pkcs11.CKR_OPERATION_NOT_INITIALIZED,
	pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID,
	pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_USER_ALREADY_LOGGED_IN, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED,
	pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_LOCKED,
	pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ARGUMENTS_BAD,
	vendorCode,
}

// someCodes are one that another session repairs and one that takes all: what is run
// with the race detector, which makes a connection take several times as long.
// KEYGATE_LONG=1: all.
var someCodes = []uint{pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED}

func allCells() bool { return !raceEnabled || os.Getenv("KEYGATE_LONG") == "1" }

// The modes of a cell. Those from hang on have no code.
const (
	once   = "once"
	burst  = "3 times"
	always = "for ever"
	hang   = "hang"
	slow   = "slow"
	abort  = "abort" // the process of the module ends; only with isolation: worker
)

// A cell is one fault.
type cell struct {
	Function string
	Code     uint
	Mode     string
}

func (c cell) String() string {
	if c.Code == 0 {
		return c.Function + " " + c.Mode
	}
	return fmt.Sprintf("%s %s %s", c.Function, codeName(c.Code), c.Mode)
}

func codeName(code uint) string {
	if code == vendorCode {
		return "a vendor's code"
	}
	return strings.TrimPrefix((&hsm.Error{Code: code}).Error(), "hsm: : CKR_")
}

// cells returns all cells but those in which the process ends.
func cells() (all []cell) {
	codes := matrixCodes
	if !allCells() {
		codes = someCodes
	}
	for _, f := range matrixFunctions {
		for _, code := range codes {
			for _, mode := range []string{once, burst, always} {
				all = append(all, cell{f.name, code, mode})
			}
		}
		all = append(all, cell{f.name, 0, hang}, cell{f.name, 0, slow})
	}
	return all
}

// What callers were told while a fault was on, the worst last.
const (
	served      = "served"
	unavailable = "unavailable" // 503, try again
	denied      = "denied"      // 503, see to it
	unsupported = "unsupported" // 501
	wrong       = "WRONG"
)

var outcomes = []string{served, unavailable, denied, unsupported, wrong}

// A finding is what was found in a cell.
type finding struct {
	Cell     cell
	Told     string        // the worst of outcomes
	Recovery time.Duration // from the end of the fault until all is served
	Wrong    []string      // what must not be
	Late     bool          // and that is only that it took too long
}

// A matrix is a root behind a shim, with keys, whose cells are run one after the
// other.
type matrix struct {
	faulty
	cfg      hsm.Config
	ctx      context.Context // of the operations
	macKey   []byte
	mac, rec [kms.MACSize]byte // of "message", under macKey and the record key
	keys     []matrixKey       // all that were made, and what is under them

	mu    sync.Mutex
	found finding
}

type matrixKey struct {
	handle, ciphertext []byte
	mac                *[kms.MACSize]byte // of a key that authenticates
}

const (
	// hangTimeout is how long the callers of a cell that hangs wait, and
	// stallTimeout how long others wait for a session: longer than the default, as
	// all parts of the matrix run on the same machine.
	hangTimeout  = 500 * time.Millisecond
	stallTimeout = time.Second
)

func newMatrix(t *testing.T, s *shim, cfg hsm.Config) *matrix {
	cfg.Sessions, cfg.Timeout, cfg.Queue.Wait = 2, hsm.DefaultTimeout, stallTimeout
	return &matrix{faulty: faulty{shim: s}, cfg: cfg, ctx: t.Context()}
}

func openMatrix(t *testing.T) *matrix {
	s, cfg := shimmed(t)
	m := newMatrix(t, s, cfg)
	m.open()
	t.Cleanup(func() {
		s.heal()
		if err := m.root.Close(); err != nil {
			t.Error(err)
		}
	})
	m.prepare()
	return m
}

// prepare makes the first keys.
func (m *matrix) prepare() {
	m.t.Helper()
	m.handle = newKey(m.t, m.root, kms.Encryption)
	m.ciphertext = m.encrypt()
	m.macKey = newKey(m.t, m.root, kms.Authentication)
	var err error
	m.mac, err = m.root.MAC(m.t.Context(), m.macKey, []byte("message"))
	ok(m.t, err)
	m.rec, err = m.root.MAC(m.t.Context(), nil, []byte("message"))
	ok(m.t, err)
	m.keys = []matrixKey{{handle: m.handle, ciphertext: m.ciphertext}, {handle: m.macKey, mac: &m.mac}}
}

func (m *matrix) open() {
	m.t.Helper()
	var err error
	m.root, err = hsm.Open(m.t.Context(), m.cfg, quiet())
	ok(m.t, err)
}

// wrong notes what must not be.
func (m *matrix) wrong(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.found.Wrong = append(m.found.Wrong, fmt.Sprintf(format, args...))
	m.found.Told = wrong
}

// told notes what a caller was told, and reports whether he was served.
func (m *matrix) told(operation string, err error) bool {
	how := served
	switch {
	case err == nil:
	case errors.Is(err, kms.ErrCiphertext) || errors.Is(err, kms.ErrCorrupt) || errors.Is(err, kms.ErrKeyNotFound):
		how = wrong
	case errors.Is(err, kms.ErrUnavailable):
		how = unavailable
	case errors.Is(err, kms.ErrDenied):
		how = denied
	case errors.Is(err, kms.ErrUnsupported):
		how = unsupported
	default:
		how = wrong
	}
	if status := http.StatusServiceUnavailable; (how == unavailable || how == denied) && api.ErrorOf(err).Status != status {
		how = wrong
	}
	if how == wrong {
		m.wrong("%s: told %v", operation, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.Index(outcomes, how) > slices.Index(outcomes, m.found.Told) {
		m.found.Told = how
	}
	return err == nil
}

// round does each operation once, and reports whether all were served.
func (m *matrix) round() bool {
	all := true
	for _, op := range m.operations() {
		if !op() {
			all = false
		}
	}
	return all
}

// rounds is round with all operations at the same time.
func (m *matrix) rounds() {
	var wg sync.WaitGroup
	for _, op := range m.operations() {
		wg.Go(func() { op() })
	}
	wg.Wait()
}

func (m *matrix) operations() []func() bool {
	return []func() bool{
		m.doEncrypt, m.doDecrypt, m.doBadCiphertext, m.doMAC, m.doRecordMAC, m.doRandom, m.doReload,
		m.doNewKey, m.doNewMACKey, m.doImport, m.doStatus,
	}
}

func (m *matrix) doEncrypt() bool {
	ciphertext, err := m.root.Encrypt(m.ctx, m.handle, []byte("plaintext"), nil)
	if m.told("encrypt", err) {
		m.keep(matrixKey{handle: m.handle, ciphertext: ciphertext})
		return true
	}
	return false
}

func (m *matrix) doDecrypt() bool { return m.told("decrypt", m.opens(m.key(0))) }

// opens decrypts, or authenticates, and compares with what must come.
func (m *matrix) opens(k matrixKey) error {
	if k.mac != nil {
		return m.authenticates(k.handle, *k.mac)
	}
	plaintext, err := m.root.Decrypt(m.ctx, k.handle, k.ciphertext, nil)
	if err == nil && string(plaintext) != "plaintext" {
		m.wrong("another plaintext: %q", plaintext)
	}
	return err
}

func (m *matrix) authenticates(handle []byte, want [kms.MACSize]byte) error {
	got, err := m.root.MAC(m.ctx, handle, []byte("message"))
	if err == nil && got != want {
		m.wrong("another MAC")
	}
	return err
}

func (m *matrix) doBadCiphertext() bool {
	bad := append([]byte(nil), m.ciphertext...)
	bad[len(bad)-1] ^= 1
	_, err := m.root.Decrypt(m.ctx, m.handle, bad, nil)
	if err == nil {
		m.wrong("a bad ciphertext was opened")
	}
	return errors.Is(err, kms.ErrCiphertext) && !errors.Is(err, kms.ErrUnavailable) || m.told("open a bad ciphertext", err)
}

func (m *matrix) doMAC() bool { return m.told("mac", m.authenticates(m.macKey, m.mac)) }

func (m *matrix) doRecordMAC() bool { return m.told("mac of a record", m.authenticates(nil, m.rec)) }

func (m *matrix) doRandom() bool {
	b := make([]byte, 32)
	err := m.root.Random(m.ctx, b)
	if err == nil && slices.Equal(b, make([]byte, 32)) {
		m.wrong("no random bytes")
	}
	return m.told("random", err)
}

// doReload has a key destroyed in the token and loaded again.
func (m *matrix) doReload() bool {
	k := m.key(1)
	gone := m.told("destroy", m.root.DestroyKey(m.ctx, k.handle))
	return m.told("load", m.opens(k)) && gone
}

func (m *matrix) doNewKey() bool {
	handle, err := m.root.NewKey(m.ctx, kms.KeyID{3}, kms.Encryption)
	if !m.told("new key", err) {
		return false
	}
	ciphertext, err := m.root.Encrypt(m.ctx, handle, []byte("plaintext"), nil)
	if !m.told("encrypt under a new key", err) {
		return false
	}
	m.keep(matrixKey{handle: handle, ciphertext: ciphertext})
	return true
}

func (m *matrix) doNewMACKey() bool {
	handle, err := m.root.NewKey(m.ctx, kms.KeyID{4}, kms.Authentication)
	if !m.told("new key for MACs", err) {
		return false
	}
	mac, err := m.root.MAC(m.ctx, handle, []byte("message"))
	if !m.told("mac under a new key", err) {
		return false
	}
	m.keep(matrixKey{handle: handle, mac: &mac})
	return true
}

var importedKey = []byte("0123456789abcdefghijklmnopqrstuv")

// doImport imports a key for MACs, whose answer is computed here, too: Go's AES-GCM
// takes no IV of others in FIPS 140-3 mode.
func (m *matrix) doImport() bool {
	handle, err := m.root.ImportKey(m.ctx, kms.KeyID{5}, kms.Authentication, importedKey)
	if !m.told("import", err) {
		return false
	}
	mac := hmac.New(sha256.New, importedKey)
	mac.Write([]byte("message"))
	want := [kms.MACSize]byte(mac.Sum(nil))
	m.keep(matrixKey{handle: handle, mac: &want})
	return m.told("mac under an imported key", m.authenticates(handle, want))
}

func (m *matrix) doStatus() bool { return m.told("status", m.root.Status(m.ctx)) }

// key returns the ith key that was made.
func (m *matrix) key(i int) matrixKey {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.keys[i]
}

func (m *matrix) keep(k matrixKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keys = append(m.keys, k)
}

// mostRecovery is how long all may take to be served again.
const mostRecovery = 2 * time.Second

// run runs a cell.
func (m *matrix) run(c cell) finding {
	m.found = finding{Cell: c, Told: served}
	before, madeBefore := m.calls(c.Function), len(m.keys)
	logins := m.calls("C_Login")
	m.begin(c)
	m.during(c)
	if m.calls(c.Function) == before {
		m.wrong("it was not called")
	}
	told := m.found.Told
	m.heal()
	m.after(c, logins)
	for _, k := range m.keys[madeBefore:] {
		if err := m.opens(k); err != nil {
			m.wrong("what was made does not open: %v", err)
		}
	}
	if m.found.Told != wrong {
		m.found.Told = told // and not what was told while it recovered
	}
	return m.found
}

// runFairly is run, and up to twice more if a single fault was seen by a caller where it
// need not be, or all took too long: on a machine that has too much to do a call can
// be late for other reasons. What is wrong is wrong at once.
func (m *matrix) runFairly(c cell) finding {
	f := m.run(c)
	for range 2 {
		if f.Late || c.Mode == once && f.Told == unavailable && reachOf(c.Function) <= onConnect {
			m.t.Logf("%v: %s, recovery %v: again", c, f.Told, f.Recovery)
			f = m.run(c)
		}
	}
	return f
}

func reachOf(function string) reach {
	i := slices.IndexFunc(matrixFunctions, func(f matrixFunction) bool { return f.name == function })
	return matrixFunctions[i].reach
}

func (m *matrix) begin(c cell) { m.fail(c.Function, c.fault()) }

// fault is what c has its function do.
func (c cell) fault() fault {
	f := fault{code: c.Code}
	switch c.Mode {
	case once:
		f.times = 1
	case burst:
		f.times = 3
	case always:
		f.times = forever
	case after:
		f.times, f.after = 1, true
	case hang:
		f.sleep = time.Hour
	case abort:
		f.abort, f.times = true, 1
	case slow:
		f.sleep = 2 * time.Millisecond
	}
	return f
}

// lead has the root call a function again that operations do not.
func (m *matrix) lead(function string) {
	switch reachOf(function) {
	case onConnect:
		m.fail("C_EncryptInit", fault{code: pkcs11.CKR_USER_NOT_LOGGED_IN, times: 1})
	case onClose:
		m.fail("C_Finalize", fault{code: pkcs11.CKR_GENERAL_ERROR, times: 1})
		fallthrough
	case onInitialize:
		m.fail("C_GetSlotList", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
		m.fail("C_EncryptInit", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
	}
}

// during does operations while the fault is on.
func (m *matrix) during(c cell) {
	switch end := time.Now().Add(mostRecovery); c.Mode {
	case once, burst, abort:
		for m.left(c.Function) > 0 && time.Now().Before(end) && !m.refusedPIN(c) {
			m.lead(c.Function)
			m.round()
		}
		if left := m.left(c.Function); left > 0 && !m.refusedPIN(c) {
			m.wrong("%d faults were left over", left)
		}
	case always:
		m.lead(c.Function)
		m.round()
	case hang:
		m.lead(c.Function)
		begin := time.Now()
		var cancel context.CancelFunc
		m.ctx, cancel = context.WithTimeout(m.ctx, hangTimeout)
		m.rounds()
		cancel()
		m.ctx = m.t.Context()
		if took := time.Since(begin); took > 2*hangTimeout { // a busy machine adds to it
			m.wrong("callers waited for %v, not %v", took, hangTimeout)
		}
	case slow:
		m.lead(c.Function)
		for !m.round() {
			if time.Now().After(end) {
				m.wrong("nothing is served")
				return
			}
		}
	}
}

// refusedPIN reports whether c is a PIN that the token refuses: it is not tried
// again, so only another PIN or a restart heals it.
func (m *matrix) refusedPIN(c cell) bool {
	return c.Function == "C_Login" && (c.Code == pkcs11.CKR_PIN_INCORRECT || c.Code == pkcs11.CKR_PIN_LOCKED) && m.found.Told != served
}

// after does operations until all are served again.
func (m *matrix) after(c cell, logins int) {
	if m.refusedPIN(c) {
		if m.round() {
			m.wrong("a PIN that was refused was tried again")
		}
		if n := m.calls("C_Login") - logins; n != 1 {
			m.wrong("%d logins with a PIN that was refused", n)
		}
		ok(m.t, m.root.Close())
		m.open()
	}
	for begin := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		all := m.round()
		m.found.Recovery = time.Since(begin)
		if all {
			return
		}
		if m.found.Recovery > mostRecovery {
			m.wrong("it does not work %v after the fault", m.found.Recovery.Round(time.Millisecond))
			m.found.Late = len(m.found.Wrong) == 1
			ok(m.t, m.root.Close())
			m.open()
			return
		}
	}
}

package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// A module is a PKCS#11 library in the hands of one user, such as a token of a
// root: the library is shared, the book of the calls is the user's own. Each way
// into the library goes through ctx or functions.
type module struct {
	*sharedModule
	functions
	ctx calls
}

// A sharedModule is a PKCS#11 library in this process. A process initialises it once
// (PKCS#11 v2.40 5.4), so all modules of the same one share it, and the last to be
// released finalizes it. It stays in the table of modules after that: what it did not
// do when it was finalized has to be known when it is used again.
type sharedModule struct {
	raw      *pkcs11.Ctx
	table    functions
	refs     int      // under modules.mu
	changing *changes // of those that make or destroy objects
	lender   lender
	resets   resets
	objects  objectCount

	abandoned atomic.Int32 // tokens that were never connected and are not closed yet, as a call hangs

	// Of whoever holds the calls; see hold.
	path, args string // of the first user since it was finalized
	begun      bool   // it was initialised for its first user, and not finalized for the last
	ours       bool   // this is what initialised it, or may have
	guest      bool   // another part of the process initialised it, and so finalizes it

	mu   sync.Mutex    // never held in a call of the library, which may hang
	gen  atomic.Uint64 // counts initialisations; whatever has a handle of an older one is stale; set while the calls are held
	busy int           // calls that are in the library
	idle chan struct{} // closed when busy is 0; not nil while the calls are held
	done chan struct{} // closed when they are no longer held
}

// The libraries of a process are its own, so their table is too.
var modules struct {
	mu     sync.Mutex                  // never held in a call of a library, which may hang
	byList map[functions]*sharedModule // one library may have two paths
	turns  map[string]chan struct{}    // by path: has room for one who loads the library and initialises it
}

// useModule loads and initialises the library at path, if this process has not, with
// crypto11 as a part of it if private keys are to be lent. It returns at the end of ctx,
// or at connectTimeout, also if the library hangs. What is made after that is released;
// until then, others who want the library at path wait outside of it.
func useModule(ctx context.Context, path, args string, lend bool) (*module, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if ctx.Err() != nil { // nobody wants it: nothing is to be made late then
		return nil, waited(ctx, "begin to initialise the module")
	}
	turn := turnOf(path)
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return nil, waited(ctx, "wait for an earlier try to initialise the module")
	}
	made := make(chan loading) // without room: what nobody takes is released
	go func() {
		defer func() { <-turn }()
		l := loadModule(ctx, path, args, lend)
		select {
		case made <- l:
		case <-ctx.Done():
			l.undo()
		}
	}()
	select {
	case l := <-made:
		return l.module, l.err
	case <-ctx.Done():
		return nil, waited(ctx, "initialise the module")
	}
}

// A loading is what came of loading a library.
type loading struct {
	module *module
	err    error
}

func (l loading) undo() {
	if l.err == nil {
		_ = l.module.release(quiesceTimeout)
	}
}

func turnOf(path string) chan struct{} {
	modules.mu.Lock()
	defer modules.mu.Unlock()
	if modules.turns == nil {
		modules.turns = make(map[string]chan struct{})
	}
	if modules.turns[path] == nil {
		modules.turns[path] = make(chan struct{}, 1)
	}
	return modules.turns[path]
}

// loadModule does what useModule says, for as long as the library takes.
func loadModule(ctx context.Context, path, args string, lend bool) loading {
	l, err := libraryAt(path)
	if err != nil {
		return loading{err: err}
	}
	m := newModule(l)
	if m.abandoned.Load() >= maxHung {
		err = errHung
	} else {
		err = m.start(ctx, path, args, lend)
	}
	if err == nil && lend {
		err = m.lend(ctx)
	}
	if err != nil {
		return loading{err: errors.Join(err, m.release(quiesceTimeout))}
	}
	return loading{module: m}
}

// libraryAt returns the library at path, with one user more.
func libraryAt(path string) (*sharedModule, error) {
	list, err := loadFunctions(path) // first, as it says why it cannot
	if err != nil {
		return nil, err
	}
	raw := pkcs11.New(path)
	if raw == nil {
		return nil, fmt.Errorf("hsm: the PKCS#11 module %s cannot be loaded", path)
	}
	l := &sharedModule{raw: raw, table: list, changing: newChanges()}
	known := l.enlist()
	if known != l {
		raw.Destroy() // known keeps the library loaded
	}
	return known, nil
}

// enlist returns what is in the table for the library of l, which is l if nothing was,
// with one user more.
func (l *sharedModule) enlist() *sharedModule {
	modules.mu.Lock()
	defer modules.mu.Unlock()
	if modules.byList == nil {
		modules.byList = make(map[functions]*sharedModule)
	}
	if known := modules.byList[l.table]; known != nil {
		l = known
	}
	modules.byList[l.table] = l
	l.refs++
	return l
}

func newModule(l *sharedModule) *module {
	b := new(book)
	return &module{sharedModule: l, functions: functions{l.table.list, b, &l.objects}, ctx: calls{l.raw, b, &l.objects}}
}

// start initialises the library for its first user. If C_Finalize failed for the last
// one it is called again before.
func (m *module) start(ctx context.Context, path, args string, lend bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	letGo, err := m.hold(ctx)
	if err != nil {
		return err
	}
	defer letGo()
	if m.begun {
		return nil
	}
	m.mu.Unlock()
	defer m.mu.Lock()
	m.path, m.args = path, args
	m.gen.Add(1)
	_ = m.finalize() // if it fails the library can be used as it is
	m.lender.wanted.Store(lend)
	m.lender.begin(whyUnlent(lend))
	if err := m.initialize(); err != nil {
		return err
	}
	m.begun = true
	return nil
}

// initialize initialises the library, unless another part of the process has.
func (m *module) initialize() error {
	err := m.initializeAlone()
	if err != nil || m.guest || !m.lender.wanted.Load() {
		return err
	}
	return m.handOver()
}

// initializeAlone is initialize without crypto11.
func (m *module) initializeAlone() error {
	options := []pkcs11.InitializeOption{pkcs11.InitializeWithFlags(pkcs11.CKF_OS_LOCKING_OK)}
	if m.args != "" {
		// The library may keep the pointer, so the memory is never freed.
		options = append(options, pkcs11.InitializeWithReserved(cString(m.args)))
	}
	err := answered("C_Initialize", m.ctx.Initialize(options...))
	m.guest = isInitialized(err) && !m.ours
	switch {
	case m.guest:
		return nil
	case isInitialized(err):
		// C_Finalize did nothing, or an earlier C_Initialize did something, whatever they
		// answered. The library is still this module's, not another's.
		m.closeAllSessions()
		return nil
	}
	m.ours = true // also if it answers an error: it may have worked
	return err
}

func isInitialized(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED
}

// finalize finalizes the library, if this module initialised it or may have.
func (m *module) finalize() error {
	if !m.ours {
		return nil
	}
	m.takeBack() // which does not tell whether the library was finalized
	err := m.ctx.Finalize()
	if err != nil && err != pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED) {
		return answered("C_Finalize", err)
	}
	return nil
}

// release gives the module back. The last user finalizes it when the calls that
// run have ended, for which it waits so long. If one hangs the module stays
// initialised: to finalize it then is a crash.
func (m *module) release(wait time.Duration) error {
	if m.drop() > 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	letGo, err := m.hold(ctx)
	if err != nil {
		return err
	}
	defer letGo()
	if !m.begun && !m.ours || m.users() > 0 { // another was faster
		return nil
	}
	if err := m.quiesce(ctx); err != nil {
		return err
	}
	m.gen.Add(1)
	m.begun = false
	m.mu.Unlock()
	defer m.mu.Lock()
	if err := m.finalize(); err != nil {
		return err // and it is ours still
	}
	m.ours = false
	return nil
}

// drop takes one user away, and returns how many are left.
func (m *module) drop() int {
	modules.mu.Lock()
	defer modules.mu.Unlock()
	m.refs--
	return m.refs
}

func (m *module) users() int {
	modules.mu.Lock()
	defer modules.mu.Unlock()
	return m.refs
}

// errStale says that a handle belongs to an earlier initialisation.
var errStale = fmt.Errorf("hsm: the module was initialised anew: %w", kms.ErrUnavailable)

// enter says that a call begins which uses handles of generation gen. While the
// library is quiesced it waits.
func (m *module) enter(ctx context.Context, gen uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.idle != nil {
		if err := m.wait(ctx, m.done); err != nil {
			return err
		}
	}
	if m.gen.Load() != gen {
		return errStale
	}
	m.busy++
	return nil
}

// wait waits for ch without the lock.
func (m *module) wait(ctx context.Context, ch chan struct{}) error {
	m.mu.Unlock()
	defer m.mu.Lock()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("hsm: wait for the module: %w: %w", kms.ErrUnavailable, ctx.Err())
	}
}

func (m *module) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy--; m.busy < 0 {
		panic("hsm: a call left the module that had not entered it")
	}
	if m.busy == 0 && m.idle != nil {
		close(m.idle)
	}
}

func (m *module) generation() uint64 { return m.gen.Load() }

// quiesceTimeout bounds the wait for the calls that are in the library. A call
// that hangs cannot be ended, and C_Finalize under it would crash the process.
const quiesceTimeout = 2 * time.Second

// reinitialize finalizes and initialises the library, unless that has been done
// since gen. Every handle of every root that uses it is stale then. The caller
// is in no call.
func (m *module) reinitialize(ctx context.Context, gen uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	letGo, err := m.hold(ctx)
	if err != nil {
		return err
	}
	defer letGo()
	if m.gen.Load() != gen {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, quiesceTimeout)
	defer cancel()
	if err := m.quiesce(ctx); err != nil {
		return err
	}
	m.mu.Unlock()
	defer m.mu.Lock()
	if m.guest {
		return m.initializeAsGuest()
	}
	m.gen.Add(1)
	if err := m.finalize(); err != nil {
		m.closeAllSessions()
		return err
	}
	return m.initialize()
}

// closeAllSessions closes the sessions that C_Finalize did not: nothing else knows
// their handles any longer, and a token has only so many.
func (m *module) closeAllSessions() {
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return
	}
	for _, slot := range slots {
		_ = m.ctx.CloseAllSessions(slot)
	}
}

var errAnothers = fmt.Errorf("hsm: another part of this process initialised the module: %w", kms.ErrUnavailable)

// initializeAsGuest initialises the library if the part of the process that had
// done so has finalized it. As long as it has not, nothing can be done here.
func (m *module) initializeAsGuest() error {
	if err := m.initialize(); err != nil {
		return err
	}
	if m.guest {
		return errAnothers
	}
	m.gen.Add(1)
	return nil
}

// hold makes new calls wait until the function that it returns is called, after
// one that holds them already has let them go.
func (m *module) hold(ctx context.Context) (letGo func(), err error) {
	for m.idle != nil {
		if err := m.wait(ctx, m.done); err != nil {
			return nil, err
		}
	}
	m.idle, m.done = make(chan struct{}), make(chan struct{})
	return func() {
		close(m.done)
		m.idle = nil
	}, nil
}

// quiesce waits until no call is in the library, while new ones are held.
func (m *module) quiesce(ctx context.Context) error {
	if m.busy == 0 {
		return nil
	}
	if err := m.wait(ctx, m.idle); err != nil {
		return fmt.Errorf("%w; %d calls hang in the module, so it cannot be finalized", err, m.busy)
	}
	return nil
}

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
// released finalizes it.
type sharedModule struct {
	path     string
	args     string
	raw      *pkcs11.Ctx
	table    functions
	refs     int      // under modules.mu
	changing *changes // of those that make or destroy objects
	guest    bool     // another part of the process initialised it, and so finalizes it
	lender   lender
	resets   resets
	objects  objectCount

	mu   sync.Mutex
	gen  atomic.Uint64 // counts initialisations; whatever has a handle of an older one is stale; set under mu
	busy int           // calls that are in the library
	idle chan struct{} // closed when busy is 0; not nil while the library is quiesced
	done chan struct{} // closed when it is no longer quiesced
}

// The libraries of a process are its own, so their table is too.
var modules struct {
	mu     sync.Mutex
	byList map[functions]*sharedModule // one library may have two paths
}

// useModule loads and initialises the library at path, if this process has not.
func useModule(path, args string) (*module, error) {
	modules.mu.Lock()
	defer modules.mu.Unlock()
	list, err := loadFunctions(path) // first, as it says why it cannot
	if err != nil {
		return nil, err
	}
	ctx := pkcs11.New(path)
	if ctx == nil {
		return nil, fmt.Errorf("hsm: the PKCS#11 module %s cannot be loaded", path)
	}
	if l := modules.byList[list]; l != nil {
		ctx.Destroy() // that one keeps the library loaded
		l.refs++
		return newModule(l), nil
	}
	m := newModule(&sharedModule{path: path, args: args, raw: ctx, table: list, changing: newChanges(), refs: 1})
	m.gen.Store(1)
	if err := m.begin(); err != nil {
		ctx.Destroy()
		return nil, err
	}
	if modules.byList == nil {
		modules.byList = make(map[functions]*sharedModule)
	}
	modules.byList[list] = m.sharedModule
	return m, nil
}

func newModule(l *sharedModule) *module {
	b := new(book)
	return &module{sharedModule: l, functions: functions{l.table.list, b, &l.objects}, ctx: calls{l.raw, b, &l.objects}}
}

func (m *module) initialize() error {
	err := m.initializeAlone()
	if err != nil || m.guest || !m.lender.wanted.Load() {
		return err
	}
	return m.handOver()
}

func (m *module) initializeAlone() error {
	options := []pkcs11.InitializeOption{pkcs11.InitializeWithFlags(pkcs11.CKF_OS_LOCKING_OK)}
	if m.args != "" {
		// The library may keep the pointer, so the memory is never freed.
		options = append(options, pkcs11.InitializeWithReserved(cString(m.args)))
	}
	return answered("C_Initialize", m.ctx.Initialize(options...))
}

// begin initialises the library, unless another part of the process has.
func (m *module) begin() error {
	err := m.initialize()
	if m.guest = isInitialized(err); m.guest {
		return nil
	}
	return err
}

func isInitialized(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED
}

// release gives the module back. The last user finalizes it when the calls that
// run have ended, for which it waits so long. If one hangs the module stays
// initialised: to finalize it then is a crash.
func (m *module) release(wait time.Duration) error {
	modules.mu.Lock()
	defer modules.mu.Unlock()
	if m.refs--; m.refs > 0 {
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
	if err := m.quiesce(ctx); err != nil {
		return err
	}
	delete(modules.byList, m.table)
	m.gen.Add(1)
	if m.guest || m.takeBack() {
		return nil
	}
	return answered("C_Finalize", m.ctx.Finalize())
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
	if m.guest {
		return m.initializeAsGuest()
	}
	m.gen.Add(1)
	m.mu.Unlock()
	defer m.mu.Lock()
	if m.takeBack() {
		return m.initialize()
	}
	if err := m.ctx.Finalize(); err != nil && err != pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED) {
		m.closeAllSessions()
		return answered("C_Finalize", err)
	}
	if err := m.initialize(); !isInitialized(err) {
		return err
	}
	// C_Finalize did nothing, or an earlier C_Initialize did something, whatever they
	// answered. The library is still this module's, not another's.
	m.closeAllSessions()
	return nil
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

// initializeAsGuest initialises the library if the part of the process that had
// done so has finalized it. As long as it has not, nothing can be done here.
func (m *module) initializeAsGuest() error {
	if err := m.begin(); err != nil {
		return err
	}
	if m.guest {
		return fmt.Errorf("hsm: another part of this process initialised the module: %w", kms.ErrUnavailable)
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

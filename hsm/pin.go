package hsm

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/kms"
)

// A PIN says where a PIN is: in exactly one of three places.
type PIN struct {
	// File is a file that holds the PIN; a newline at its end does not belong
	// to it. It is read again for each login, so that the PIN can be changed
	// without a restart.
	File string `yaml:"file,omitempty"`
	// Env is an environment variable that holds the PIN. It is removed from the
	// environment, and overwritten there, when it has been read; this process
	// then keeps it to log in again after a fault.
	Env string `yaml:"env,omitempty"`
	// FD is an open file descriptor, 3 or more, that the PIN is read from to
	// its end, once. It is kept as with Env.
	FD int `yaml:"fd,omitempty"`
}

// maxPIN bounds the bytes that are read for a PIN.
const maxPIN = 1024

func (p PIN) check() error {
	n := 0
	for _, given := range []bool{p.File != "", p.Env != "", p.FD != 0} {
		if given {
			n++
		}
	}
	if n != 1 {
		return errors.New("hsm: pin: give exactly one of file, env and fd")
	}
	if p.FD != 0 && p.FD < 3 {
		return fmt.Errorf("hsm: pin.fd: %d is not 3 or more", p.FD)
	}
	return nil
}

// String says where the PIN is.
func (p PIN) String() string {
	switch {
	case p.File != "":
		return "pin.file " + p.File
	case p.Env != "":
		return "pin.env " + p.Env
	}
	return fmt.Sprintf("pin.fd %d", p.FD)
}

// A pinSource gives the PIN at each login, and never again one that the token
// has refused: three or ten tries lock a token.
type pinSource struct {
	from PIN

	mu      sync.Mutex
	kept    []byte // what can be read only once: from Env and FD
	refused []byte // what is not tried again
	why     error  // errRefused or errDoubted

	accepted acceptedPIN // the one that the token took last

	// In a worker process: the gateway, which has the PIN, does what use does.
	over func(login func(pin []byte, accepted bool) error) error

	forgotten atomic.Bool // nothing is to be kept any longer; set without mu
}

var (
	errRefused = fmt.Errorf("hsm: the token has refused this PIN before; it is not tried again: %w", kms.ErrDenied)
	// errUnanswered is what a login returns of which it is not known whether the token
	// has accepted the PIN.
	errUnanswered = fmt.Errorf("hsm: the token has not said whether it accepts the PIN: %w", kms.ErrUnavailable)
	// errNeedless is what a login returns that was not needed, so that the token has not
	// looked at the PIN.
	errNeedless = errors.New("hsm: this process is logged in already")
)

// use calls login with the PIN, which is wiped after it, and whether the token has
// accepted it before. A PIN that login
// refuses is not used again, nor is one that was never accepted and of which login does
// not know what the token says: it may have been refused.
func (s *pinSource) use(login func(pin []byte, accepted bool) error) error {
	s.mu.Lock()
	defer s.letGo()
	if s.over != nil {
		return s.over(login)
	}
	pin, err := s.read()
	if err != nil {
		return err
	}
	defer clear(pin)
	if s.refused != nil && subtle.ConstantTimeCompare(pin, s.refused) == 1 {
		return fmt.Errorf("%w (%v)", s.why, s.from)
	}
	accepted := s.accepted.is(pin)
	err = login(pin, accepted)
	switch c, ok := classOf(err); {
	case err == nil:
		s.accepted.note(pin)
	case errors.Is(err, errNeedless):
		return nil
	case ok && c == pinFault:
		s.refuse(pin, errRefused)
		return fmt.Errorf("%w: the token refuses the PIN from %v", err, s.from)
	case errors.Is(err, errUnanswered) && !accepted:
		s.refuse(pin, errDoubted)
	}
	return err
}

func (s *pinSource) refuse(pin []byte, why error) {
	clear(s.refused)
	s.refused, s.why = append([]byte(nil), pin...), why
}

// take reads a PIN that can be read only once, or copies that of another token, which
// has read it.
func (s *pinSource) take(from *pinSource) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if from != nil {
		s.kept = append([]byte(nil), from.kept...)
		return nil
	}
	pin, err := s.read()
	clear(pin)
	return err
}

// read returns a copy of the PIN, for the caller to wipe.
func (s *pinSource) read() ([]byte, error) {
	if s.kept != nil {
		return append([]byte(nil), s.kept...), nil
	}
	pin, err := s.from.read()
	if err != nil {
		return nil, fmt.Errorf("hsm: %v: %w: %w", s.from, err, kms.ErrDenied)
	}
	if len(pin) == 0 {
		return nil, fmt.Errorf("hsm: %v: it is empty: %w", s.from, kms.ErrDenied)
	}
	if s.from.File == "" {
		s.kept = append([]byte(nil), pin...)
	}
	return pin, nil
}

// letGo ends what mu was held for, and does what forget could not do meanwhile.
func (s *pinSource) letGo() {
	s.mu.Unlock()
	if s.forgotten.Load() {
		s.forget()
	}
}

// forget wipes what is kept. It does not wait for a login, which may hang: that wipes
// it when it ends.
func (s *pinSource) forget() {
	s.forgotten.Store(true)
	if !s.mu.TryLock() {
		return // letGo comes after this
	}
	defer s.mu.Unlock()
	clear(s.kept)
	clear(s.refused)
	s.kept, s.refused, s.accepted = nil, nil, acceptedPIN{}
}

func (p PIN) read() ([]byte, error) {
	switch {
	case p.File != "":
		return readPINFile(p.File)
	case p.Env != "":
		pin := []byte(os.Getenv(p.Env))
		wipeEnv(p.Env)
		return pin, os.Unsetenv(p.Env)
	}
	// Descriptors that this process opened are closed on exec, one that was
	// handed to it is not. Without this, a descriptor that was forgotten would
	// be some file of the process, and its content be tried as a PIN.
	flags, err := unix.FcntlInt(uintptr(p.FD), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC != 0 {
		return nil, fmt.Errorf("file descriptor %d was not handed to this process", p.FD)
	}
	f := os.NewFile(uintptr(p.FD), "pin")
	if f == nil {
		return nil, os.ErrInvalid
	}
	defer f.Close()
	return readPIN(f)
}

func readPINFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if perm := info.Mode().Perm(); info.Mode().IsRegular() && perm&0o007 != 0 {
		return nil, fmt.Errorf("every user of this machine may use it (mode %04o): chmod 0400 %s", perm, path)
	}
	return readPIN(f)
}

// readPIN reads into one buffer, so that no copy is left behind by growing.
func readPIN(r io.Reader) ([]byte, error) {
	buf := make([]byte, maxPIN+1)
	n, err := io.ReadFull(r, buf)
	if err == nil {
		clear(buf)
		return nil, fmt.Errorf("it has more than %d bytes", maxPIN)
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(buf)
		return nil, err
	}
	if n > 0 && buf[n-1] == '\n' {
		n--
		if n > 0 && buf[n-1] == '\r' {
			n--
		}
	}
	return buf[:n], nil
}

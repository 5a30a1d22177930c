package hsm

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A login that hangs holds the PIN; who closes the root does not wait for it, and
// nothing is kept after it.
func TestHS06_APINIsForgottenDuringALogin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(path, []byte("1234"), 0o400); err != nil {
		t.Fatal(err)
	}
	s := &pinSource{from: PIN{File: path}}
	begun, end, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		ended <- s.use(func([]byte, bool) error {
			close(begun)
			<-end
			return failed("C_Login", 0xA0) // CKR_PIN_INCORRECT: it would be kept, not to be tried again
		})
	}()
	<-begun
	forgotten := make(chan struct{})
	go func() { s.forget(); close(forgotten) }()
	select {
	case <-forgotten:
	case <-time.After(5 * time.Second):
		t.Fatal("forget waits for the login")
	}
	close(end)
	if err := <-ended; !errors.Is(err, ErrPIN) {
		t.Errorf("the login ended with %v", err)
	}
	if s.kept != nil || s.refused != nil || s.accepted.mac != nil {
		t.Error("a PIN is kept that was to be forgotten")
	}
}

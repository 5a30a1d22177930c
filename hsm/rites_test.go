package hsm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/p11shim"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/softhsm"
)

// The matrix of ceremonies (F4): what commands do with a token, with each function that
// they call answering each code, hanging, slow, or ending the process. A command may
// fail. What was encrypted before opens after it all the same, nothing is made twice,
// and the command can be run again to the end, or says what was made, which is whole
// then.

// riteCodes are those of the other matrix, and what a token says to an attribute that
// it does not know, whereupon keys are made without it.
var riteCodes = append(slices.Clone(matrixCodes), pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_TEMPLATE_INCONSISTENT)

// A rite is a ceremony.
type rite struct {
	name string
	run  func(context.Context, riteConfigs) error
	done func(*rites) error // shows that it was done
	made string             // what a second run may say of what the first has made, and is whole
}

// riteConfigs are what the rites need; those of children come over the environment.
type riteConfigs struct {
	Rite      string
	Cfg       hsm.Config // with root keys, or for "make a token" without a token
	To        hsm.Config // an empty token, to copy to
	SOFile    string
	SO, User  string
	Next      hsm.Config // Cfg with a new KEK
	Old       []byte     // a handle of before
	OldSealed []byte     // "plaintext" under it
}

var allRites = []rite{
	{
		name: "make a token",
		run: func(ctx context.Context, c riteConfigs) error {
			return hsm.InitToken(ctx, c.Cfg.Module, c.Cfg.Token, c.SO, c.User)
		},
		done: func(r *rites) error { _, err := hsm.Init(r.t.Context(), r.plain(r.c.Cfg)); return err },
		made: hsm.ErrTokenExists.Error(),
	},
	{
		name: "init",
		run:  func(ctx context.Context, c riteConfigs) error { _, err := hsm.Init(ctx, c.Cfg); return err },
		done: func(r *rites) error {
			made, err := hsm.Init(r.t.Context(), r.plain(r.c.Cfg))
			if err == nil && (!made.Rotatable || made.KEK || made.RecordKey) {
				err = fmt.Errorf("it is not what was to be made: %+v", made)
			}
			return errors.Join(err, r.works(r.c.Cfg))
		},
	},
	{
		name: "init --signing-key",
		run: func(ctx context.Context, c riteConfigs) error {
			_, _, err := hsm.InitSigningKey(ctx, c.Cfg)
			return err
		},
		done: func(r *rites) error {
			_, made, err := hsm.InitSigningKey(r.t.Context(), r.plain(r.c.Cfg))
			if made {
				err = errors.New("the key pair was not there")
			}
			return err
		},
	},
	{
		name: "doctor",
		run: func(ctx context.Context, c riteConfigs) error {
			report, err := hsm.Examine(ctx, c.Cfg, hsm.Examination{})
			if err == nil && !report.OK {
				err = fmt.Errorf("%w: %+v", errUnfit, report.Checks)
			}
			return err
		},
		done: func(r *rites) error { return r.works(r.c.Cfg) },
	},
	{
		name: "rotate begin",
		run: func(ctx context.Context, c riteConfigs) error {
			cfg := c.Cfg
			cfg.OtherKEKs = []string{nextKEK}
			_, err := hsm.BeginRotation(ctx, cfg, hsm.PIN{File: c.SOFile})
			return err
		},
		done: func(r *rites) error { return r.works(r.c.Next) },
		made: "has every KEK of kek and other_keks",
	},
	{
		name: "copy",
		run: func(ctx context.Context, c riteConfigs) error {
			_, err := hsm.CopyRootKeys(ctx, c.Cfg, c.To, hsm.PIN{File: c.SOFile})
			return err
		},
		done: func(r *rites) error { return r.works(r.c.To) },
		made: "the destination has a key",
	},
}

var errUnfit = errors.New("the token is not fit")

// rites are one rite and what it is done with.
type rites struct {
	rite
	t     *testing.T
	s     *shim
	f     softhsm.Fixture
	c     riteConfigs
	saved string // where the tokens are as they were before
}

// newRites makes the tokens for a rite, and what is under their keys.
func newRites(t *testing.T, x rite) *rites {
	t.Helper()
	f := softhsm.Token(t)
	r := &rites{rite: x, t: t, f: f, c: riteConfigs{Rite: x.name, Cfg: configOf(f), SOFile: f.SOFile, SO: f.SOPIN, User: f.PIN}}
	switch x.name {
	case "make a token":
		r.c.Cfg.Token = "rite-" + f.Label[5:]
	case "init":
	case "copy":
		to := softhsm.Token(t)
		r.c.To = configOf(to)
		r.c.Cfg.Copyable, r.c.To.Copyable = "allowed", "allowed"
		r.keys(hsm.InitOptions{Copyable: true})
	default:
		r.keys(hsm.InitOptions{})
	}
	r.c.Next = r.c.Cfg
	r.c.Next.KEK, r.c.Next.OtherKEKs = nextKEK, []string{hsm.DefaultKEK}
	r.saved = t.TempDir()
	ok(t, os.CopyFS(r.saved, os.DirFS(f.Tokens)))
	r.s, r.c.Cfg = shimBefore(t, f, f.Module, r.c.Cfg)
	if x.name == "copy" {
		r.c.To.Module = r.c.Cfg.Module
	}
	r.c.Next.Module = r.c.Cfg.Module
	return r
}

// keys makes root keys, and one that they wrap.
func (r *rites) keys(o hsm.InitOptions) {
	r.t.Helper()
	_, err := hsm.InitWith(r.t.Context(), r.c.Cfg, o)
	ok(r.t, err)
	root, err := hsm.Open(r.t.Context(), r.c.Cfg, quiet())
	ok(r.t, err)
	r.c.Old = newKey(r.t, root, kms.Encryption)
	r.c.OldSealed, err = root.Encrypt(r.t.Context(), r.c.Old, []byte("plaintext"), nil)
	ok(r.t, err)
	ok(r.t, root.Close())
}

// restore puts the tokens back to what they were before. Whatever a fault left, the
// library is not initialised then.
func (r *rites) restore() {
	r.t.Helper()
	finalize(r.t, r.f.Module)
	entries, err := os.ReadDir(r.f.Tokens)
	ok(r.t, err)
	for _, e := range entries {
		ok(r.t, os.RemoveAll(filepath.Join(r.f.Tokens, e.Name())))
	}
	ok(r.t, os.CopyFS(r.f.Tokens, os.DirFS(r.saved)))
}

func finalize(t *testing.T, module string) {
	t.Helper()
	lib := pkcs11.New(module)
	if err := lib.Finalize(); err != nil && err != pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED) {
		t.Error(err)
	}
}

// plain returns a configuration without the shim.
func (r *rites) plain(c hsm.Config) hsm.Config {
	c.Module = r.f.Module
	return c
}

// works shows that a token has root keys, one each, with which keys are made and those
// of before are opened.
func (r *rites) works(c hsm.Config) error {
	root, err := hsm.Open(r.t.Context(), r.plain(c), quiet())
	if err != nil {
		return err
	}
	handle, err := root.NewKey(r.t.Context(), kms.KeyID{7}, kms.Encryption)
	if err == nil {
		_, err = root.Encrypt(r.t.Context(), handle, []byte("plaintext"), nil)
	}
	return errors.Join(err, r.opens(root), root.Close())
}

// opens shows that what was encrypted before can be opened.
func (r *rites) opens(root *hsm.Root) error {
	if r.c.Old == nil {
		return nil
	}
	got, err := root.Decrypt(r.t.Context(), r.c.Old, r.c.OldSealed, nil)
	if err == nil && string(got) != "plaintext" {
		err = fmt.Errorf("another plaintext: %q", got)
	}
	return err
}

// nothingLost shows that the gateways of before go on.
func (r *rites) nothingLost() error {
	if r.c.Old == nil {
		return nil
	}
	root, err := hsm.Open(r.t.Context(), r.plain(r.c.Cfg), quiet())
	if err != nil {
		return err
	}
	return errors.Join(r.opens(root), root.Close())
}

// What came of a rite with a fault.
const (
	riteDone  = "done"           // it was not noticed
	riteAgain = "again"          // it failed, and a second run did it
	riteMade  = "made"           // it failed, what it was to make is there all the same, and a second run says so
	after     = "done, and then" // a mode: the call is made, and then answers the code
)

// A riteCell is one fault in a rite.
type riteCell struct {
	Rite string
	cell
}

func (c riteCell) String() string { return c.Rite + ": " + c.cell.String() }

// cell runs the rite with a fault and then without, and returns what came of it, or
// what must not be.
func (r *rites) cell(c cell) (told string, err error) {
	defer r.restore()
	first := r.first(c)
	r.s.heal()
	finalize(r.t, r.f.Module)
	if err := r.nothingLost(); err != nil {
		return wrong, fmt.Errorf("after it said %v, what was encrypted before does not open: %w", first, err)
	}
	if first == nil {
		if err := r.done(r); err != nil {
			return wrong, fmt.Errorf("it said that it was done: %w", err)
		}
		return riteDone, nil
	}
	if err := helpful(first); err != nil {
		return wrong, err
	}
	again := r.run(r.t.Context(), r.c)
	told = riteAgain
	switch {
	case again == nil:
	case r.made != "" && strings.Contains(again.Error(), r.made):
		told = riteMade
	default:
		return wrong, fmt.Errorf("it said %v, and the second time %w", first, again)
	}
	if err := errors.Join(r.done(r), r.nothingLost()); err != nil {
		return wrong, fmt.Errorf("it said %v, and the second time %v, but: %w", first, again, err)
	}
	return told, nil
}

// helpful returns an error if err is not one that an operator can do something
// about.
func helpful(err error) error {
	for _, known := range []error{kms.ErrUnavailable, kms.ErrDenied, kms.ErrUnsupported, hsm.ErrTokenExists, hsm.ErrNoKey, errUnfit, errEnded} {
		if errors.Is(err, known) {
			return nil
		}
	}
	return fmt.Errorf("it said %w, which is no known error", err)
}

// errEnded is what a rite comes to whose process was ended.
var errEnded = errors.New("the process has ended")

// first runs the rite with the fault.
func (r *rites) first(c cell) error {
	before := r.s.calls(c.Function)
	r.s.fail(c.Function, c.fault())
	var err error
	if c.Mode == hang || c.Mode == abort {
		err = r.inChild(c)
	} else {
		err = r.run(r.t.Context(), r.c)
	}
	if r.s.calls(c.Function) == before {
		r.t.Errorf("%s: %v was not called", r.name, c)
	}
	return err
}

// inChild runs the rite in a process that ends in the module, or is killed while a call
// hangs there, as somebody does who waits for it in vain.
func (r *rites) inChild(c cell) error {
	order, err := json.Marshal(r.c)
	ok(r.t, err)
	cmd := exec.Command(os.Args[0], "-test.run=^TestRiteChild$", "-test.v")
	cmd.Env = append(os.Environ(), riteEnv+"="+string(order))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	ok(r.t, cmd.Start())
	if c.Mode == hang {
		for end := time.Now().Add(10 * time.Second); r.s.inside(c.Function) == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		ok(r.t, cmd.Process.Kill())
	}
	if err := cmd.Wait(); err == nil {
		r.t.Errorf("%s: %v: the process did not end in the module: %s", r.name, c, out.String())
	}
	return errEnded
}

const riteEnv = "KEYGATE_TEST_RITE"

// TestRiteChild runs in a child process.
func TestRiteChild(t *testing.T) {
	text := os.Getenv(riteEnv)
	if text == "" {
		t.Skip("a child of TestHS01_F4_TheMatrixOfCeremonies")
	}
	var c riteConfigs
	ok(t, json.Unmarshal([]byte(text), &c))
	i := slices.IndexFunc(allRites, func(r rite) bool { return r.name == c.Rite })
	t.Logf("it said %v", allRites[i].run(t.Context(), c))
}

// functions returns the functions that the rite calls.
func (r *rites) functions() []string {
	before, err := r.s.control.Tally()
	ok(r.t, err)
	ok(r.t, r.run(r.t.Context(), r.c))
	now, err := r.s.control.Tally()
	ok(r.t, err)
	ok(r.t, r.done(r))
	r.restore()
	var all []string
	for _, f := range p11shim.Functions {
		if now.Since(before)[f] > 0 && f != "C_GetFunctionList" {
			all = append(all, f)
		}
	}
	return all
}

// onlyInRites reports whether no root calls a function.
func onlyInRites(function string) bool {
	return slices.Contains(otherFunctions, function) || slices.Contains(ceremonyFunctions, function)
}

// riteCells returns the cells of a rite that calls these functions: those that no root
// calls, in all modes; the others, which are in the other matrix too, once.
func riteCells(name string, functions []string, codes []uint) (all []riteCell) {
	add := func(c cell) { all = append(all, riteCell{name, c}) }
	for _, f := range functions {
		modes := []string{once, after}
		if onlyInRites(f) {
			modes = []string{once, burst, always, after}
		}
		for _, code := range codes {
			for _, mode := range modes {
				add(cell{f, code, mode})
			}
		}
		for _, mode := range []string{slow, hang, abort} {
			add(cell{f, 0, mode})
		}
	}
	return all
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/mirror"
)

// A mirrorSection is a root of trust over two others, neither of which is a mirror.
type mirrorSection struct {
	mirror.Config `yaml:",inline"`
	First         singleRoot `yaml:"first"`
	Second        singleRoot `yaml:"second"`
}

// A mirrored root is one of the two, as a configuration of its own.
type mirroredRoot struct {
	name   string // first or second
	config *configuration
	driver driver[kms.Root]
}

var errMember = errors.New("give exactly one of pkcs11, local, awskms and vault")

// mirrored returns the two roots of a mirror. A section that is not one of them is
// an error, and has no driver.
func (f *file) mirrored() (all [2]mirroredRoot, err error) {
	var faults []error
	for i, name := range []string{"first", "second"} {
		c := &configuration{file: *f}
		c.Root = rootSection{singleRoot: []singleRoot{f.Root.Mirror.First, f.Root.Mirror.Second}[i]}
		all[i] = mirroredRoot{name: name, config: c}
		n := 0
		for _, d := range singleRoots {
			if d.configured(&c.file) {
				all[i].driver, n = d, n+1
			}
		}
		if n != 1 {
			all[i].driver = driver[kms.Root]{}
			faults = append(faults, fmt.Errorf("mirror: %s: %w", name, errMember))
		}
	}
	return all, errors.Join(faults...)
}

var mirrorRoot = driver[kms.Root]{
	name:       "mirror",
	configured: func(f *file) bool { return f.Root.Mirror != nil },
	check:      checkMirror,
	about:      aboutMirror,
	open: func(ctx context.Context, c *configuration, log *slog.Logger) (kms.Root, error) {
		members, err := c.members(log)
		if err != nil {
			return nil, err
		}
		return mirror.Open(ctx, c.Root.Mirror.Config, members, log)
	},
	init: initMirror,
}

func checkMirror(f *file) error {
	all, err := f.mirrored()
	faults := append(each(f.Root.Mirror.Config.Check()), each(err)...)
	for _, m := range all {
		if m.driver.check == nil {
			continue
		}
		for _, err := range each(m.driver.check(&m.config.file)) {
			_, text, _ := strings.Cut(err.Error(), ": ")
			faults = append(faults, fmt.Errorf("mirror: %s.%s.%s", m.name, m.driver.name, text))
		}
	}
	return errors.Join(faults...)
}

func aboutMirror(f *file) []any {
	all, err := f.mirrored()
	if err != nil {
		return nil // checkMirror has seen it
	}
	about := []any{"record_key_file", f.Root.Mirror.RecordKeyFile}
	for _, m := range all {
		about = append(about, m.name, m.driver.name)
		pairs := m.driver.about(&m.config.file)
		for i := 0; i+1 < len(pairs); i += 2 {
			about = append(about, fmt.Sprintf("%s.%v", m.name, pairs[i]), pairs[i+1])
		}
	}
	return about
}

// members returns how to open the roots of the mirror of c.
func (c *configuration) members(log *slog.Logger) (members [2]mirror.Member, err error) {
	all, err := c.mirrored()
	if err != nil {
		return members, err
	}
	for i, m := range all {
		members[i] = mirror.Member{
			Kind:  m.driver.name,
			Open:  func(ctx context.Context) (kms.Root, error) { return m.open(ctx, c.pinRefused, log) },
			Final: func(err error) bool { return errors.Is(err, hsm.ErrPIN) },
		}
	}
	return members, nil
}

// open opens the root. A PIN that its token has refused, now or before a restart, is
// not tried.
func (m mirroredRoot) open(ctx context.Context, pin refusedPIN, log *slog.Logger) (kms.Root, error) {
	if section := m.config.Root.PKCS11; section != nil {
		if err := pin.check(section.PIN); err != nil {
			return nil, err
		}
	}
	root, err := m.driver.open(ctx, m.config, log)
	return root, pin.remember(err)
}

// initMirror makes what the two roots need, but for the root keys of a token, and
// then the record key in both.
func initMirror(ctx context.Context, c *configuration) error {
	all, err := c.mirrored()
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.config.Root.PKCS11 != nil || m.driver.init == nil {
			continue
		}
		if err := m.driver.init(ctx, m.config); err != nil {
			return fmt.Errorf("root.mirror.%s: %w", m.name, err)
		}
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	members, err := c.members(log)
	if err != nil {
		return err
	}
	_, err = mirror.Init(ctx, c.Root.Mirror.Config, members, log)
	return err
}

// token returns the token that a configuration names, also as one of a mirror.
func (c *configuration) token() (hsm.Config, error) {
	sections := []*hsm.Config{c.Root.PKCS11}
	if m := c.Root.Mirror; m != nil {
		sections = append(sections, m.First.PKCS11, m.Second.PKCS11)
	}
	var found []hsm.Config
	for _, s := range sections {
		if s != nil {
			found = append(found, *s)
		}
	}
	switch len(found) {
	case 0:
		return hsm.Config{}, errors.New("the configuration names no token: root.pkcs11 is not there (keygate root init is for the other roots of trust)")
	case 1:
		return found[0], nil
	}
	return hsm.Config{}, errors.New("root.mirror has two sections pkcs11: give this command a file whose root is one of them")
}

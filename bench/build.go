package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// repository returns the directory of the module that this one is run in.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "scripts", "setup.sh")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("not in the repository: there is no scripts/setup.sh here or above")
}

// prepare builds both servers in the same way, and makes a state.
func (b *bench) prepare(ctx context.Context) error {
	b.keygate = filepath.Join(b.repo, "bin", "keygate")
	b.echo = filepath.Join(b.dir, "echo")
	if err := b.command(ctx, filepath.Join(b.repo, "scripts", "build.sh")); err != nil {
		return err
	}
	if err := b.command(ctx, "go", "build", "-trimpath", "-o", b.echo, "./bench/echo"); err != nil {
		return err
	}
	var err error
	b.state, err = newState(ctx, b.repo, filepath.Join(b.dir, "state"))
	if err != nil {
		return err
	}
	b.modes = b.knowsModes()
	return nil
}

// command runs a command in the repository, with the cryptography that
// scripts/build.sh takes.
func (b *bench) command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = b.repo
	cmd.Env = append(os.Environ(), "GOFIPS140="+or(os.Getenv("GOFIPS140"), "certified"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(name), err, out)
	}
	return nil
}

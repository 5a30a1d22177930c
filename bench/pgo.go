package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// profileTime is a little more than what a gateway of the build tag profile
// profiles.
const profileTime = 11 * time.Second

// writeProfile runs a gateway of the build tag profile under the load of scenario
// floor, and writes a CPU profile of it for scripts/build.sh.
func (b *bench) writeProfile(ctx context.Context, file string) error {
	b.keygate = filepath.Join(b.dir, "keygate-profile")
	if err := b.command(ctx, "go", "build", "-trimpath", "-tags", "profile", "-o", b.keygate, "./cmd/keygate"); err != nil {
		return err
	}
	raw := filepath.Join(b.dir, "cpu.pprof")
	g, err := b.gateway(ctx, "profile", config{}, "KEYGATE_PROFILE="+raw)
	if err != nil {
		return err
	}
	defer g.stop()
	all, err := b.workOf(ctx, g)
	if err != nil {
		return err
	}
	var parts []string
	for _, p := range []protocol{http1, http2} {
		for _, w := range all {
			part := fmt.Sprintf("%s.%d", raw, len(parts))
			if err := b.profileOf(ctx, g, b.load(g.target(g.state.app), p, inTurn(w.requests)), raw, part); err != nil {
				return err
			}
			parts = append(parts, part)
		}
	}
	merged, err := exec.CommandContext(ctx, "go", append([]string{"tool", "pprof", "-proto"}, parts...)...).Output()
	if err != nil {
		return fmt.Errorf("merge the profiles: %w", err)
	}
	return os.WriteFile(file, merged, 0o644)
}

// profileOf has the gateway write the profile raw under a load, and renames it.
func (b *bench) profileOf(ctx context.Context, g *gateway, l load, raw, part string) error {
	s, err := l.start(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	time.Sleep(b.warm)
	if err := g.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(profileTime):
	}
	return os.Rename(raw, part)
}

package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"
)

// defaultProbe bounds ready, so that it ends before whoever started it gives up
// and leaves the process behind.
const defaultProbe = 4 * time.Second

func newReadyCommand() *cobra.Command {
	var live bool
	var timeout time.Duration
	cmd := remote(&cobra.Command{
		Use:   "ready",
		Short: "Say by the exit status whether a gateway can serve keys",
		Long: `Ask a gateway whether it can serve keys now, which takes its key store, its root
of trust and its audit log. Nothing is printed if so; otherwise the exit status is
1. The identity needs a policy that allows /v1/ready.

With --live the question is only whether the process answers: what it depends on
does not count, and any identity may ask. A supervisor must not restart a gateway
because its HSM is away.

This is the probe of Kubernetes, whose own HTTPS probes cannot present a client
certificate.`,
		Args: cobra.NoArgs,
	}, nil, func(s *session, _ []string) error {
		if timeout <= 0 {
			return errors.New("--timeout is not more than 0")
		}
		ctx, cancel := context.WithTimeout(s.ctx, timeout)
		defer cancel()
		if live {
			_, err := s.client.Version(ctx)
			return err
		}
		return s.client.Ready(ctx)
	})
	cmd.Flags().BoolVar(&live, "live", false, "ask only whether the process answers")
	cmd.Flags().DurationVar(&timeout, "timeout", defaultProbe, "how long to wait for the answer, with all tries")
	return cmd
}

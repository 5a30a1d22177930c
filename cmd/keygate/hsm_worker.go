package main

import (
	"github.com/spf13/cobra"

	"github.com/keygate/keygate/hsm"
)

// newHSMWorkerCommand returns the command of a worker process, which has the module of
// one token: hsm.Worker. Only a gateway starts it.
func newHSMWorkerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    hsm.WorkerArgument,
		Short:  "Have the module of a token, for the gateway that started this process",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(*cobra.Command, []string) error {
			if err := harden(); err != nil {
				return err
			}
			_ = lockMemory() // where it fails the gateway, with the same limit, has said so
			tuneGC()
			return hsm.Worker()
		},
	}
}

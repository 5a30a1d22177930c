// Command keygate is an HSM-backed key gateway, and the command line to run it
// and to use it.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/hsm"
)

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2 // the command line itself is wrong: nothing was done
	exitPIN     = 3 // the token refused the PIN, or would lock it if it were wrong: to try again could lock it
)

func main() { os.Exit(run(newRootCommand())) }

// run runs the command of the process's arguments and returns its exit code. It
// is the one place that prints an error.
func run(root *cobra.Command) int {
	started := false
	onRun(root, func() { started = true })
	cmd, err := root.ExecuteC()
	switch {
	case err == nil:
		return 0
	case started:
		if !errors.Is(err, errReported) {
			fmt.Fprintf(os.Stderr, "keygate: %v\n", err)
		}
		if errors.Is(err, hsm.ErrPIN) || errors.Is(err, hsm.ErrPINAtRisk) {
			return exitPIN
		}
		return exitFailure
	}
	fmt.Fprintf(os.Stderr, "keygate: %s (see %s --help)\n", strings.ReplaceAll(err.Error(), "\n", " "), cmd.CommandPath())
	return exitUsage
}

// errReported is returned by commands that have said already what is wrong.
var errReported = errors.New("keygate: reported")

// onRun has f called before the work of any command below cmd begins: an error
// without that call is one of usage.
func onRun(cmd *cobra.Command, f func()) {
	if work := cmd.RunE; work != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			f()
			return work(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		onRun(sub, f)
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "keygate",
		Short: "An HSM-backed key gateway",
		Long: `keygate serves data encryption keys over mutual TLS. The master keys that protect
them are made in a hardware security module and never leave it.

The server is "keygate server". All else of the command line uses one, or
prepares one.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(
		newServerCommand(), newConfigCommand(), newHSMCommand(), newRootOfTrustCommand(), newStoreCommand(),
		newKeyCommand(), newIdentityCommand(), newPolicyCommand(),
		newLogCommand(), newAuditCommand(), newStatusCommand(), newReadyCommand(), newMetricCommand(), newHSMWorkerCommand(),
		newVersionCommand(),
	)
	return root
}

package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/client"
	"github.com/keygate/keygate/policy"
)

func newIdentityInfoCommand() *cobra.Command {
	return remote(&cobra.Command{
		Use:   "info [IDENTITY]",
		Short: "Describe an identity, or one's own with its rules",
		Args:  cobra.MaximumNArgs(1),
	}, (*client.Client).ListIdentities, func(s *session, args []string) error {
		if len(args) == 0 {
			return s.describeSelf()
		}
		id, err := policy.ParseIdentity(args[0])
		if err != nil {
			return err
		}
		d, err := s.client.DescribeIdentity(s.ctx, id)
		if err != nil {
			return fmt.Errorf("identity %s: %w", id, err)
		}
		return s.print(d, func(w io.Writer) {
			printIdentity(w, api.SelfDescribeResponse{
				Identity: string(id), IsAdmin: d.IsAdmin, Policy: d.Policy, CreatedAt: d.CreatedAt, CreatedBy: d.CreatedBy,
			})
		})
	})
}

func (s *session) describeSelf() error {
	d, err := s.client.DescribeSelf(s.ctx)
	if err != nil {
		return err
	}
	return s.print(d, func(w io.Writer) { printIdentity(w, *d) })
}

func printIdentity(w io.Writer, d api.SelfDescribeResponse) {
	fmt.Fprintf(w, "identity:\t%s\n", d.Identity)
	fmt.Fprintf(w, "admin:\t%t\n", d.IsAdmin)
	if d.Policy != "" {
		fmt.Fprintf(w, "policy:\t%s\n", d.Policy)
	}
	if !d.CreatedAt.IsZero() {
		fmt.Fprintf(w, "created:\t%s\n", d.CreatedAt.Format(time.RFC3339))
	}
	if d.CreatedBy != "" {
		fmt.Fprintf(w, "created by:\t%s\n", d.CreatedBy)
	}
	printRules(w, d.Allow, d.Deny)
}

func newIdentityListCommand() *cobra.Command {
	return listCommand("List identities", "identities", (*client.Client).ListIdentities)
}

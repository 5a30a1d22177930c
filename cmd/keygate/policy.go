package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/client"
)

func newPolicyCommand() *cobra.Command {
	return group("policy", "Ask a gateway about its policies",
		newPolicyInfoCommand(), newPolicyShowCommand(), newPolicyListCommand())
}

func newPolicyInfoCommand() *cobra.Command {
	return remote(&cobra.Command{
		Use:   "info NAME",
		Short: "Describe a policy",
		Args:  cobra.ExactArgs(1),
	}, (*client.Client).ListPolicies, func(s *session, args []string) error {
		p, err := s.client.DescribePolicy(s.ctx, args[0])
		if err != nil {
			return fmt.Errorf("policy %q: %w", args[0], err)
		}
		return s.print(p, func(w io.Writer) {
			fmt.Fprintf(w, "name:\t%s\n", p.Name)
			fmt.Fprintf(w, "created:\t%s\n", p.CreatedAt.Format(time.RFC3339))
			fmt.Fprintf(w, "created by:\t%s\n", p.CreatedBy)
		})
	})
}

func newPolicyShowCommand() *cobra.Command {
	return remote(&cobra.Command{
		Use:   "show NAME",
		Short: "Print the rules of a policy",
		Args:  cobra.ExactArgs(1),
	}, (*client.Client).ListPolicies, func(s *session, args []string) error {
		p, err := s.client.ReadPolicy(s.ctx, args[0])
		if err != nil {
			return fmt.Errorf("policy %q: %w", args[0], err)
		}
		return s.print(p, func(w io.Writer) { printRules(w, p.Allow, p.Deny) })
	})
}

// printRules prints the rules in the order in which they count.
func printRules(w io.Writer, allow, deny map[string]api.Rule) {
	for _, pattern := range slices.Sorted(maps.Keys(deny)) {
		fmt.Fprintf(w, "deny\t%s\n", printable(pattern))
	}
	for _, pattern := range slices.Sorted(maps.Keys(allow)) {
		fmt.Fprintf(w, "allow\t%s\n", printable(pattern))
	}
}

func newPolicyListCommand() *cobra.Command {
	return listCommand("List policies", "names", (*client.Client).ListPolicies)
}

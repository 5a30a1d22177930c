package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/client"
)

// group returns a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short,
		Args: cobra.NoArgs, // so that an unknown subcommand is an error
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

// A session is one run of a command that calls a gateway.
type session struct {
	ctx    context.Context
	client *client.Client
	in     io.Reader
	out    io.Writer
	json   bool
}

// A lister returns the names that begin with prefix: (*client.Client).ListKeys.
type lister func(c *client.Client, ctx context.Context, prefix string) ([]string, error)

// remote makes cmd one that calls a gateway: it adds the flags of a connection
// and --json, and runs run with them. The shell completes its first argument
// with the names of list, if that is not nil.
func remote(cmd *cobra.Command, list lister, run func(s *session, args []string) error) *cobra.Command {
	var conn connection
	conn.register(cmd)
	cmd.ValidArgsFunction = conn.complete(list)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := conn.open()
		if err != nil {
			return err
		}
		defer c.Close()
		s := &session{ctx: cmd.Context(), client: c, in: cmd.InOrStdin(), out: cmd.OutOrStdout(), json: *asJSON}
		return explain(run(s, args))
	}
	return cmd
}

func jsonFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("json", false, "print JSON")
}

// print writes a result: as JSON, or as text whose columns, separated by tabs,
// it aligns.
func (s *session) print(v any, text func(w io.Writer)) error {
	return printResult(s.out, s.json, v, text)
}

func printResult(out io.Writer, asJSON bool, v any, text func(w io.Writer)) error {
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(v)
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	text(w)
	return w.Flush()
}

// explain adds what to do to the error that a newcomer meets first, and has any
// error show what a stranger's server answered as one harmless line.
func explain(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		err = fmt.Errorf("%w (name its authority with --cacert)", err)
	}
	return shown{err}
}

// A shown error prints as one line that is safe for a terminal.
type shown struct{ error }

func (e shown) Error() string { return printable(e.error.Error()) }

// Unwrap returns the error as it was.
func (e shown) Unwrap() error { return e.error }

// completionTimeout bounds how long a TAB may take.
const completionTimeout = 2 * time.Second

func (c *connection) complete(list lister) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault // a file, if anything
		}
		if list == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		kg, err := c.open()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer kg.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		names, err := list(kg, ctx, prefix)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// printable returns s as it can be shown on a terminal: what is not printable
// is escaped, as what a stranger sends to a gateway comes here, too.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) < 0 {
		return s
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

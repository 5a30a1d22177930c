package main

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/policy"
)

// A traceFilter says which requests log trace shows.
type traceFilter struct {
	failed    bool
	operation string
	name      string
	identity  string
}

// An auditStream is (*client.Client).AuditLog.
type auditStream func(context.Context) iter.Seq2[api.AuditEvent, error]

func newLogTraceCommand() *cobra.Command {
	var filter traceFilter
	cmd := remote(&cobra.Command{
		Use:   "trace",
		Short: "Watch the requests that a gateway answers, as a table",
		Example: `  keygate log trace --failed
  keygate log trace --operation key:decrypt --name app-1`,
		Args: cobra.NoArgs,
	}, nil, func(s *session, _ []string) error {
		return s.trace(filter)
	})
	f := cmd.Flags()
	f.BoolVar(&filter.failed, "failed", false, "show only requests that failed or were refused")
	f.StringVar(&filter.operation, "operation", "", "show only `OPERATION`, such as key:decrypt")
	f.StringVar(&filter.name, "name", "", "show only requests for the key, policy or identity `NAME`")
	f.StringVar(&filter.identity, "identity", "", "show only requests of the `IDENTITY` that begins so")
	return cmd
}

// traceRow is as wide as what is usual in each column; what is wider is shown
// whole.
const traceRow = "%-12s  %6s  %9s  %-12s  %-21s  %-17s  %s\n"

func (s *session) trace(filter traceFilter) error {
	if !s.json {
		if _, err := fmt.Fprintf(s.out, traceRow, "TIME", "STATUS", "DURATION", "IDENTITY", "SOURCE", "OPERATION", "NAME"); err != nil {
			return err
		}
	}
	return follow(s, filter.of(s.client.AuditLog), func(e api.AuditEvent) error {
		operation, name := splitPath(e.Request.Path)
		_, err := fmt.Fprintf(s.out, traceRow,
			e.Time.Local().Format("15:04:05.000"), fmt.Sprint(e.Response.Code), roundDuration(e.Response.Time),
			orDash(shorten(e.Request.Identity)), orDash(e.Request.IP), orDash(operation), orDash(name))
		return err
	})
}

// splitPath returns the operation of a path and what it is for. A path of no
// operation is returned whole, as the name.
func splitPath(path string) (operation, name string) {
	for _, a := range policy.Actions() {
		// Lists are also asked for without the slash at the end.
		if a.Lists() && path == strings.TrimSuffix(a.Path(), "/") {
			return a.String(), ""
		}
		rest, ok := strings.CutPrefix(path, a.Path())
		if ok && (rest == "" || a.TakesName() || a.Lists()) {
			return a.String(), rest
		}
	}
	return "", path
}

// of returns those events of a stream that the filter lets pass.
func (f traceFilter) of(stream auditStream) auditStream {
	return func(ctx context.Context) iter.Seq2[api.AuditEvent, error] {
		return func(yield func(api.AuditEvent, error) bool) {
			for e, err := range stream(ctx) {
				if (err != nil || f.match(e)) && !yield(e, err) {
					return
				}
			}
		}
	}
}

func (f traceFilter) match(e api.AuditEvent) bool {
	operation, name := splitPath(e.Request.Path)
	return (!f.failed || e.Response.Code >= 400) &&
		(f.operation == "" || f.operation == operation) &&
		(f.name == "" || f.name == name) &&
		strings.HasPrefix(e.Request.Identity, f.identity)
}

// shorten returns enough of an identity to tell it from others.
func shorten(identity string) string {
	return identity[:min(len(identity), 12)]
}

// roundDuration leaves three or four digits.
func roundDuration(d time.Duration) string {
	switch {
	case d >= time.Second:
		d = d.Round(10 * time.Millisecond)
	case d >= time.Millisecond:
		d = d.Round(10 * time.Microsecond)
	default:
		d = d.Round(100 * time.Nanosecond)
	}
	return d.String()
}

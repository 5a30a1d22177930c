package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/api"
)

func newLogCommand() *cobra.Command {
	var audit, errorLog bool
	cmd := remote(&cobra.Command{
		Use:   "log",
		Short: "Follow the audit or the error log of a gateway",
		Long: `Follow the requests that a gateway answers, or the lines of its error log, from
now on until interrupted. With --json each line is a JSON document.`,
		Args: cobra.NoArgs,
	}, nil, func(s *session, _ []string) error {
		if errorLog {
			return follow(s, s.client.ErrorLog, func(e api.ErrorEvent) error { return s.line(printable(e.Message)) })
		}
		return follow(s, s.client.AuditLog, s.auditLine)
	})
	cmd.Flags().BoolVar(&audit, "audit", false, "follow the audit log (default)")
	cmd.Flags().BoolVar(&errorLog, "error", false, "follow the error log")
	cmd.MarkFlagsMutuallyExclusive("audit", "error")
	cmd.AddCommand(newLogTraceCommand())
	return cmd
}

func (s *session) line(text string) error {
	_, err := io.WriteString(s.out, text+"\n")
	return err
}

func (s *session) auditLine(e api.AuditEvent) error {
	return s.line(fmt.Sprintf("%s status=%d duration=%s source=%s identity=%s path=%s",
		e.Time.UTC().Format(time.RFC3339Nano), e.Response.Code, e.Response.Time, printable(e.Request.IP), orDash(e.Request.Identity), printable(e.Request.Path)))
}

// follow prints the events of a stream, as JSON or with print, until the user
// interrupts it: that is its end and no error.
func follow[T any](s *session, stream func(context.Context) iter.Seq2[T, error], print func(T) error) error {
	ctx, stop := signal.NotifyContext(s.ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if s.json {
		enc := json.NewEncoder(s.out)
		enc.SetEscapeHTML(false)
		print = func(e T) error { return enc.Encode(e) }
	}
	for event, err := range stream(ctx) {
		if err != nil {
			return err
		}
		if err := print(event); err != nil {
			return err
		}
	}
	if ctx.Err() == nil {
		return errors.New("the gateway ended the stream")
	}
	return nil
}

// orDash makes an empty column visible.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return printable(s)
}

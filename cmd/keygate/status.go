package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/api"
)

func newStatusCommand() *cobra.Command {
	var routes bool
	cmd := remote(&cobra.Command{
		Use:   "status",
		Short: "Show the state of a gateway and of what it depends on",
		Long: `Show the state of a gateway and of what it depends on. The exit status is 1 if
the key store or the root of trust cannot be used.`,
		Args: cobra.NoArgs,
	}, nil, func(s *session, _ []string) error {
		if routes {
			return s.routes()
		}
		return s.status()
	})
	cmd.Flags().BoolVar(&routes, "api", false, "list the routes of the gateway's API instead")
	return cmd
}

func (s *session) status() error {
	st, err := s.client.Status(s.ctx)
	if err != nil {
		return err
	}
	err = s.print(st, func(w io.Writer) {
		fmt.Fprintf(w, "version:\t%s\n", st.Version)
		fmt.Fprintf(w, "system:\t%s/%s, %d of %d CPUs\n", st.OS, st.Arch, st.UsableCPUs, st.CPUs)
		fmt.Fprintf(w, "up:\t%s\n", time.Duration(st.UpTime)*time.Second)
		fmt.Fprintf(w, "memory:\t%.1f MiB heap, %.1f MiB stack\n", mebibytes(st.HeapMemUsed), mebibytes(st.StackMemUsed))
		fmt.Fprintf(w, "key store:\t%s\n", keyStoreState(st))
		fmt.Fprintf(w, "root of trust:\t%s\n", rootState(st))
	})
	if err != nil {
		return err
	}
	return statusError(st)
}

func keyStoreState(st *api.StatusResponse) string {
	down := st.KeyStoreUnavailable || st.KeyStoreUnreachable
	if !down && st.KeyStoreLatency > 0 {
		return state(down) + ", answered in " + roundDuration(time.Duration(st.KeyStoreLatency))
	}
	return state(down)
}

func rootState(st *api.StatusResponse) string {
	kind := ""
	switch st.Root {
	case "":
	case "local":
		kind = ", local: not for production"
	default:
		kind = ", " + st.Root
	}
	if len(st.RootDegraded) > 0 {
		return state(st.RootUnavailable) + kind + "; away: " + strings.Join(st.RootDegraded, ", ")
	}
	return rootHealth(st) + kind
}

func rootHealth(st *api.StatusResponse) string {
	if st.RootOutage > 0 {
		return state(st.RootUnavailable) + ", operations have failed for " + (time.Duration(st.RootOutage) * time.Second).String()
	}
	return state(st.RootUnavailable)
}

func state(down bool) string {
	if down {
		return "unavailable"
	}
	return "available"
}

func mebibytes(n uint64) float64 { return float64(n) / (1 << 20) }

// statusError is what a script wants to know.
func statusError(st *api.StatusResponse) error {
	var errs []error
	if st.KeyStoreUnavailable || st.KeyStoreUnreachable {
		errs = append(errs, errors.New("the key store is unavailable"))
	}
	if st.RootUnavailable {
		errs = append(errs, errors.New("the root of trust is unavailable"))
	}
	if len(errs) == 2 {
		return fmt.Errorf("%w; %w", errs[0], errs[1])
	}
	return errors.Join(errs...)
}

func (s *session) routes() error {
	routes, err := s.client.Routes(s.ctx)
	if err != nil {
		return err
	}
	return s.print(routes, func(w io.Writer) {
		fmt.Fprintf(w, "METHOD\tPATH\tMAX BODY\tTIMEOUT\n")
		for _, r := range routes {
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", r.Method, r.Path, r.MaxBody, time.Duration(r.Timeout)*time.Second)
		}
	})
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func newMetricCommand() *cobra.Command {
	var all, raw bool
	var rate time.Duration
	cmd := remote(&cobra.Command{
		Use:   "metric",
		Short: "Show the metrics of a gateway",
		Args:  cobra.NoArgs,
	}, nil, func(s *session, _ []string) error {
		show := func() error { return s.metrics(all, raw) }
		if rate <= 0 {
			return show()
		}
		return s.every(rate, show)
	})
	cmd.Flags().BoolVar(&all, "all", false, "all metrics, not only those that KES has")
	cmd.Flags().BoolVar(&raw, "raw", false, "the text as Prometheus reads it")
	cmd.Flags().DurationVar(&rate, "rate", 0, "show them again each `DURATION`, until interrupted")
	cmd.MarkFlagsMutuallyExclusive("raw", "json")
	return cmd
}

func (s *session) metrics(all, raw bool) error {
	get := s.client.Metrics
	if all {
		get = s.client.AllMetrics
	}
	text, err := get(s.ctx)
	if err != nil {
		return err
	}
	if raw {
		_, err := s.out.Write(text)
		return err
	}
	samples, err := parseMetrics(text)
	if err != nil {
		return err
	}
	return s.print(samples, func(w io.Writer) {
		for _, m := range samples {
			if !strings.HasSuffix(m.Name, "_bucket") {
				fmt.Fprintf(w, "%s\t%s\n", printable(m.Name+m.labels), m.Value)
			}
		}
	})
}

// every calls show at once and then each d, until the user interrupts it.
func (s *session) every(d time.Duration, show func() error) error {
	ctx, stop := signal.NotifyContext(s.ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		if err := show(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if !s.json {
			fmt.Fprintln(s.out)
		}
	}
}

// A sample is one line of the Prometheus text format.
type sample struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	Value  json.Number       `json:"value"`
	labels string            // as they came, with braces
}

// parseMetrics reads the Prometheus text format, version 0.0.4. It leaves out
// values that are no numbers, which JSON cannot hold.
func parseMetrics(text []byte) ([]sample, error) {
	samples := []sample{}
	for line := range bytes.Lines(text) {
		l := strings.TrimSpace(string(line))
		if l == "" || l[0] == '#' {
			continue
		}
		m, err := parseSample(l)
		if err != nil {
			return nil, err
		}
		if json.Valid([]byte(m.Value)) {
			samples = append(samples, m)
		}
	}
	return samples, nil
}

func parseSample(line string) (sample, error) {
	i := strings.IndexAny(line, "{ \t")
	if i <= 0 {
		return sample{}, fmt.Errorf("metric %q has no value", line)
	}
	m := sample{Name: line[:i]}
	rest := line[i:]
	if rest[0] == '{' {
		var err error
		var after string
		if m.Labels, after, err = parseLabels(rest[1:]); err != nil {
			return m, fmt.Errorf("metric %s: %w", m.Name, err)
		}
		m.labels, rest = rest[:len(rest)-len(after)], after
	}
	fields := strings.Fields(rest) // the value, and maybe a time
	if len(fields) == 0 {
		return m, fmt.Errorf("metric %s has no value", m.Name)
	}
	m.Value = json.Number(fields[0])
	return m, nil
}

package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// A report is what a run has found.
type report struct {
	machine  []string
	verdicts []verdict
	tables   []*table
}

// A verdict is a figure that is to be reached.
type verdict struct {
	figure string
	wanted string
	got    string
	met    bool
}

// A table is what one scenario has found.
type table struct {
	title string
	head  []string
	rows  [][]string
	notes []string
}

// table adds a table.
func (r *report) table(title string, head ...string) *table {
	t := &table{title: title, head: head}
	r.tables = append(r.tables, t)
	return t
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) note(format string, args ...any) {
	t.notes = append(t.notes, fmt.Sprintf(format, args...))
}

// verdict adds a figure.
func (r *report) verdict(met bool, figure, wanted, format string, args ...any) {
	r.verdicts = append(r.verdicts, verdict{figure, wanted, fmt.Sprintf(format, args...), met})
}

// fail says that a scenario could not be measured.
func (r *report) fail(s scenario, why string) {
	r.verdict(false, s.what, "measured", "failed: %s", why)
}

// skip says that a scenario was not measured, and why.
func (r *report) skip(title, format string, args ...any) {
	r.table(title).note("Skipped: "+format+".", args...)
}

func (v verdict) word() string {
	if v.met {
		return "yes"
	}
	return "NO"
}

// summary returns the verdicts as a table.
func (r *report) summary() *table {
	t := &table{title: "Figures to reach", head: []string{"", "wanted", "got", "reached"}}
	for _, v := range r.verdicts {
		t.row(v.figure, v.wanted, v.got, v.word())
	}
	return t
}

func (r *report) all() []*table {
	if len(r.verdicts) == 0 {
		return r.tables
	}
	return append([]*table{r.summary()}, r.tables...)
}

// print writes the report for a terminal.
func (r *report) print(w io.Writer) {
	for _, line := range r.machine {
		fmt.Fprintln(w, line)
	}
	for _, t := range r.all() {
		fmt.Fprintf(w, "\n%s\n", t.title)
		t.write(w, "  ", "  ", "")
		for _, n := range t.notes {
			fmt.Fprintf(w, "  %s\n", n)
		}
	}
}

// markdown returns the report as a file.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Results of make bench\n\nWritten by `go run ./bench`; docs/performance.md explains the scenarios. Figures are medians of all rounds.\n\n")
	for _, line := range r.machine {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	for _, t := range r.all() {
		fmt.Fprintf(&b, "\n## %s\n\n", t.title)
		t.write(&b, "| ", " | ", " |")
		for _, n := range t.notes {
			fmt.Fprintf(&b, "\n%s\n", n)
		}
	}
	return b.String()
}

// write writes the cells in columns.
func (t *table) write(w io.Writer, before, between, after string) {
	if len(t.rows) == 0 {
		return
	}
	width := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	line := func(row []string, pad string) {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = cell + strings.Repeat(pad, width[i]-utf8.RuneCountInString(cell))
		}
		fmt.Fprintln(w, strings.TrimRight(before+strings.Join(cells, between)+after, " "))
	}
	line(t.head, " ")
	if after != "" {
		line(make([]string, len(t.head)), "-")
	}
	for _, row := range t.rows {
		line(row, " ")
	}
}

// How quantities are written.
func micros(d time.Duration) string { return fmt.Sprintf("%.1f µs", float64(d)/1e3) }
func millis(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/1e6) }
func perSecond(x float64) string    { return fmt.Sprintf("%.0f /s", x) }
func mebi(kib int) string           { return fmt.Sprintf("%.1f MiB", float64(kib)/1024) }

// ratio returns a/b, 0 if b is 0.
func ratio[T int | float64 | time.Duration](a, b T) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

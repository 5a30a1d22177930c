package soak_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// warmUp is the part of a run that is not judged: caches fill, threads are made.
const warmUp = 0.2

// softHSMLeak is what SoftHSM 2.6.1 does not give back of a session object that is
// destroyed, in bytes.
const softHSMLeak = 240

// A rule says within which bounds a figure has to stay after the warm-up. What is 0
// is no bound.
type rule struct {
	figure string
	drift  float64 // how much it may grow, by its robust slope, over the whole time
	part   float64 // or by which part of its median, if that is more
	spread float64 // how far its least and its greatest value may be apart
	most   float64 // its greatest value
}

// rules returns those of a run with so many clients. In a short run little has come
// to rest: the collector lets 32 MiB be before it runs, and the race detector makes
// several times that of it, which it does not all give back. So the bounds of a short
// run, and that on the memory of a process with the race detector, say no more than
// "not wildly".
func rules(judged time.Duration, clients int, race bool) []rule {
	loose := 1.0
	if judged < 8*time.Minute {
		loose = 20
	}
	conns := float64(clients + 8) // and those that come to nothing, and of the operator
	memory := rule{figure: rss, drift: 8 * loose, part: 0.05}
	if race {
		memory = rule{figure: rss, drift: 160, part: 1}
	}
	all := []rule{
		{figure: threads, drift: min(6*loose, 16), spread: 32},
		{figure: fds, drift: min(6*loose, 16), spread: 2 * conns},
		memory,
		{figure: workers, drift: 0.5, spread: 0.5},
		{figure: goroutines, drift: min(12*loose, 60), part: 0.05, spread: 8 * conns},
		{figure: open, drift: 2, spread: sessions + 18},
		{figure: atModule, drift: 2, spread: sessions + 18},
		{figure: heap, drift: 8 * loose, part: 0.05},
		{figure: records, most: maxRecords + float64(clients)}, // one each may be over for a moment
		{figure: loaded, most: float64(*tokens * maxKeys)},
		{figure: branches, most: maxBranches + float64(clients)},
	}
	for _, r := range all[:3] {
		r.figure = ofWorkers + r.figure
		all = append(all, r)
	}
	return all
}

// A verdict is what became of a rule.
type verdict struct {
	rule
	median, least, greatest float64
	grown                   float64 // by the slope over the judged time
	explained               float64 // of it, by what SoftHSM does not give back
	ok                      bool
}

// judge holds samples to rules, where they have the figure. What SoftHSM leaks is
// found in the memory of the process that has the module.
func judge(samples []sample, rules []rule) (verdicts []verdict) {
	samples = settled(samples)
	for _, r := range rules {
		var at, values []float64
		for _, s := range samples {
			if v, there := s.figures[r.figure]; there {
				at, values = append(at, s.at.Seconds()), append(values, v)
			}
		}
		if len(values) < 2 {
			continue
		}
		v := verdict{rule: r, median: median(values), least: slices.Min(values), greatest: slices.Max(values)}
		v.grown = slope(at, values) * (at[len(at)-1] - at[0])
		_, separate := samples[0].figures[workers]
		if r.figure == rss && !separate || r.figure == ofWorkers+rss {
			v.explained = (samples[len(samples)-1].figures[destroyed] - samples[0].figures[destroyed]) * softHSMLeak / mib
		}
		v.ok = within(v.grown-v.explained, max(r.drift, r.part*v.median)) && within(v.greatest-v.least, r.spread) && within(v.greatest, r.most)
		verdicts = append(verdicts, v)
	}
	return verdicts
}

func within(value, bound float64) bool { return bound == 0 || value <= bound }

// settled returns the samples after the warm-up.
func settled(samples []sample) []sample {
	if len(samples) == 0 {
		return nil
	}
	from := time.Duration(warmUp * float64(samples[len(samples)-1].at))
	i := slices.IndexFunc(samples, func(s sample) bool { return s.at >= from })
	return samples[i:]
}

// slope is the estimator of Theil and Sen: the median of the slopes between all
// pairs of points, which a third of wild points does not move.
func slope(x, y []float64) float64 {
	var all []float64
	for i := range x {
		for j := range i {
			if x[i] != x[j] {
				all = append(all, (y[i]-y[j])/(x[i]-x[j]))
			}
		}
	}
	return median(all)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func (v verdict) String() string {
	var bounds []string
	for _, b := range []struct {
		of string
		is float64
	}{{"grown", max(v.drift, v.part*v.median)}, {"spread", v.spread}, {"greatest", v.most}} {
		if b.is > 0 {
			bounds = append(bounds, fmt.Sprintf("%s <= %.4g", b.of, b.is))
		}
	}
	explained := ""
	if v.explained > 0 {
		explained = fmt.Sprintf("%.1f", v.explained)
	}
	word := "flat"
	if !v.ok {
		word = "**GROWS**"
	}
	return fmt.Sprintf("| %s | %.4g | %.4g to %.4g | %+.2f | %s | %s | %s |", v.figure, v.median, v.least, v.greatest, v.grown, explained, strings.Join(bounds, ", "), word)
}

const verdictHead = "| figure | median | least to greatest | grown, by slope | of it SoftHSM's leak | bound | |\n|---|---|---|---|---|---|---|"

// columns are the figures of the table of samples.
var columns = []string{
	threads, fds, rss, pss, heap, goroutines, open, atModule, loaded, records, branches,
	ofWorkers + threads, ofWorkers + fds, ofWorkers + rss, ofWorkers + pss,
}

// table returns up to rows samples, evenly spread, in Markdown.
func table(samples []sample, rows int) string {
	if len(samples) == 0 {
		return ""
	}
	var b strings.Builder
	var there []string
	for _, c := range columns {
		if _, ok := samples[0].figures[c]; ok {
			there = append(there, c)
		}
	}
	fmt.Fprintf(&b, "| time | %s |\n|%s\n", strings.Join(there, " | "), strings.Repeat("---|", len(there)+1))
	step := max(1, float64(len(samples)-1)/float64(max(rows-1, 1)))
	for i := 0.0; int(math.Round(i)) < len(samples); i += step {
		s := samples[int(math.Round(i))]
		fmt.Fprintf(&b, "| %v |", s.at.Round(time.Second))
		for _, c := range there {
			fmt.Fprintf(&b, " %s |", short(s.figures[c]))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// short writes whole numbers whole, and others with one place.
func short(v float64) string {
	if v == math.Trunc(v) {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// made returns samples of one figure, one each 10 s.
func made(figure string, n int, value func(i int) float64) (samples []sample) {
	for i := range n {
		samples = append(samples, sample{at: time.Duration(i) * 10 * time.Second, figures: map[string]float64{figure: value(i), destroyed: float64(1000 * i)}})
	}
	return samples
}

func TestSK01_TheJudge(t *testing.T) {
	noise := func(i int) float64 { return float64(i * 7 % 11) } // no trend
	for _, c := range []struct {
		name   string
		figure string
		value  func(i int) float64
		want   bool
	}{
		{"noise", threads, noise, true},
		{"a leak of one in 10 minutes", threads, func(i int) float64 { return noise(i) + float64(i)/30 }, false},
		{"a warm-up", threads, func(i int) float64 { return min(float64(i), 60) }, true},
		{"three wild values of memory", rss, func(i int) float64 {
			if i%100 == 99 {
				return 900
			}
			return 200
		}, true},
		{"wild values of descriptors", fds, func(i int) float64 {
			if i%100 == 99 {
				return 900
			}
			return 20
		}, false},
		// 1,000 objects each 10 s are 80 KiB an hour for each byte: 240 B are 66 MiB in 48 minutes.
		{"memory that SoftHSM explains", rss, func(i int) float64 { return 200 + float64(i)*1000*softHSMLeak/mib }, true},
		{"twice as much", rss, func(i int) float64 { return 200 + 2*float64(i)*1000*softHSMLeak/mib }, false},
		{"memory that shrinks", rss, func(i int) float64 { return 400 - float64(i)/10 }, true},
	} {
		verdicts := judge(made(c.figure, 360, c.value), rules(time.Hour, 12, false))
		if len(verdicts) != 1 {
			t.Fatalf("%s: %d verdicts", c.name, len(verdicts))
		}
		if verdicts[0].ok != c.want {
			t.Errorf("%s: %v", c.name, verdicts[0])
		}
	}
}

func TestSK01_TheSlope(t *testing.T) {
	x, y := []float64{0, 1, 2, 3, 4}, []float64{1, 3, 100, 7, 9}
	if got := slope(x, y); got != 2 {
		t.Errorf("slope is %v", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median is %v", got)
	}
}

package main

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/mirror"
)

// mirrorFigures are the metrics of a mirror, and those of the tokens in it, which
// have a label more there: which root of the mirror they are. Its roots are opened
// when they can be, so that what they have is not known before.
type mirrorFigures struct {
	root          *mirror.Root
	tokens        [2][]hsm.Config
	disagreements *prometheus.Desc
	each          []mirrorFigure

	mu     sync.Mutex
	opened [2]prometheus.Collector
}

type mirrorFigure struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(mirror.RootStats) float64
}

func newMirrorFigures(root *mirror.Root, f *file) *mirrorFigures {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("keygate_mirror_"+name, help, labels, nil)
	}
	figure := func(name, help string, kind prometheus.ValueType, value func(mirror.RootStats) float64) mirrorFigure {
		return mirrorFigure{desc(name, help, "root", "kind"), kind, value}
	}
	m := &mirrorFigures{
		root:          root,
		disagreements: desc("disagreements_total", "How often one root of the mirror did what the other said cannot be done. Each is an alarm."),
		each: []mirrorFigure{
			figure("root_up", "1 if the root of the mirror is used; 0: it is away.", prometheus.GaugeValue, func(s mirror.RootStats) float64 { return oneIf(!s.Away) }),
			figure("root_away_seconds", "For how long the root has been away. 0: it is not.", prometheus.GaugeValue, func(s mirror.RootStats) float64 { return s.AwayFor.Seconds() }),
			figure("root_lost_total", "How often the root was found to be away.", prometheus.CounterValue, func(s mirror.RootStats) float64 { return float64(s.Lost) }),
			figure("root_failures_total", "Calls that the root could not answer.", prometheus.CounterValue, func(s mirror.RootStats) float64 { return float64(s.Failures) }),
			figure("root_alone_total", "Calls that the root answered because the other one could not.", prometheus.CounterValue, func(s mirror.RootStats) float64 { return float64(s.Alone) }),
			figure("root_missing_total", "Ciphertexts that were made without the root, which will never open them.", prometheus.CounterValue, func(s mirror.RootStats) float64 { return float64(s.Missing) }),
		},
	}
	for i, section := range []*hsm.Config{f.Root.Mirror.First.PKCS11, f.Root.Mirror.Second.PKCS11} {
		if section != nil {
			m.tokens[i] = section.EachToken()
		}
	}
	return m
}

func oneIf(so bool) float64 {
	if so {
		return 1
	}
	return 0
}

// Describe tells of what is always there; figures of tokens are checked when they
// come.
func (m *mirrorFigures) Describe(chan<- *prometheus.Desc) {}

func (m *mirrorFigures) Collect(metrics chan<- prometheus.Metric) {
	stats := m.root.Stats()
	metrics <- prometheus.MustNewConstMetric(m.disagreements, prometheus.CounterValue, float64(stats.Disagreements))
	for i, s := range stats.Roots {
		for _, f := range m.each {
			metrics <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value(s), s.Name, s.Kind)
		}
		if c := m.ofTokens(i, s.Name); c != nil {
			c.Collect(metrics)
		}
	}
}

// ofTokens returns the figures of the tokens of a root, or nil if it has none or has
// not been opened.
func (m *mirrorFigures) ofTokens(i int, name string) prometheus.Collector {
	m.mu.Lock()
	defer m.mu.Unlock()
	if root, ok := m.root.Member(i).(*hsm.Root); ok && m.opened[i] == nil {
		m.opened[i] = prometheus.WrapCollectorWith(prometheus.Labels{"root": name}, newTokenFigures(root, m.tokens[i]))
	}
	return m.opened[i]
}

package main

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/mirror"
)

// rootFigures returns the metrics of a root of trust: those of its tokens, if it has
// any, or of a mirror. What all roots have is in the gateway's own.
func rootFigures(root kms.Root, f *file) []prometheus.Collector {
	switch r := root.(type) {
	case *hsm.Root:
		return []prometheus.Collector{newTokenFigures(r, f.Root.PKCS11.EachToken())}
	case *mirror.Root:
		return []prometheus.Collector{newMirrorFigures(r, f)}
	}
	return nil
}

// tokenFigures are the metrics of the tokens of a root, taken from its counters at
// each scrape.
type tokenFigures struct {
	root   *hsm.Root
	labels []string // of the tokens, in the order of the configuration
	each   []tokenFigure
	bounds []float64 // of the latency buckets, in seconds

	info, moved, wrong, durations, inFlight, errors *prometheus.Desc
}

// A tokenFigure is one number of each token.
type tokenFigure struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(hsm.TokenStatus) float64
}

func newTokenFigures(root *hsm.Root, tokens []hsm.Config) *tokenFigures {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("keygate_hsm_"+name, help, labels, nil)
	}
	t := &tokenFigures{
		root: root, labels: tokenLabels(tokens), each: eachToken(desc),
		info:  desc("token_info", "Always 1, for a token that was connected to; the labels say what it is.", "token", "label", "serial", "manufacturer", "model", "library"),
		moved: desc("operations_moved_total", "Operations that were tried again in another token."),
		wrong: desc("wrong_signatures_total", "Signatures of a token that were not those of the key. None was given out. Each is an alarm."),
		durations: desc("call_duration_seconds",
			"Time that calls of the PKCS#11 module took, by function. C_Encrypt, C_Decrypt and C_Sign are together with their Init.", "token", "function"),
		inFlight: desc("calls_in_flight", "Calls that are in the PKCS#11 module, by function.", "token", "function"),
		errors:   desc("call_errors_total", "Calls of the PKCS#11 module by function and what they answered, if it was not CKR_OK.", "token", "function", "code"),
	}
	for _, bound := range hsm.LatencyBounds() {
		t.bounds = append(t.bounds, bound.Seconds())
	}
	return t
}

func eachToken(desc func(name, help string, labels ...string) *prometheus.Desc) []tokenFigure {
	gauge := func(name, help string, value func(hsm.TokenStatus) float64) tokenFigure {
		return tokenFigure{desc(name, help, "token"), prometheus.GaugeValue, value}
	}
	counter := func(name, help string, value func(hsm.Stats) uint64) tokenFigure {
		return tokenFigure{desc(name, help, "token"), prometheus.CounterValue, func(s hsm.TokenStatus) float64 { return float64(value(s.Stats)) }}
	}
	return []tokenFigure{
		gauge("token_up", "1 if the token works; 0: its breaker is open, until a probe succeeds.", func(s hsm.TokenStatus) float64 {
			if s.Works {
				return 1
			}
			return 0
		}),
		{desc("token_trips_total", "How often the breaker of the token was opened.", "token"), prometheus.CounterValue, func(s hsm.TokenStatus) float64 { return float64(s.Trips) }},
		counter("operations_total", "Operations that a session of the token has begun.", func(s hsm.Stats) uint64 { return s.Calls }),
		counter("operation_errors_total", "Operations that failed, with all their tries.", func(s hsm.Stats) uint64 { return s.Errors }),
		counter("operation_retries_total", "Operations that were tried again in the same token.", func(s hsm.Stats) uint64 { return s.Retries }),
		gauge("queue_waiting", "Operations that wait for a session.", func(s hsm.TokenStatus) float64 { return float64(s.Stats.Waiting) }),
		counter("queue_refused_total", "Operations that were refused, as no session would be free in time.", func(s hsm.Stats) uint64 { return s.Rejected }),
		gauge("sessions_open", "Open sessions.", func(s hsm.TokenStatus) float64 { return float64(s.Stats.Sessions) }),
		gauge("sessions_busy", "Sessions on which an operation runs or a key is loaded, or hangs.", func(s hsm.TokenStatus) float64 { return float64(s.Stats.Busy) }),
		gauge("sessions_limit", "Operations that the token is given at a time.", func(s hsm.TokenStatus) float64 { return float64(s.Stats.Limit) }),
		gauge("calls_hung", "Operations that hang in the PKCS#11 module now.", func(s hsm.TokenStatus) float64 { return float64(s.Stats.Hung) }),
		counter("calls_written_off_total", "Operations that hung in the PKCS#11 module, ever.", func(s hsm.Stats) uint64 { return s.WrittenOff }),
		counter("connections_total", "Connections made to the token. All but the first are repairs.", func(s hsm.Stats) uint64 { return s.Connections }),
		counter("connection_failures_total", "Connections to the token that could not be made.", func(s hsm.Stats) uint64 { return s.Failures }),
		counter("logins_total", "Logins that were tried.", func(s hsm.Stats) uint64 { return s.Logins }),
		counter("pins_refused_total", "Logins that the token refused for the PIN. Each is an alarm.", func(s hsm.Stats) uint64 { return s.PINsRefused }),
		counter("pins_withheld_total", "Logins that were not tried: the token has refused this PIN, or would lock it if it were wrong.", func(s hsm.Stats) uint64 { return s.PINsWithheld }),
		counter("worker_restarts_total", "Worker processes in the place of others that crashed, stopped or hung, with isolation: worker.", func(s hsm.Stats) uint64 { return s.Restarts }),
		gauge("loaded_keys", "Master keys that are loaded in the token.", func(s hsm.TokenStatus) float64 { return float64(s.Stats.LoadedKeys) }),
	}
}

// tokenLabels returns a name for each token, by what the configuration says and so
// the same for ever: its label, and where two have one label more than that.
func tokenLabels(tokens []hsm.Config) []string {
	count := make(map[string]int)
	for _, c := range tokens {
		count[c.Token]++
	}
	labels := make([]string, len(tokens))
	for i, c := range tokens {
		switch {
		case c.Token != "" && count[c.Token] == 1:
			labels[i] = c.Token
		case c.Serial != "":
			labels[i] = c.Token + "/" + c.Serial
		case c.Slot != nil:
			labels[i] = fmt.Sprintf("%s/slot-%d", c.Token, *c.Slot)
		default:
			labels[i] = fmt.Sprintf("%s/%d", c.Token, i)
		}
	}
	return labels
}

func (t *tokenFigures) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{t.info, t.moved, t.wrong, t.durations, t.inFlight, t.errors} {
		descs <- d
	}
	for _, f := range t.each {
		descs <- f.desc
	}
}

func (t *tokenFigures) Collect(metrics chan<- prometheus.Metric) {
	metrics <- prometheus.MustNewConstMetric(t.moved, prometheus.CounterValue, float64(t.root.Moved()))
	metrics <- prometheus.MustNewConstMetric(t.wrong, prometheus.CounterValue, float64(t.root.WrongSignatures()))
	for i, s := range t.root.Tokens() {
		label := t.labels[i]
		for _, f := range t.each {
			metrics <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value(s), label)
		}
		if s.Info != (hsm.TokenInfo{}) {
			metrics <- prometheus.MustNewConstMetric(t.info, prometheus.GaugeValue, 1, label, s.Info.Label, s.Info.Serial, s.Info.Manufacturer, s.Info.Model, s.Info.Library)
		}
		for _, f := range s.Stats.Functions {
			t.collectFunction(metrics, label, f)
		}
	}
}

func (t *tokenFigures) collectFunction(metrics chan<- prometheus.Metric, label string, f hsm.FunctionStats) {
	cumulative := make(map[float64]uint64, len(t.bounds))
	n := uint64(0)
	for i, bound := range t.bounds {
		if i < len(f.Latency) {
			n += f.Latency[i]
		}
		cumulative[bound] = n
	}
	metrics <- prometheus.MustNewConstHistogram(t.durations, f.Calls(), f.Seconds, cumulative, label, f.Function)
	metrics <- prometheus.MustNewConstMetric(t.inFlight, prometheus.GaugeValue, float64(f.InFlight), label, f.Function)
	for code, n := range f.Errors {
		metrics <- prometheus.MustNewConstMetric(t.errors, prometheus.CounterValue, float64(n), label, f.Function, code)
	}
}

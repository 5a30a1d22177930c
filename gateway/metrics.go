package gateway

import (
	"crypto/fips140"
	"net/http"
	"runtime"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/audit"
	"github.com/keygate/keygate/policy"
)

// metrics are the server's figures: a rich set, and that of KES. No label holds
// what a client sends.
type metrics struct {
	requests      *prometheus.CounterVec   // by operation and outcome
	durations     *prometheus.HistogramVec // by operation
	active        prometheus.Gauge
	refused       *prometheus.CounterVec // by reason
	overload      *prometheus.CounterVec // by reason
	expired       prometheus.Counter
	handshakes    prometheus.Counter
	protocol      prometheus.Counter
	auditFailures prometheus.Counter
	items         *prometheus.CounterVec // of batches, by operation and result
	kes           kesMetrics

	routes map[policy.Action]routeMetrics // what is counted of nearly all requests

	all http.Handler
}

// durationBuckets go from what an answer from memory takes to the longest
// timeout, in seconds.
var durationBuckets = []float64{
	50e-6, 100e-6, 200e-6, 400e-6, 800e-6, 1.5e-3, 3e-3, 6e-3, 12e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5, 10, 15,
}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keygate_requests_total", Help: "Requests by operation and outcome, refused ones too."}, []string{"operation", "outcome"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keygate_request_duration_seconds", Help: "Time until the answer was ready.", Buckets: durationBuckets}, []string{"operation"}),
		active:   gauge("keygate_requests_active", "Requests that are being served, log streams too."),
		refused:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keygate_client_certificates_refused_total", Help: "Requests refused for their client certificate, by reason."}, []string{"reason"}),
		overload: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keygate_admission_refused_total", Help: "Requests that were not begun, by reason: overload, or the rate of their identity."}, []string{"reason"}),
		expired:  counter("keygate_client_certificates_expired_total", "Requests accepted with a self-signed client certificate outside its validity."),
		handshakes: counter("keygate_tls_handshake_errors_total",
			"Connections that ended in the TLS handshake: without a client certificate, with one that is not accepted, or with no TLS that is spoken here."),
		protocol:      counter("keygate_http_protocol_errors_total", "Breaches of the HTTP protocol by clients."),
		auditFailures: counter("keygate_audit_failures_total", "Entries that could not be written to the audit log in time."),
		items:         prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keygate_batch_items_total", Help: "Data keys and ciphertexts of batches, by operation and result."}, []string{"operation", "result"}),
		kes:           newKESMetrics(s),
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.requests, m.durations, m.active, m.refused, m.expired, m.handshakes, m.protocol, m.auditFailures, m.items)
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(s.buildInfo(), s.certificateExpiry(), s.lostLines())
	registry.MustRegister(s.kmsFigures()...)
	registry.MustRegister(s.branchFigures()...)
	for _, why := range refusals {
		m.overload.WithLabelValues(why.name) // 0 from the start, so that the first one shows as a rise
	}
	registry.MustRegister(m.overload)
	registry.MustRegister(s.limitFigures()...)
	registry.MustRegister(s.cfg.Figures...)
	m.all = handlerOf(registry)
	m.of(s.routes)
	return m
}

func handlerOf(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{DisableCompression: true})
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}

// begin counts a request as active until end is called.
func (m *metrics) begin() {
	m.active.Inc()
	m.kes.active.Inc()
}

func (m *metrics) end() {
	m.active.Dec()
	m.kes.active.Dec()
}

// routeMetrics are those of one route, found once: to find them by their labels
// costs more than to count.
type routeMetrics struct {
	done      prometheus.Counter
	durations prometheus.Observer
}

func (m *metrics) of(routes []route) {
	m.routes = make(map[policy.Action]routeMetrics, len(routes))
	for _, rt := range routes {
		operation := rt.action.String()
		m.routes[rt.action] = routeMetrics{m.requests.WithLabelValues(operation, string(audit.OK)), m.durations.WithLabelValues(operation)}
	}
}

// observe counts a request whose answer is ready.
func (m *metrics) observe(r *request, failure *api.Error) {
	if r.route == nil {
		m.requests.WithLabelValues("unknown", string(r.entry.Outcome)).Inc()
		m.durations.WithLabelValues("unknown").Observe(r.entry.Duration.Seconds())
	} else {
		of := m.routes[r.route.action]
		of.durations.Observe(r.entry.Duration.Seconds())
		if r.entry.Outcome == audit.OK {
			of.done.Inc()
		} else {
			m.requests.WithLabelValues(r.route.action.String(), string(r.entry.Outcome)).Inc()
		}
	}
	status := http.StatusOK
	if failure != nil {
		status = failure.Status
	}
	m.kes.observe(status, r.entry.Duration)
}

func (s *Server) buildInfo() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keygate_build_info", Help: "Always 1; the labels say what is running.",
		ConstLabels: prometheus.Labels{"version": s.cfg.Version, "commit": s.cfg.Commit, "go": runtime.Version(), "fips": strconv.FormatBool(fips140.Enabled())},
	}, func() float64 { return 1 })
}

func (s *Server) certificateExpiry() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keygate_server_certificate_expiry_seconds", Help: "When the server's certificate ends, in seconds since 1970.",
	}, func() float64 {
		leaf := s.state.Load().Certificate.Leaf
		if leaf == nil {
			return 0
		}
		return float64(leaf.NotAfter.Unix())
	})
}

func (s *Server) lostLines() prometheus.Collector {
	return counterFunc("keygate_error_log_lost_lines_total", "Lines that followers of the error log were too slow for.",
		func() uint64 { return s.cfg.ErrorLog.follows.lost.Load() })
}

// kmsFigures are the counters of packages kms and audit.
func (s *Server) kmsFigures() []prometheus.Collector {
	k, log := s.cfg.KMS, s.cfg.Audit
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keygate_audit_backlog_bytes", Help: "Audit entries that wait to be written."}, func() float64 { return float64(log.Stats().Backlog) }),
		counterFunc("keygate_audit_lost_total", "Audit entries that are lost: they found no place in the backlog.", func() uint64 { return log.Stats().Missed }),
		counterFunc("keygate_audit_checkpoints_total", "Checkpoints of the audit log that were signed and written.", func() uint64 { return log.Stats().Checkpoints }),
		counterFunc("keygate_audit_checkpoint_errors_total", "Checkpoints of the audit log that could not be signed or written: they are late.", func() uint64 { return log.Stats().CheckpointErrors }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keygate_audit_checkpoint_due_seconds", Help: "For how long a checkpoint of the audit log has been due. 0: none is."}, func() float64 { return log.Stats().Unsigned.Seconds() }),
		counterFunc("keygate_record_cache_hits_total", "Key records answered from memory.", func() uint64 { return k.Stats().RecordHits }),
		counterFunc("keygate_record_cache_misses_total", "Key records asked of the key store.", func() uint64 { return k.Stats().RecordMisses }),
		counterFunc("keygate_record_cache_offline_total", "Key records answered from memory while the key store could not be asked.", func() uint64 { return k.Stats().RecordsOffline }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keygate_record_cache_records", Help: "Key records in memory."}, func() float64 { return float64(k.Stats().Records) }),
		counterFunc("keygate_corrupt_records_total", "Key records that were not what was stored. Each is an alarm.", func() uint64 { return k.Stats().CorruptRecords }),
		counterFunc("keygate_store_errors_total", "Reads that the key store could not answer.", func() uint64 { return k.Stats().StoreErrors }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keygate_store_watching", Help: "1 while the key store tells of every change by other gateways, else 0."}, func() float64 { return oneIf(k.Stats().Watching) }),
		counterFunc("keygate_store_changes_total", "Changes that the key store has told of.", func() uint64 { return k.Stats().Changes }),
		counterFunc("keygate_store_watches_lost_total", "How often the key store could no longer tell of changes.", func() uint64 { return k.Stats().WatchesLost }),
		counterFunc("keygate_root_errors_total", "Calls that the root of trust could not answer.", func() uint64 { return k.Stats().RootErrors }),
	}
}

// branchFigures are those of branch keys.
func (s *Server) branchFigures() []prometheus.Collector {
	k := s.cfg.KMS
	return []prometheus.Collector{
		counterFunc("keygate_branch_keys_made_total", "Branch keys made to seal data keys with.", func() uint64 { return k.Stats().BranchesMade }),
		counterFunc("keygate_branch_cache_hits_total", "Branch keys of ciphertexts found in memory.", func() uint64 { return k.Stats().BranchHits }),
		counterFunc("keygate_branch_cache_misses_total", "Branch keys of ciphertexts asked of the root of trust.", func() uint64 { return k.Stats().BranchMisses }),
		counterFunc("keygate_branch_outage_uses_total", "Uses of a branch key past its life, because the root of trust was out.", func() uint64 { return k.Stats().OutageUses }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keygate_branch_cache_keys", Help: "Branch keys in memory."}, func() float64 { return float64(k.Stats().Branches) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keygate_root_outage_seconds", Help: "For how long operations have found the root of trust unavailable. 0: the last one did not."}, func() float64 { return k.Stats().Outage.Seconds() }),
	}
}

func oneIf(so bool) float64 {
	if so {
		return 1
	}
	return 0
}

func counterFunc(name, help string, value func() uint64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
}

// A scrape is the reply of a metrics route.
type scrape struct{ http.Handler }

func (s scrape) stream(w http.ResponseWriter, r *http.Request) { s.ServeHTTP(w, r) }

func (s *Server) allMetrics(*request) (any, error) { return scrape{s.metrics.all}, nil }

func (s *Server) kesMetrics(*request) (any, error) { return scrape{s.metrics.kes.handler}, nil }

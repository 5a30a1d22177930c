package gateway

import (
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// kesMetrics are the families that KES clients know. Their parser takes a family
// of more than one series for a broken answer, but for the three request
// counters: nothing may be added here.
type kesMetrics struct {
	handler                   http.Handler
	success, errors, failures *prometheus.CounterVec // by code
	active                    prometheus.Gauge
	ok                        prometheus.Counter // of success, those of status 200
	durations                 prometheus.Histogram
	auditEvents               prometheus.Counter
}

func newKESMetrics(s *Server) kesMetrics {
	byCode := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"code"})
	}
	m := kesMetrics{
		success:  byCode("kes_http_request_success", "Requests that were done."),
		errors:   byCode("kes_http_request_error", "Requests that were refused, as the client is at fault."),
		failures: byCode("kes_http_request_failure", "Requests that failed, as the server is at fault."),
		active:   gauge("kes_http_request_active", "Requests that are being served."),
		durations: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kes_http_response_time", Help: "Time until the answer was ready, in seconds.",
			Buckets: []float64{0.01, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 3, 5, 10}}),
		auditEvents: counter("kes_log_audit_events", "Entries of the audit log."),
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.success, m.errors, m.failures, m.active, m.durations, m.auditEvents)
	registry.MustRegister(s.systemFigures()...)
	m.ok = m.success.WithLabelValues("200")
	m.handler = handlerOf(registry)
	return m
}

func (s *Server) systemFigures() []prometheus.Collector {
	figure := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	return []prometheus.Collector{
		counterFunc("kes_log_error_events", "Lines of the error log.", s.cfg.ErrorLog.lines.Load),
		figure("kes_system_up_time", "Seconds since the start of the server.", func() float64 { return s.upTime().Seconds() }),
		figure("kes_system_num_cpu", "CPUs of the machine.", func() float64 { return float64(runtime.NumCPU()) }),
		figure("kes_system_num_cpu_used", "CPUs that the server may use.", func() float64 { return float64(runtime.GOMAXPROCS(0)) }),
		figure("kes_system_num_threads", "Threads of the operating system that were made.", func() float64 { n, _ := runtime.ThreadCreateProfile(nil); return float64(n) }),
		figure("kes_system_mem_heap_used", "Bytes of objects on the heap.", func() float64 { return float64(readMemory().heap) }),
		figure("kes_system_mem_heap_objects", "Objects on the heap.", func() float64 { return float64(readMemory().objects) }),
		figure("kes_system_mem_stack_used", "Bytes of stacks.", func() float64 { return float64(readMemory().stack) }),
	}
}

func (m *kesMetrics) observe(status int, d time.Duration) {
	m.auditEvents.Inc()
	m.durations.Observe(d.Seconds())
	family := m.success
	switch {
	case status == http.StatusOK:
		m.ok.Inc()
		return
	case status >= 500:
		family = m.failures
	case status >= 400:
		family = m.errors
	}
	family.WithLabelValues(strconv.Itoa(status)).Inc()
}

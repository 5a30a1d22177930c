package gateway

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/keygate/keygate/audit"
	"github.com/keygate/keygate/policy"
)

// What admission adds to a request where there is room.
func BenchmarkEnterAndLeave(b *testing.B) {
	log, err := audit.Open(audit.Config{File: b.TempDir() + "/audit.log"})
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	s := &Server{cfg: Config{Audit: log, ErrorLog: NewErrorLog(io.Discard, slog.LevelInfo), Now: time.Now}, callers: newCallers(LimitsConfig{})}
	st := new(state)
	c := new(connection)
	c.seen.Store(&seen{st, s.callers.of("an identity")})
	hr := httptest.NewRequest(http.MethodPut, "/v1/key/generate/k", nil)
	hr = hr.WithContext(context.WithValue(hr.Context(), connectionKey{}, c))
	rt := &route{action: policy.GenerateDataKey}
	start := time.Now()
	b.RunParallel(func(pb *testing.PB) {
		// One for all: nobody waits, so nothing looks at a ticket after its end.
		r := &request{http: hr, conn: c, state: st, route: rt, start: start}
		for pb.Next() {
			if refused, _ := s.enter(r); refused != admitted {
				b.Fail()
			}
			r.gate.Leave(&r.ticket)
		}
	})
}

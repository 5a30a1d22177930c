package gateway

import (
	"crypto/fips140"
	"errors"
	"net/http"
	"runtime"
	runtimemetrics "runtime/metrics"
	"slices"
	"strings"
	"time"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/kms"
)

func (s *Server) version(*request) (any, error) {
	v := &api.VersionResponse{Version: s.cfg.Version, Commit: s.cfg.Commit, FIPS: fips140.Enabled()}
	if v.FIPS {
		v.FIPSModule = fips140.Version()
	}
	return v, nil
}

// The answers of ready, with the statuses that KES has for its key store: 504
// if it does not answer, 502 if it answers that it cannot be used.
var (
	errStoreUnreachable = &api.Error{Status: http.StatusGatewayTimeout, Message: "key store is not reachable"}
	errStoreUnavailable = &api.Error{Status: http.StatusBadGateway, Message: "key store is unavailable"}
	errRootUnreachable  = &api.Error{Status: http.StatusGatewayTimeout, Message: "root of trust is not reachable"}
	errRootUnavailable  = &api.Error{Status: http.StatusBadGateway, Message: "root of trust is unavailable"}
)

// ready answers whether key operations can be served now.
func (s *Server) ready(r *request) (any, error) {
	if err := s.cfg.Audit.Ready(); err != nil {
		return nil, errors.Join(api.ErrAuditUnavailable, err)
	}
	status := s.health.check(&r.ctx)
	if status.Store != nil {
		return nil, errors.Join(downAs(status.Store, errStoreUnreachable, errStoreUnavailable), status.Store)
	}
	if status.Root != nil {
		return nil, errors.Join(downAs(status.Root, errRootUnreachable, errRootUnavailable), status.Root)
	}
	return nil, nil
}

// downAs returns unavailable if err is a definite answer, else unreachable.
func downAs(err error, unreachable, unavailable *api.Error) error {
	switch api.ErrorOf(err).Status {
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return unreachable
	}
	return unavailable
}

// status answers the state of the server, also when root or store are down.
func (s *Server) status(r *request) (any, error) {
	memory := readMemory()
	status := &api.StatusResponse{
		Version: s.cfg.Version, OS: runtime.GOOS, Arch: runtime.GOARCH, Root: s.cfg.Root,
		UpTime: uint64(max(0, s.upTime()/time.Second)),
		CPUs:   runtime.NumCPU(), UsableCPUs: runtime.GOMAXPROCS(0),
		HeapMemUsed: memory.heap, StackMemUsed: memory.stack,
	}
	setHealth(status, s.health.check(&r.ctx))
	if out := s.cfg.KMS.Stats().Outage; out > 0 {
		status.RootOutage = max(1, int64(out/time.Second))
	}
	return status, nil
}

func (s *Server) upTime() time.Duration { return s.now(time.Now()).Sub(s.started) }

type memory struct{ heap, objects, stack uint64 }

// readMemory reads what runtime.ReadMemStats would, without stopping the world.
func readMemory() memory {
	samples := []runtimemetrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/gc/heap/objects:objects"},
		{Name: "/memory/classes/heap/stacks:bytes"},
	}
	runtimemetrics.Read(samples)
	return memory{heap: samples[0].Value.Uint64(), objects: samples[1].Value.Uint64(), stack: samples[2].Value.Uint64()}
}

// listAPIs answers the table of routes, sorted by path.
func (s *Server) listAPIs(r *request) (any, error) {
	list := make([]api.Route, 0, len(s.routes))
	for i := range s.routes {
		rt := &s.routes[i]
		list = append(list, api.Route{
			Method: rt.method, Path: rt.action.Path(), MaxBody: rt.maxBody,
			Timeout: int64(r.state.settings[rt.action].timeout / time.Second),
		})
	}
	slices.SortFunc(list, func(a, b api.Route) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

// setHealth sets the fields of an answer that tell of root and store.
func setHealth(to *api.StatusResponse, status kms.Status) {
	to.RootUnavailable = status.Root != nil
	to.RootDegraded = status.Degraded
	if status.Store != nil {
		to.KeyStoreUnavailable, to.KeyStoreUnreachable = true, true
		return
	}
	to.KeyStoreLatency = max(1, status.StoreLatency.Nanoseconds())
}

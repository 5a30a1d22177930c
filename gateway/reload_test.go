package gateway_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/gateway"
	"github.com/keygate/keygate/policy"
)

func TestAZ12_ARequestSeesOneStateOfRules(t *testing.T) {
	const requests = 1000
	w := newWorld(t)
	// Each generation has a policy of its own name and two rules that agree with
	// it: an answer that joins two generations shows.
	rules := func(generation int64) *policy.Rules {
		name := fmt.Sprintf("gen-%d", generation)
		r, err := policy.Compile(w.adminID, []policy.Policy{{Name: name, Allow: []string{"/v1/status", "/v1/policy/read/" + name}, Identities: []policy.Identity{w.appID}}})
		ok(t, err)
		return r
	}
	var published atomic.Int64
	w.reload(func(s *gateway.State) { s.Rules = rules(0) })
	stop := make(chan struct{})
	var reloads sync.WaitGroup
	reloads.Go(func() {
		for g := int64(1); ; g++ {
			select {
			case <-stop:
				return
			default:
			}
			st := w.state
			st.Rules = rules(g)
			if err := w.server.Reload(st); err != nil {
				t.Error(err)
				return
			}
			published.Store(g)
		}
	})
	c := w.client(w.app)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for range requests / 8 {
				before := published.Load()
				var self api.SelfDescribeResponse
				a := c.do("GET", "/v1/identity/self/describe", "")
				if err := json.Unmarshal([]byte(a.body), &self); err != nil {
					t.Errorf("%v in %q", err, a.body)
					return
				}
				_, whole := self.Allow["/v1/policy/read/"+self.Policy]
				var generation int64
				fmt.Sscanf(self.Policy, "gen-%d", &generation)
				if !whole || len(self.Allow) != 2 || generation < before || generation > published.Load()+1 {
					t.Errorf("generation %d of %d to %d: %s", generation, before, published.Load(), a.body)
					return
				}
			}
		})
	}
	workers.Wait()
	close(stop)
	reloads.Wait()
	if published.Load() < 10 {
		t.Errorf("only %d reloads", published.Load())
	}
}

func TestABadStateChangesNothing(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*gateway.State){
		"no rules":          func(s *gateway.State) { s.Rules = nil },
		"no certificate":    func(s *gateway.State) { s.Certificate.Certificate = nil },
		"unknown route":     func(s *gateway.State) { s.Routes = map[string]gateway.RouteConfig{"/v1/nothing": {}} },
		"negative timeout":  func(s *gateway.State) { s.Routes = map[string]gateway.RouteConfig{"/v1/ready": {Timeout: -1}} },
		"skip_auth of keys": func(s *gateway.State) { s.Routes = map[string]gateway.RouteConfig{"/v1/key/create/": {SkipAuth: true}} },
	} {
		next := w.state
		next.Rules = w.rules(nil, nil)
		change(&next)
		if err := w.server.Reload(next); err == nil || !strings.HasPrefix(err.Error(), "gateway: ") {
			t.Errorf("%s: %v", name, err)
		}
		w.client(w.app).get("GET", "/v1/status", "", nil)
	}
}

func TestAReloadReachesOpenConnectionsAndNewHandshakes(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	c.get("GET", "/v1/status", "", nil)
	w.reload(func(s *gateway.State) { s.Rules = w.rules([]string{"/v1/metrics"}, nil) })
	c.fails("GET", "/v1/status", "", 403, notAuthorized) // on the same connection
	c.get("GET", "/v1/metrics", "", nil)
	next := w.ca.issue(t, asServer)
	w.reload(func(s *gateway.State) { s.Certificate = next })
	state, err := w.handshake(w.tlsConfig(&w.app))
	ok(t, err)
	if !state.PeerCertificates[0].Equal(next.Leaf) {
		t.Error("the old certificate is shown")
	}
}

package matrix_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore/storetest/netfault"
	"github.com/keygate/keygate/vault/vaulttest"
)

// mirrorOf is a root over a token behind a shim and a Vault behind a proxy, and what
// breaks each of them.
func mirrorOf(t *testing.T) (root section, breaks [2]func(bool)) {
	t.Helper()
	s, first := newShim(t)
	f := vaulttest.NewFake(t)
	p := netfault.New(t, strings.TrimPrefix(f.Address, "https://"))
	second := transit(t, "https://"+p.Addr(), f.Server)
	return section{
		yaml: fmt.Sprintf("mirror: {record_key_file: %q, first: {%s}, second: {%s}}", filepath.Join(t.TempDir(), "record-key"), first.yaml, second.yaml),
		env:  first.env, before: first.init, init: []string{"root", "init"}, secrets: slices.Concat(first.secrets, second.secrets), imports: true,
	}, [2]func(bool){s.hangs, breakNetwork(p, netfault.Silent)}
}

// A gateway over a token and a Vault, in use, loses either of them, which hangs: what
// was sealed opens, it stays ready and says what is away, new data keys of direct mode
// and new keys are refused, and when both are back all is as before.
func TestHS17_AGatewayLosesEitherRoot(t *testing.T) {
	for i, which := range []string{"first", "second"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			root, breaks := mirrorOf(t)
			n := newNode(t, root, directory(t), "1s", short)
			n.start()
			o := &outage{node: n, fault: fault{text: rootOut}, texts: map[string]int{}, sent: map[string]int{}}
			o.prepare()
			breaks[i](true)
			o.good("PUT", "/v1/key/generate/branch", "") // under the branch key in memory
			o.opensAll(t)                                // before it is known
			o.until(t, []string{which})
			o.opensAll(t)
			o.good("GET", "/v1/ready", "")
			for operation, path := range map[string]string{"key:create": "/v1/key/create/new", "key:generate": "/v1/key/generate/direct"} {
				if o.request(operation, "PUT", path, "") {
					t.Errorf("%s was served with one root", path)
				}
			}
			breaks[i](false)
			o.until(t, nil)
			o.good("PUT", "/v1/key/generate/direct", "")
			o.good("PUT", "/v1/key/create/new", "")
			o.opensAll(t)
			if n.ended() {
				t.Fatalf("the gateway has ended: %s", n.log())
			}
			n.hides()
			n.stop()
		})
	}
}

// opensAll opens the ciphertexts of before, longer than branch keys and records are in
// memory, and none takes long.
func (o *outage) opensAll(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(branchLife + slack); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for key, body := range map[string]string{"direct": o.direct, "branch": o.branch} {
			if a := o.good("PUT", "/v1/key/decrypt/"+key, body); a.took > answerTime {
				t.Errorf("%s: the answer took %v", key, a.took)
			}
		}
	}
}

// until waits until the status names exactly these roots as away.
func (o *outage) until(t *testing.T, away []string) {
	t.Helper()
	var status struct {
		Degraded []string `json:"root_degraded"`
		Root     bool     `json:"root_unavailable"`
	}
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		status.Degraded = nil
		if err := json.Unmarshal([]byte(o.good("GET", "/v1/status", "").body), &status); err != nil {
			t.Fatal(err)
		}
		if status.Root {
			t.Fatal("the root is unavailable")
		}
		if slices.Equal(status.Degraded, away) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("away are %v, not %v: %s", status.Degraded, away, o.log())
		}
	}
	up := map[bool]float64{true: 0, false: 1}
	for name, kind := range map[string]string{"first": "pkcs11", "second": "vault"} {
		series := fmt.Sprintf("keygate_mirror_root_up{kind=%q,root=%q}", kind, name)
		if got := o.metric(series); got != up[slices.Contains(away, name)] {
			t.Errorf("%s is %v, and away are %v", series, got, away)
		}
	}
}

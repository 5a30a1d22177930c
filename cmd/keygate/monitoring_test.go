package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/keygate/keygate/client"
	"github.com/keygate/keygate/kms"
)

// A ruleFile is a file of Prometheus rules, as far as keygate's has it.
type ruleFile struct {
	Groups []struct {
		Name  string      `yaml:"name"`
		Rules []alertRule `yaml:"rules"`
	} `yaml:"groups"`
}

type alertRule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func alertRules(t *testing.T) (all []alertRule) {
	t.Helper()
	text, err := os.ReadFile("../../deploy/prometheus/keygate.rules.yml")
	check(t, err)
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	var f ruleFile
	check(t, d.Decode(&f))
	for _, g := range f.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

func TestEachAlertIsWholeAndInTheDocumentation(t *testing.T) {
	manual, err := os.ReadFile("../../docs/operations.md")
	check(t, err)
	seen := make(map[string]bool)
	for _, r := range alertRules(t) {
		if r.Alert == "" || seen[r.Alert] || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%+v", r)
		}
		seen[r.Alert] = true
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: its severity is %q", r.Alert, s)
		}
		if r.For != "" {
			if _, err := time.ParseDuration(r.For); err != nil {
				t.Errorf("%s: %v", r.Alert, err)
			}
		}
		if !bytes.Contains(manual, []byte("`"+r.Alert+"`")) {
			t.Errorf("%s is not in docs/operations.md", r.Alert)
		}
	}
	for _, name := range regexp.MustCompile("`(Keygate[A-Za-z]+)`").FindAllSubmatch(manual, -1) {
		if !seen[string(name[1])] {
			t.Errorf("docs/operations.md has %s, which is no alert", name[1])
		}
	}
}

// A dashboard is what a file of Grafana's has of queries.
type dashboard struct {
	Panels []struct {
		Title   string `json:"title"`
		Targets []struct {
			Expr string `json:"expr"`
		} `json:"targets"`
	} `json:"panels"`
	Templating struct {
		List []struct {
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
}

func dashboardQueries(t *testing.T) (all []string) {
	t.Helper()
	text, err := os.ReadFile("../../deploy/grafana/keygate.json")
	check(t, err)
	var d dashboard
	check(t, json.Unmarshal(text, &d))
	for _, p := range d.Panels {
		if p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("a panel is empty: %+v", p)
		}
		for _, target := range p.Targets {
			all = append(all, target.Expr)
		}
	}
	for _, v := range d.Templating.List {
		all = append(all, v.Definition)
	}
	return all
}

// What alerts and the dashboard ask for is what a gateway with a token serves: names,
// and the values of their labels.
func TestHS22_AlertsAndDashboardAskForMetricsThatExist(t *testing.T) {
	names, values := liveMetrics(t)
	queries := dashboardQueries(t)
	for _, r := range alertRules(t) {
		queries = append(queries, r.Expr)
	}
	if len(queries) < 20 {
		t.Fatalf("there are %d queries", len(queries))
	}
	for _, q := range queries {
		for _, name := range regexp.MustCompile(`\bkeygate_[a-z0-9_]+`).FindAllString(q, -1) {
			if !names[name] {
				t.Errorf("no gateway has %s, of %s", name, q)
			}
		}
		for _, matcher := range regexp.MustCompile(`(function|reason|code)=~?"([^"]+)"`).FindAllStringSubmatch(q, -1) {
			for value := range strings.SplitSeq(matcher[2], "|") {
				if !values[matcher[1]+"="+value] {
					t.Errorf("no metric has %s=%q, of %s", matcher[1], value, q)
				}
			}
		}
	}
}

// liveMetrics returns the names of the metrics that a gateway has after each kind of
// operation and a failure, and the values of their labels.
func liveMetrics(t *testing.T) (names, values map[string]bool) {
	t.Helper()
	g := startGateway(t, t.TempDir())
	c := g.admin(t)
	check(t, c.CreateKey(t.Context(), "app-1"))
	handle, err := g.root.NewKey(t.Context(), kms.KeyID{1}, kms.Encryption)
	check(t, err)
	if _, err := g.root.Decrypt(t.Context(), handle, make([]byte, 64), nil); err == nil {
		t.Fatal("what is no ciphertext was decrypted")
	}
	check(t, g.root.Random(t.Context(), make([]byte, 32)))
	text, err := c.AllMetrics(t.Context())
	check(t, err)
	samples, err := parseMetrics(append(text, mirrorMetrics(t)...))
	check(t, err)
	names, values = make(map[string]bool), make(map[string]bool)
	for _, s := range samples {
		names[s.Name] = true
		for label, value := range s.Labels {
			values[label+"="+value] = true
		}
	}
	return names, values
}

// admin returns a client of the gateway's admin.
func (g *testGateway) admin(t *testing.T) *client.Client {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(g.dir, "admin.crt"), filepath.Join(g.dir, "admin.key"))
	check(t, err)
	ca, err := os.ReadFile(filepath.Join(g.dir, "ca.crt"))
	check(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	c, err := client.New(client.Config{Endpoints: []string{g.address}, Certificate: pair, RootCAs: pool})
	check(t, err)
	return c
}

func TestMetricsOfATokenAddUp(t *testing.T) {
	g := startGateway(t, t.TempDir())
	c := g.admin(t)
	check(t, c.CreateKey(t.Context(), "app-1"))
	text, err := c.AllMetrics(t.Context())
	check(t, err)
	samples, err := parseMetrics(text)
	check(t, err)
	label := g.root.Token().Label
	got := make(map[string]string)
	for _, s := range samples {
		if s.Labels["token"] == label && s.Labels["le"] == "" || s.Labels["le"] == "+Inf" {
			got[s.Name+" "+s.Labels["function"]] = string(s.Value)
		}
	}
	for name, want := range map[string]string{
		"keygate_hsm_token_up ":                           "1",
		"keygate_hsm_token_info ":                         "1",
		"keygate_hsm_token_trips_total ":                  "0",
		"keygate_hsm_logins_total ":                       "1",
		"keygate_hsm_sessions_limit ":                     "16",
		"keygate_hsm_connections_total ":                  "1",
		"keygate_hsm_pins_refused_total ":                 "0",
		"keygate_hsm_calls_hung ":                         "0",
		"keygate_hsm_call_duration_seconds_count C_Login": "1",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, not %s", name, got[name], want)
		}
	}
	for _, function := range []string{"C_WrapKey", "C_UnwrapKey", "C_Encrypt", "C_Decrypt", "C_Sign"} {
		n := got["keygate_hsm_call_duration_seconds_count "+function]
		if n == "" || n == "0" || n != got["keygate_hsm_call_duration_seconds_bucket "+function] {
			t.Errorf("%s: %q calls, %q in all buckets", function, n, got["keygate_hsm_call_duration_seconds_bucket "+function])
		}
	}
}

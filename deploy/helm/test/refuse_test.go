package chart_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// What would lose keys, leak secrets or never start is refused, with the reason.
func TestRefused(t *testing.T) {
	const etcd, files = chartDir + "/examples/etcd.yaml", chartDir + "/examples/files.yaml"
	for name, c := range map[string]struct {
		file  string
		edits map[string]any
		want  string
	}{
		"files: two replicas":             {files, map[string]any{"replicas": 2}, "config.keystore.fs with more than one replica"},
		"files: autoscaling":              {files, map[string]any{"autoscaling.enabled": true}, "config.keystore.fs with more than one replica"},
		"files: no claim":                 {files, map[string]any{"fileStore.existingClaim": ""}, "fileStore.existingClaim"},
		"memory":                          {etcd, map[string]any{"config.keystore": map[string]any{"memory": map[string]any{}}}, "lost with the pod"},
		"a PIN in the environment":        {etcd, map[string]any{"config.root.pkcs11.pin": map[string]any{"env": "PIN"}}, "secrets come from files"},
		"a password in the configuration": {etcd, map[string]any{"config.tls": map[string]any{"password": "x"}}, "config.tls.password"},
		"an address":                      {etcd, map[string]any{"config.address": "0.0.0.0:1"}, "config.address is the chart's"},
		"a certificate":                   {etcd, map[string]any{"config.tls": map[string]any{"cert": "/x"}}, "config.tls.cert is the chart's"},
		"a private key":                   {etcd, map[string]any{"config.tls": map[string]any{"key": "/x"}}, "config.tls.key is the chart's"},
		"the prober's policy":             {etcd, map[string]any{"config.policy.keygate-probe": map[string]any{}}, "keygate-probe is the chart's"},
		"no prober":                       {etcd, map[string]any{"probes.identity": ""}, "probes.identity"},
		"no prober's secret":              {etcd, map[string]any{"probes.secretName": ""}, "probes.secretName"},
		"an API key with tls.auth":        {etcd, map[string]any{"config.tls": map[string]any{"auth": true}}, "probes.credential: apiKey"},
		"killed while it drains":          {etcd, map[string]any{"terminationGracePeriodSeconds": 15}, "terminationGracePeriodSeconds"},
		"Vault, no token":                 {chartDir + "/examples/vault.yaml", map[string]any{"serviceAccount.token": false}, "serviceAccount.token: true"},
		"schema: no cluster":              {etcd, map[string]any{"config.cluster": ""}, "cluster"},
		"schema: no image":                {etcd, map[string]any{"image.repository": ""}, "repository"},
		"schema: no server certificate":   {etcd, map[string]any{"tls.secretName": ""}, "secretName"},
		"schema: two stores":              {etcd, map[string]any{"config.keystore.fs": map[string]any{}}, "keystore"},
		"schema: a misspelt key":          {etcd, map[string]any{"replica": 2}, "replica"},
		"schema: root":                    {etcd, map[string]any{"user": 0}, "user"},
		"schema: an inner misspelt key":   {etcd, map[string]any{"probes.idenity": "x"}, "idenity"},
		"schema: a secret in the environment": {etcd, map[string]any{"env": map[string]any{
			"PIN": map[string]any{"valueFrom": map[string]any{}}}}, "env"},
		"schema: a volume of a name that is taken": {etcd, map[string]any{"secrets": []any{
			map[string]any{"name": "tls", "secretName": "x", "mountPath": "/x"}}}, "secrets"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := render(values(t, c.file, c.edits), true)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// A shared directory is possible, on purpose.
func TestSharedFileStore(t *testing.T) {
	v := values(t, chartDir+"/examples/files.yaml", map[string]any{"replicas": 3, "sharedFileStore": true})
	r := install(t, v, true)
	if *r.deployment.Spec.Replicas != 3 || r.deployment.Spec.Strategy.Type != "RollingUpdate" || r.pdb == nil {
		t.Errorf("%d replicas, strategy %s, a budget: %v", *r.deployment.Spec.Replicas, r.deployment.Spec.Strategy.Type, r.pdb != nil)
	}
	checkSecurity(t, r)
}

// The key store is made at the installation and never again: one that is gone
// would be made anew, empty, and look well.
func TestStoreIsMadeOnce(t *testing.T) {
	v := values(t, chartDir+"/examples/etcd.yaml", nil)
	if r := install(t, v, true); r.job == nil || !strings.HasSuffix(strings.Join(r.job.Spec.Template.Spec.Containers[0].Command, " "), "store init --config /etc/keygate/config/config.yaml") {
		t.Error("no job that makes the key store")
	}
	if r := install(t, v, false); r.job != nil {
		t.Error("an upgrade makes the key store")
	}
	if r := install(t, values(t, chartDir+"/examples/postgres.yaml", nil), true); r.job != nil {
		t.Error("the key store is made without being asked for")
	}
}

// A change of the configuration restarts the pods.
func TestConfigChangeRestarts(t *testing.T) {
	sum := func(edits map[string]any) string {
		r := install(t, values(t, chartDir+"/examples/etcd.yaml", edits), false)
		return r.deployment.Spec.Template.Annotations["checksum/config"]
	}
	if a, b := sum(nil), sum(map[string]any{"config.mode": "direct"}); a == "" || a == b {
		t.Errorf("checksums %q and %q", a, b)
	}
	if sum(nil) != sum(map[string]any{"replicas": 5}) {
		t.Error("another number of pods restarts them all")
	}
}

// Every key of values.yaml has a comment, and the schema knows exactly these.
func TestValuesAreDocumented(t *testing.T) {
	text, err := os.ReadFile(chartDir + "/values.yaml")
	check(t, err)
	var v map[string]any
	check(t, yaml.UnmarshalStrict(text, &v))
	schema, err := os.ReadFile(chartDir + "/values.schema.json")
	check(t, err)
	var s struct {
		Properties map[string]any `json:"properties"`
	}
	check(t, yaml.Unmarshal(schema, &s))
	for key := range v {
		if s.Properties[key] == nil {
			t.Errorf("the schema does not know %s", key)
		}
	}
	for key := range s.Properties {
		if _, ok := v[key]; !ok && key != "global" { // which Helm adds
			t.Errorf("values.yaml does not have %s", key)
		}
	}
	// A block is documented as a whole: a comment before its first key or in it.
	for _, block := range regexp.MustCompile(`\n\n+`).Split(string(text), -1) {
		if !strings.Contains(block, "#") && !regexp.MustCompile(`^(nodeSelector|tls|service):`).MatchString(block) {
			t.Errorf("nothing is said of\n%s", block)
		}
	}
}

package main

import (
	"crypto/fips140"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/policy"
)

const testIdentity = "c84cc9b91ae399b043da7eca616048e4b4200edf2ff418d8af3835911db945d0"

// base is a file with all that is required, and nothing else. The TLS files are
// those of serverFiles.
const base = `cluster: 5f0c1d2e3b4a59687786950a1b2c3d4e
admin: {identity: ` + testIdentity + `}
tls: {key: server.key, cert: server.crt}
keystore: {memory: {}}
root: {pkcs11: {module: /m.so, token: t, pin: {file: /pin}}}
`

// serverFiles makes server.key and server.crt in a new directory, and goes there.
func serverFiles(t *testing.T) {
	t.Helper()
	n := newIdentity{keyFile: "server.key", certFile: "server.crt", ips: []net.IP{net.IPv4(127, 0, 0, 1)}}
	t.Chdir(t.TempDir())
	if _, err := n.run(time.Now()); err != nil {
		t.Fatal(err)
	}
}

func parse(text string) (*configuration, error) {
	return newConfiguration("config.yaml", parseYAML("config.yaml", []byte(text)), everything)
}

func TestConfigDefaults(t *testing.T) {
	serverFiles(t)
	c, err := parse(base)
	if err != nil {
		t.Fatal(err)
	}
	if c.Address != "0.0.0.0:7373" || c.window != 720*time.Hour || c.logLevel != 0 || c.auditOff || c.state.ClientCAs != nil {
		t.Errorf("address %s, window %v, level %v, audit off %t, client CAs %v", c.Address, c.window, c.logLevel, c.auditOff, c.state.ClientCAs)
	}
	if c.cluster.String() != "5f0c1d2e3b4a59687786950a1b2c3d4e" || c.state.Rules.Admin() != testIdentity {
		t.Errorf("cluster %v, admin %v", c.cluster, c.state.Rules.Admin())
	}
	if len(c.state.Certificate.Certificate) != 1 || c.state.Certificate.PrivateKey == nil {
		t.Error("no server certificate")
	}
}

// The example is accepted as it stands, but for what is not on this machine, and
// what it shows as defaults are the defaults.
func TestExampleIsAConfiguration(t *testing.T) {
	text, err := os.ReadFile("../../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	serverFiles(t)
	c, err := parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.kms(nil), (kms.Config{Cluster: c.cluster, DeletionWindow: kms.DefaultDeletionWindow, RecordTTL: kms.DefaultRecordTTL, WatchedTTL: kms.DefaultWatchedTTL, MaxRecords: kms.DefaultMaxRecords,
		Mode: envelope.Branch, BranchLifetime: kms.DefaultBranchLifetime, BranchUses: kms.DefaultBranchUses,
		OpenedLifetime: kms.DefaultBranchLifetime, MaxOpened: kms.DefaultMaxOpened, Outage: kms.DefaultOutage}); !reflect.DeepEqual(got, want) {
		t.Errorf("the example sets %+v, the defaults are %+v", got, want)
	}
	if err := c.Root.PKCS11.Check(); err != nil {
		t.Error(err)
	}
}

// The key stores that the example has in comments are accepted in the place of the
// one that it has not.
func TestExampleKeyStoresAreConfigurations(t *testing.T) {
	text, err := os.ReadFile("../../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	serverFiles(t)
	for _, name := range []string{"etcd", "postgres"} {
		_, rest, ok := strings.Cut(string(text), "\n  # "+name+":\n")
		if !ok {
			t.Fatalf("the example has no keystore.%s", name)
		}
		section := "keystore:\n  " + name + ":\n"
		for line := range strings.Lines(rest) {
			line, ok := strings.CutPrefix(line, "  #   ")
			if !ok {
				break
			}
			section += "    " + line
		}
		c, err := parse(strings.Replace(base, "keystore: {memory: {}}\n", section, 1))
		if err != nil {
			t.Errorf("%v\n%s", err, section)
			continue
		}
		if configured(keyStores, &c.file).name != name {
			t.Errorf("%s is another key store", name)
		}
		keys := make(map[string]bool)
		exampleKeys(parseYAML("example", []byte(section)).root, "", keys)
		walkKeys(reflect.TypeFor[keyStoreSection](), "keystore", func(path string) {
			if strings.HasPrefix(path, "keystore."+name+".") && !keys[path] {
				t.Errorf("the example does not show %s", path)
			}
		})
	}
}

// Every key that the file can have is in the example, with a comment before it.
func TestExampleDocumentsEveryKey(t *testing.T) {
	text, err := os.ReadFile("../../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	keys := make(map[string]bool)
	exampleKeys(parseYAML("example", text).root, "", keys)
	for _, a := range alternatives(string(text)) {
		exampleKeys(parseYAML("example", []byte(a.text)).root, "", keys)
	}
	commented := regexpKeys(string(text))
	n := 0
	walkKeys(reflect.TypeFor[file](), "", func(path string) {
		n++
		// The roots of a mirror have the keys that they have elsewhere.
		for _, member := range []string{"root.mirror.first.", "root.mirror.second."} {
			if rest, ok := strings.CutPrefix(path, member); ok {
				path = "root." + rest
			}
		}
		last := path[strings.LastIndexByte(path, '.')+1:]
		if !keys[path] && !commented[last] {
			t.Errorf("config.example.yaml does not show %s", path)
		}
	})
	if n < 40 {
		t.Errorf("only %d keys were found: the walk is broken", n)
	}
}

// regexpKeys returns the keys that stand alone in comments, as "# fd: 3", and
// "# auth:".
func regexpKeys(text string) map[string]bool {
	found := make(map[string]bool)
	for line := range strings.Lines(text) {
		comment, ok := strings.CutPrefix(strings.TrimSpace(line), "# ")
		key, _, ok2 := strings.Cut(strings.TrimSpace(strings.TrimLeft(comment, "# "))+" ", ": ")
		if ok && ok2 && !strings.Contains(key, " ") {
			found[key] = true
		}
	}
	return found
}

func exampleKeys(n *yaml.Node, path string, keys map[string]bool) {
	switch n.Kind {
	case yaml.SequenceNode:
		for _, item := range n.Content {
			exampleKeys(item, path, keys)
		}
	case yaml.MappingNode:
		for i := 0; i < len(n.Content); i += 2 {
			name := n.Content[i].Value
			if path == "api" || path == "policy" || path == "limits.rate.identities" {
				name = "*"
			}
			keys[dotted(path, name)] = true
			exampleKeys(n.Content[i+1], dotted(path, name), keys)
		}
	}
}

// walkKeys calls f with the path of each key that a type can have.
func walkKeys(t reflect.Type, path string, f func(path string)) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Map:
		walkKeys(t.Elem(), dotted(path, "*"), f)
	case reflect.Struct:
		for field := range t.Fields() {
			name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
			if name == "-" || !field.IsExported() {
				continue
			}
			if options == "inline" {
				walkKeys(field.Type, path, f)
				continue
			}
			f(dotted(path, name))
			walkKeys(field.Type, dotted(path, name), f)
		}
	}
}

// Each text is a line that is put before base, or in the place of its line with
// the same key; want is the error.
func TestConfigErrorsNameTheLine(t *testing.T) {
	serverFiles(t)
	for name, c := range map[string]struct{ text, want string }{
		"empty":             {"", "config.yaml: is empty"},
		"comment":           {"# nothing\n", "config.yaml: is empty"},
		"list":              {"- a\n", "config.yaml:1: is not a mapping of sections"},
		"tab":               {"tls:\n\tkey: k\n", "config.yaml:2: found character that cannot start any token"},
		"two documents":     {base + "---\naddress: x\n", "config.yaml:6: a second document begins here"},
		"too large":         {base + "#" + strings.Repeat("x", maxConfigFile), "config.yaml: has more than 1048576 bytes"},
		"unknown section":   {base + "adress: 1.2.3.4:1\n", `config.yaml:6: unknown key "adress"`},
		"unknown key":       {base + "log:\n  eror: on\n", `config.yaml:7: unknown key "log.eror"`},
		"unknown, in a map": {base + "policy:\n  a:\n    alow: []\n", `config.yaml:8: unknown key "policy.a.alow"`},
		"duplicate":         {base + "log: {error: on}\nlog: {error: off}\n", `config.yaml:7: "log" is there already, on line 6`},
		"duplicate policy":  {base + "policy:\n  a: {}\n  a: {}\n", `config.yaml:8: "policy.a" is there already, on line 7`},
		"list for value":    {base + "address: [a]\n", `config.yaml:6: "address" is a list, not a single value`},
		"value for section": {base + "log: on\n", `config.yaml:6: "log" is a single value, not a section of keys and values`},
		"value for list":    {base + "keys: a\n", `config.yaml:6: "keys" is a single value, not a list`},
		"no number":         {base + "cache: {keys: many}\n", "config.yaml:6: the value is no whole number"},
		"no bool":           {base + "audit: {required: perhaps}\n", "config.yaml:6: the value is no true or false"},
		"no unit":           {base + "cache: {expiry: 5}\n", `config.yaml:6: "cache.expiry" is no duration, such as 500ms, 5s or 720h`},
		"alias bomb":        {base + bomb(), "config.yaml: its aliases expand to too much"},
		"cycle":             {base + "policy: &p\n  a: *p\n", "config.yaml:"},
		"merge":             {"x-a: &a {error: on}\n" + base + "log:\n  <<: *a\n", "config.yaml:8: merge keys are not supported"},
		"key of a list":     {base + "? [a]\n: b\n", "config.yaml:6: a key is not a word"},

		"version":         {base + "version: v2\n", `config.yaml:6: version "v2" is not v1`},
		"address":         {base + "address: 127.0.0.1\n", "config.yaml:6: address: not of the form host:port"},
		"port":            {base + "address: localhost:http\n", `config.yaml:6: address: the port "http" is not a number up to 65535`},
		"cluster":         {strings.Replace(base, "5f0c", "5F0C", 1), "config.yaml:1: cluster is not 32 lower-case hex digits"},
		"no cluster":      {base[strings.IndexByte(base, '\n')+1:], "config.yaml: cluster is not 32"},
		"zero cluster":    {strings.Replace(base, "5f0c1d2e3b4a59687786950a1b2c3d4e", "00000000000000000000000000000000", 1), "config.yaml:1: cluster is not 32"},
		"admin":           {strings.Replace(base, testIdentity, "admin", 1), "config.yaml:2: admin.identity is neither an identity"},
		"fips":            {base + "fips: maybe\n", "config.yaml:6: fips is neither off nor required"},
		"no TLS files":    {strings.Replace(base, "server.crt", "none.crt", 1), "config.yaml:3: tls.cert: open none.crt: no such file"},
		"key as cert":     {strings.Replace(base, "server.crt", "server.key", 1), `config.yaml:3: tls.cert: server.key: unexpected PEM block "PRIVATE KEY"`},
		"auth":            {strings.Replace(base, "cert: server.crt", "cert: server.crt, auth: maybe", 1), "config.yaml:3: tls.auth is neither on nor off"},
		"ca":              {strings.Replace(base, "cert: server.crt", "cert: server.crt, auth: on, ca: none", 1), "config.yaml:3: tls.ca: stat none: no such file"},
		"proxy":           {"tls:\n  proxy:\n    identities: [" + testIdentity + "]\n", "config.yaml:3: tls.proxy.identities is not supported"},
		"unknown route":   {base + "api:\n  /v1/redy: {skip_auth: true}\n", `config.yaml:7: api: "/v1/redy" is not the path of a route`},
		"open decrypt":    {base + "api:\n  /v1/key/decrypt/: {skip_auth: true}\n", "config.yaml:7: api: /v1/key/decrypt/: skip_auth is not possible"},
		"key name":        {base + "keys:\n- name: a\n- name: a b\n", `config.yaml:8: keys[1]: "a b" is no key name`},
		"key twice":       {base + "keys:\n- name: a\n- name: a\n", `config.yaml:8: keys[1]: "a" is there already`},
		"log level":       {base + "log: {error: loud}\n", `config.yaml:6: log.error: "loud" is not on, off`},
		"audit off":       {base + "log: {audit: off}\naudit: {file: a.log}\n", "config.yaml:6: log.audit drops all entries, and audit.file is set"},
		"audit required":  {base + "log: {audit: WARN}\naudit: {required: true}\n", "config.yaml:6: log.audit drops all entries, and audit.required is true"},
		"negative window": {base + "deletion: {window: -1h}\n", "config.yaml:6: deletion.window is negative"},
		"negative cache":  {base + "cache: {offline: -1s}\n", "config.yaml:6: cache.offline is negative"},
		"KES cache":       {base + "cache:\n  expiry:\n    any: 5m\n", "config.yaml:8: cache.expiry is one duration"},
		"KES store":       {strings.Replace(base, "memory: {}", "vault: {endpoint: x}", 1), "config.yaml:4: keystore.vault is not as in KES"},
		"no store":        {strings.Replace(base, "{memory: {}}", "{}", 1), "config.yaml:4: keystore is exactly one of "},
		"two stores":      {strings.Replace(base, "memory: {}", "memory: {}, fs: {path: p}", 1), "config.yaml:4: keystore is exactly one of "},
		"watched":         {base + "cache: {watched: -1s}\n", "config.yaml:6: cache.watched is negative"},
		"no endpoints":    {strings.Replace(base, "memory: {}", "etcd: {prefix: a}", 1), "config.yaml:4: keystore.etcd.endpoints: it is missing"},
		"etcd in clear":   {strings.Replace(base, "memory: {}", "etcd: {endpoints: ['http://127.0.0.1:2379']}", 1), "config.yaml:4: keystore.etcd.endpoints: \"http://127.0.0.1:2379\" is not of the form https://host:port"},
		"no hosts":        {strings.Replace(base, "memory: {}", "postgres: {schema: a}", 1), "config.yaml:4: keystore.postgres.hosts: it is missing"},
		"half a pair":     {strings.Replace(base, "memory: {}", "postgres: {hosts: ['a:1'], tls: {cert: c}}", 1), "config.yaml:4: keystore.postgres.tls.cert: cert and key need each other"},
		"no path":         {strings.Replace(base, "memory: {}", "fs: null", 1), "config.yaml:4: keystore.fs is empty"},
		"no root":         {strings.Replace(base, "root: {", "root: {} #", 1), "config.yaml:5: root is exactly one of"},
		"PIN in the file": {strings.Replace(base, "pin: {file: /pin}", "pin: 1234", 1), "config.yaml:5: a PIN is not written here"},
		"no PIN":          {strings.Replace(base, "file: /pin", "", 1), "config.yaml:5: root.pkcs11.pin: give exactly one of file, env and fd"},
		"two PINs":        {strings.Replace(base, "file: /pin", "file: /pin, env: PIN", 1), "config.yaml:5: root.pkcs11.pin: give exactly one"},
		"no module":       {strings.Replace(base, "module: /m.so, ", "", 1), "config.yaml:5: root.pkcs11.module: the path of the PKCS#11 module is missing"},

		"pattern":         {base + "policy:\n  p:\n    allow:\n    - /v1/key/list/*\n    - /v1/key/lst/*\n", `config.yaml:10: policy "p": allow[1]: "/v1/key/lst/*" is not the path of any operation`},
		"removed path":    {base + "policy:\n  p:\n    allow: [/v1/secret/create/*]\n", "config.yaml:8: policy \"p\": allow[0]: \"/v1/secret/create/*\" is a path that KES has removed"},
		"dead rule":       {base + "policy:\n  p:\n    deny:\n    - /v1/key/*\n    allow:\n    - /v1/key/list/*\n", "config.yaml:11: policy \"p\": allow[0]:"},
		"two policies":    {base + "policy:\n  p:\n    identities: [" + other + "]\n  q:\n    identities:\n    - " + other + "\n", "config.yaml:11: policy \"q\": identities[0]:"},
		"policy name":     {base + "policy:\n  a b: {}\n", `config.yaml:7: policy "a b": name is empty, too long`},
		"unset variable":  {base + "address: ${KEYGATE_TEST_UNSET}\n", "config.yaml:6: the environment variable KEYGATE_TEST_UNSET is not set"},
		"variable, typed": {base + "cache: {keys: \"${HOME}\"}\n", "config.yaml:6: the value is no whole number"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(c.text)
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains("\n"+err.Error(), "\n"+c.want) {
				t.Errorf("got  %s\nwant %s", err, c.want)
			}
		})
	}
}

var other = strings.Repeat("ab", 32)

// bomb is a text of a few kilobytes whose aliases stand for a million values.
func bomb() string {
	var b strings.Builder
	b.WriteString("policy:\n  p: &p {allow: [" + strings.Repeat("x, ", 1000) + "]}\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  p%d: *p\n", i)
	}
	return b.String()
}

func TestConfigReportsAllProblems(t *testing.T) {
	serverFiles(t)
	_, err := parse(strings.Replace(base, testIdentity, "nobody", 1) + "address: x\nlog: {error: loud}\ndeletion: {window: -1s}\n")
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d problems, want 4:\n%v", len(lines), err)
	}
	for i, prefix := range []string{"config.yaml:2: ", "config.yaml:6: ", "config.yaml:7: ", "config.yaml:8: "} {
		if !strings.HasPrefix(lines[i], prefix) {
			t.Errorf("problem %d is %q, want one of %s", i, lines[i], prefix)
		}
	}
}

func TestConfigOfKESIsAccepted(t *testing.T) {
	serverFiles(t)
	t.Setenv("KES_ADMIN", testIdentity)
	t.Setenv("CACHE_KEYS", "5")
	t.Setenv("EMPTY", "")
	c, err := parse(`version: v1
address: 0.0.0.0:7373
admin:
  identity: ${KES_ADMIN}
tls:
  key: server.key
  cert: server.crt
  password: ${EMPTY}
  auth: off
  ca: ""
api:
  /v1/ready:
    skip_auth: true
    timeout: 15s
  /v1/metrics: {skip_auth: false, timeout: 0}
policy:
  my-app:
    allow:
    - /v1/key/create/my-app*
    - /v1/key/generate/my-app*
    - /v1/key/decrypt/my-app*
    deny:
    - /v1/key/generate/my-app-internal*
    identities:
    - ` + other + `
log:
  error: on
  audit: INFO
keys:
  - name: some-key-name
  - name: another-key-name
cache:
  keys: ${CACHE_KEYS}
cluster: 5f0c1d2e3b4a59687786950a1b2c3d4e
keystore: {fs: {path: /keys}}
root: {pkcs11: {module: /m.so, token: t, pin: {env: PIN}}}
deletion: {window: 0}
`)
	if err != nil {
		t.Fatal(err)
	}
	if c.state.Rules.Admin() != testIdentity || c.state.Rules.PolicyOf(policy.Identity(other)) != "my-app" {
		t.Error("admin or policy is not the file's")
	}
	if !c.state.Routes["/v1/ready"].SkipAuth || c.state.Routes["/v1/ready"].Timeout != 15*time.Second {
		t.Errorf("routes are %+v", c.state.Routes)
	}
	if c.Cache.Keys != 5 || c.window != -1 || len(c.Keys) != 2 {
		t.Errorf("cache.keys %d, window %v, keys %v", c.Cache.Keys, c.window, c.Keys)
	}
}

func TestConfigLeavesPolicyPathsAlone(t *testing.T) {
	serverFiles(t)
	t.Setenv("PATTERN", "/v1/status")
	_, err := parse(base + "policy:\n  p:\n    allow:\n    - ${PATTERN}\n")
	if err == nil || !strings.Contains(err.Error(), `config.yaml:9: policy "p": allow[0]: "${PATTERN}"`) {
		t.Errorf("got %v", err)
	}
}

func TestConfigAdminDisabled(t *testing.T) {
	serverFiles(t)
	c, err := parse(strings.Replace(base, testIdentity, "disabled", 1))
	if err != nil {
		t.Fatal(err)
	}
	if admin := c.state.Rules.Admin(); admin != "" {
		t.Errorf("admin is %q", admin)
	}
}

func TestCR21FIPSRequired(t *testing.T) {
	serverFiles(t)
	_, err := parse(base + "fips: required\n")
	validated := fips140.Enabled() && fips140.Version() != "latest"
	switch {
	case validated && err != nil:
		t.Errorf("refused in FIPS mode, module %s: %v", fips140.Version(), err)
	case !validated && (err == nil || !strings.Contains(err.Error(), "config.yaml:6: fips is required")):
		t.Errorf("without a validated module the error is %v", err)
	}
}

func TestReadYAMLThatIsNoFile(t *testing.T) {
	if _, err := load(t.TempDir(), everything); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := load(filepath.Join(t.TempDir(), "none"), everything); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// Whatever the text, the answer is a configuration or an error that names the
// file, and no value of the environment is in it.
func FuzzConfig(f *testing.F) {
	dir := f.TempDir()
	n := newIdentity{keyFile: filepath.Join(dir, "server.key"), certFile: filepath.Join(dir, "server.crt"), dns: []string{"localhost"}}
	if _, err := n.run(time.Now()); err != nil {
		f.Fatal(err)
	}
	files := strings.NewReplacer("server.key", n.keyFile, "server.crt", n.certFile)
	f.Setenv("KEYGATE_FUZZ", "value-of-the-environment")
	for _, text := range []string{
		base, "", "a: &a [*a]", bomb(), base + base, "\t", "---\n---\n", "a: !!binary x\n", "? {a: b}\n: c\n", "a:\n  - b: ${KEYGATE_FUZZ}\n",
		base + "cache:\n  keys: ${KEYGATE_FUZZ}\n", "%YAML 1.1\n---\na: on\n", "policy: {<<: {a: b}}\n", base + "log: {error: 5}\n", "\xff\xfe", "a: |\n b\n c\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse(files.Replace(text))
		if err == nil && c.state.Rules == nil {
			t.Error("a configuration without rules")
		}
		if err == nil {
			return
		}
		if !strings.HasPrefix(err.Error(), "config.yaml:") {
			t.Errorf("the error does not name the file: %v", err)
		}
		if strings.Contains(err.Error(), "value-of-the-environment") && !strings.Contains(text, "value-of-the-environment") {
			t.Errorf("the error tells a value of the environment: %v", err)
		}
	})
}

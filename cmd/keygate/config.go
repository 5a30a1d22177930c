package main

import (
	"log/slog"
	"time"

	"github.com/keygate/keygate/audit"
	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/gateway"
	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/policy"
)

// A file is the configuration file, as config.example.yaml describes it. The
// sections address, admin, tls, api, policy, log and keys are those of KES.
type file struct {
	Version  string                         `yaml:"version"`
	Address  string                         `yaml:"address"`
	Cluster  string                         `yaml:"cluster"`
	FIPS     string                         `yaml:"fips"`
	Admin    adminSection                   `yaml:"admin"`
	TLS      tlsSection                     `yaml:"tls"`
	API      map[string]gateway.RouteConfig `yaml:"api"`
	Policy   map[string]policySection       `yaml:"policy"`
	Keys     []keySection                   `yaml:"keys"`
	Log      logSection                     `yaml:"log"`
	Audit    audit.Config                   `yaml:"audit"`
	Cache    cacheSection                   `yaml:"cache"`
	Deletion deletionSection                `yaml:"deletion"`
	Mode     string                         `yaml:"mode"`
	Branch   branchSection                  `yaml:"branch"`
	KeyStore keyStoreSection                `yaml:"keystore"`
	Root     rootSection                    `yaml:"root"`
	Limits   gateway.LimitsConfig           `yaml:"limits"`
}

type adminSection struct {
	Identity string `yaml:"identity"`
}

type tlsSection struct {
	Key      string                `yaml:"key"`
	Cert     string                `yaml:"cert"`
	Password secret                `yaml:"password"`
	Auth     string                `yaml:"auth"`
	CA       string                `yaml:"ca"`
	Clients  gateway.ClientsConfig `yaml:"clients"`
	Proxy    proxySection          `yaml:"proxy"`
}

// A proxySection is there because KES files have it. It has to be empty, or as
// in the file that KES ships, to which KES itself pays no attention.
type proxySection struct {
	Identities []string `yaml:"identities"`
	Header     struct {
		Cert string `yaml:"cert"`
	} `yaml:"header"`
}

type policySection struct {
	Allow      []string          `yaml:"allow"`
	Deny       []string          `yaml:"deny"`
	Identities []policy.Identity `yaml:"identities"`
}

type keySection struct {
	Name string `yaml:"name"`
}

type logSection struct {
	Error string `yaml:"error"`
	Audit string `yaml:"audit"`
}

type cacheSection struct {
	Expiry  time.Duration `yaml:"expiry"`
	Watched time.Duration `yaml:"watched"`
	Keys    int           `yaml:"keys"`
	Offline time.Duration `yaml:"offline"`
}

type branchSection struct {
	Lifetime       time.Duration  `yaml:"lifetime"`
	Uses           int64          `yaml:"uses"`
	OpenedLifetime time.Duration  `yaml:"opened_lifetime"`
	Opened         int            `yaml:"opened"`
	Outage         *time.Duration `yaml:"outage"`
}

type deletionSection struct {
	Window *time.Duration `yaml:"window"`
}

// defaultAddress is that of KES.
const defaultAddress = "0.0.0.0:7373"

const otherStores = " is not supported: use fs, etcd, postgres, vault or secretsmanager; records tell nothing to who reads them, as the root of trust wraps the keys in them"

// hints says what to write in the place of keys that KES has, and keygate has
// not or has elsewhere.
var hints = map[string]string{
	"cache.expiry":      "cache.expiry is one duration, such as 5s, after which the key store is asked again; there is no any and no unused, as no master key is cached, and offline is cache.offline",
	"keystore.vault":    "keystore.vault is not as in KES, since records are not secret: it has address, namespace, mount, path, timeout, tls and auth (docs/keystore-vault.md)",
	"keystore.aws":      "keystore.aws is keystore.secretsmanager here, with keys of its own: records tell nothing to who reads them, as the root of trust wraps the keys in them",
	"keystore.gcp":      "keystore.gcp" + otherStores,
	"keystore.azure":    "keystore.azure" + otherStores,
	"keystore.fortanix": "keystore.fortanix" + otherStores,
	"keystore.gemalto":  "keystore.gemalto" + otherStores,
	"keystore.entrust":  "keystore.entrust" + otherStores,
	"keystore.kes":      "keystore.kes" + otherStores,
	"root.pkcs11.pin":   "a PIN is not written here: root.pkcs11.pin holds file, env or fd, which say where it is",
}

// A configuration is a file that has been checked, and what it says in the terms
// of other packages. It is not changed once it is made.
type configuration struct {
	file
	path     string // of the file
	cluster  kms.ClusterID
	state    gateway.State
	logLevel slog.Level
	auditOff bool
	window   time.Duration // as kms.Config wants it
	mode     envelope.Mode
	outage   time.Duration // as kms.Config wants it
	tlsKey   *hsm.KeyName  // of the server; nil: it is in a file
	auditKey *hsm.KeyName  // that signs the audit log; nil: none does

	pinRefused refusedPIN // of the command line, for the tokens of a mirror
}

// load reads the configuration file and has checks look at it. It connects to
// nothing. The error has a line for each problem.
func load(path string, checks []sectionCheck) (*configuration, error) {
	y, err := readYAML(path)
	if err != nil {
		return nil, err
	}
	return newConfiguration(path, y, checks)
}

// kms returns the settings of the KMS.
func (c *configuration) kms(logger *slog.Logger) kms.Config {
	return kms.Config{
		Cluster:        c.cluster,
		DeletionWindow: c.window,
		RecordTTL:      c.Cache.Expiry,
		WatchedTTL:     c.Cache.Watched,
		MaxRecords:     c.Cache.Keys,
		Offline:        c.Cache.Offline,
		Mode:           c.mode,
		BranchLifetime: c.Branch.Lifetime,
		BranchUses:     c.Branch.Uses,
		OpenedLifetime: c.Branch.OpenedLifetime,
		MaxOpened:      c.Branch.Opened,
		Outage:         c.outage,
		Logger:         logger,
	}
}

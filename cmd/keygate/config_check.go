package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/gateway"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/policy"
)

// A sectionCheck looks at one part of a file, and reports what is wrong with it.
type sectionCheck func(*configuration, *yamlFile)

// everything is all that a gateway needs.
var everything = []sectionCheck{
	(*configuration).checkGeneral,
	(*configuration).checkCluster,
	(*configuration).checkTLS,
	(*configuration).checkPolicies,
	(*configuration).checkRoutes,
	(*configuration).checkKeys,
	(*configuration).checkLogs,
	(*configuration).checkKMS,
	(*configuration).checkBranch,
	(*configuration).checkKeyStore,
	(*configuration).checkRoot,
	(*configuration).checkLimits,
	(*configuration).checkKeyUses,
}

// newConfiguration turns a file into a configuration, or returns all that checks
// find wrong with it. Keys that are not known and values of another type are
// always found.
func newConfiguration(path string, y *yamlFile, checks []sectionCheck) (*configuration, error) {
	c := &configuration{path: path}
	y.expand()
	y.decode(&c.file, hints)
	if err := y.err(); err != nil {
		return nil, err // what the values mean is of no use yet
	}
	for _, check := range checks {
		check(c, y)
	}
	if err := y.err(); err != nil {
		return nil, err
	}
	return c, nil
}

func at(path ...any) []any { return path }

func (c *configuration) checkGeneral(y *yamlFile) {
	if c.Version != "" && c.Version != "v1" {
		y.failAt(at("version"), "version %q is not v1", c.Version)
	}
	if c.Address == "" {
		c.Address = defaultAddress
	}
	if err := checkAddress(c.Address); err != nil {
		y.failAt(at("address"), "address: %v", err)
	}
	switch c.FIPS {
	case "", "off":
	case "required":
		// "latest" is the module as it is in the Go tree: no one has validated it.
		if v := thisVersion(); !v.FIPS || v.FIPSModule == "latest" {
			y.failAt(at("fips"), "fips is required, and this process does not use a validated module in FIPS 140-3 mode: build with GOFIPS140=certified, and do not switch it off with GODEBUG")
		}
	default:
		y.failAt(at("fips"), "fips is neither off nor required")
	}
}

func (c *configuration) checkCluster(y *yamlFile) {
	id, err := kms.ParseClusterID(c.Cluster)
	if err != nil || id == (kms.ClusterID{}) {
		y.failAt(at("cluster"), "cluster is not 32 lower-case hex digits: it is the identity of the key store, chosen once, at random, for all gateways that share the store (openssl rand -hex 16)")
	}
	c.cluster = id
}

func checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return errors.New("not of the form host:port")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("the port %q is not a number up to 65535", port)
	}
	return nil
}

func (c *configuration) checkPolicies(y *yamlFile) {
	var admin policy.Identity
	if c.Admin.Identity != "disabled" {
		id, err := policy.ParseIdentity(c.Admin.Identity)
		if err != nil {
			y.failAt(at("admin", "identity"), "admin.identity is neither an identity, 64 lower-case hex digits, nor disabled")
		}
		admin = id
	}
	var policies []policy.Policy
	for _, name := range y.keys("policy") {
		p := c.Policy[name]
		policies = append(policies, policy.Policy{Name: name, Allow: p.Allow, Deny: p.Deny, Identities: p.Identities})
	}
	rules, err := policy.Compile(admin, policies)
	for _, err := range each(err) {
		e, ok := errors.AsType[*policy.Error](err)
		if !ok {
			y.failAt(at("policy"), "%v", err)
			continue
		}
		y.failAt(at("policy", e.Policy, e.Field, e.Index), "%v", err)
	}
	c.state.Rules = rules
}

// each returns the errors that errors.Join has joined.
func each(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

func (c *configuration) checkRoutes(y *yamlFile) {
	c.state.Clients, c.state.Routes = c.TLS.Clients, c.API
	for _, path := range y.keys("api") {
		if err := gateway.CheckRoute(path, c.API[path]); err != nil {
			y.failAt(at("api", path), "%s", strings.TrimPrefix(err.Error(), "gateway: "))
		}
	}
}

func (c *configuration) checkKeys(y *yamlFile) {
	for i, key := range c.Keys {
		if !keystore.ValidName(key.Name) {
			y.failAt(at("keys", i, "name"), "keys[%d]: %q is no key name: 1 to %d of A-Z, a-z, 0-9, _ and -, with no - at the ends", i, key.Name, keystore.MaxNameLen)
		}
		if slices.Index(c.Keys, key) < i {
			y.failAt(at("keys", i, "name"), "keys[%d]: %q is there already", i, key.Name)
		}
	}
}

func (c *configuration) checkLogs(y *yamlFile) {
	c.checkCheckpoint(y)
	var err error
	if c.logLevel, err = parseLevel(c.Log.Error); err != nil {
		y.failAt(at("log", "error"), "log.error: %v", err)
	}
	level, err := parseLevel(c.Log.Audit)
	if err != nil {
		y.failAt(at("log", "audit"), "log.audit: %v", err)
	}
	c.auditOff = err == nil && level > slog.LevelInfo // entries are at level INFO
	if c.auditOff && c.Audit.File != "" {
		y.failAt(at("log", "audit"), "log.audit drops all entries, and audit.file is set: leave one out")
	}
	if c.auditOff && c.Audit.Required != nil && *c.Audit.Required {
		y.failAt(at("log", "audit"), "log.audit drops all entries, and audit.required is true")
	}
}

// levelOff is above all levels.
const levelOff = slog.Level(1 << 20)

// parseLevel reads a level as KES writes it: on, off, a name with an offset, or
// a number. Empty is on, which is INFO.
func parseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "", "on", "true":
		return slog.LevelInfo, nil
	case "off", "false":
		return levelOff, nil
	}
	if n, err := strconv.Atoi(s); err == nil {
		return slog.Level(n), nil
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(s)); err != nil {
		return 0, fmt.Errorf("%q is not on, off, DEBUG, INFO, WARN or ERROR (with or without +n), or a number", s)
	}
	return level, nil
}

func (c *configuration) checkKMS(y *yamlFile) {
	if c.Cache.Expiry < 0 {
		y.failAt(at("cache", "expiry"), "cache.expiry is negative")
	}
	if c.Cache.Watched < 0 {
		y.failAt(at("cache", "watched"), "cache.watched is negative")
	}
	if c.Cache.Keys < 0 {
		y.failAt(at("cache", "keys"), "cache.keys is negative")
	}
	if c.Cache.Offline < 0 {
		y.failAt(at("cache", "offline"), "cache.offline is negative")
	}
	switch w := c.Deletion.Window; {
	case w == nil:
		c.window = kms.DefaultDeletionWindow
	case *w < 0:
		y.failAt(at("deletion", "window"), "deletion.window is negative")
	case *w == 0:
		c.window = -1
	default:
		c.window = *w
	}
}

// checkBranch looks at mode and at the section branch.
func (c *configuration) checkBranch(y *yamlFile) {
	c.mode = envelope.Branch
	if c.Mode != "" {
		var err error
		if c.mode, err = envelope.ParseMode(c.Mode); err != nil {
			y.failAt(at("mode"), "mode is neither branch nor direct")
		}
	}
	b := c.Branch
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"lifetime", b.Lifetime}, {"opened_lifetime", b.OpenedLifetime}} {
		if there := slices.Contains(y.keys("branch"), d.name); there && (d.value <= 0 || d.value > kms.MaxBranchLifetime) {
			y.failAt(at("branch", d.name), "branch.%s is not more than 0 and at most %v", d.name, kms.MaxBranchLifetime)
		}
	}
	if slices.Contains(y.keys("branch"), "uses") && (b.Uses < 1 || b.Uses > kms.MaxBranchUses) {
		y.failAt(at("branch", "uses"), "branch.uses is not from 1 to %d", int64(kms.MaxBranchUses))
	}
	if slices.Contains(y.keys("branch"), "opened") && b.Opened < 1 {
		y.failAt(at("branch", "opened"), "branch.opened is less than 1")
	}
	switch o := b.Outage; {
	case o == nil:
		c.outage = kms.DefaultOutage
	case *o < 0 || *o > kms.MaxBranchLifetime:
		y.failAt(at("branch", "outage"), "branch.outage is not from 0 to %v", kms.MaxBranchLifetime)
	case *o == 0:
		c.outage = -1
	default:
		c.outage = *o
	}
}

package main

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// hangup is the answer to SIGHUP: the audit log is opened anew, and the
// configuration takes effect, all of it or nothing.
func (n *node) hangup() {
	if err := n.trail.Reopen(); err != nil {
		n.log.Error("keygate: the audit log could not be opened anew; it goes on in the old file", "error", err)
	}
	if err := n.reload(); err != nil {
		n.log.Error("keygate: the configuration was not reloaded: nothing has changed", "error", err)
		return
	}
	n.log.Info("keygate: reloaded the configuration", "config", n.cfg.path)
}

func (n *node) reload() error {
	next, err := load(n.cfg.path, everything)
	if err != nil {
		return err
	}
	if fixed := n.cfg.fixedChanges(next); len(fixed) > 0 {
		return fmt.Errorf("%s: a change of this needs a restart", strings.Join(fixed, ", "))
	}
	if err := next.bindServerKey(context.Background(), n.root, n.cfg); err != nil {
		return err
	}
	if err := n.server.Reload(next.state); err != nil {
		return err
	}
	n.level.Set(next.logLevel)
	n.trail.SetOff(next.auditOff)
	n.cfg, n.tlsProblem = next, ""
	return nil
}

// fixedChanges returns the sections that differ and cannot change while the
// gateway runs.
func (c *configuration) fixedChanges(next *configuration) []string {
	reloadable := []string{"version", "admin", "tls", "api", "policy", "keys", "log"}
	var changed []string
	old, new := reflect.ValueOf(c.file), reflect.ValueOf(next.file)
	for field := range old.Type().Fields() {
		name := field.Tag.Get("yaml")
		if slices.Contains(reloadable, name) {
			continue
		}
		if !reflect.DeepEqual(old.FieldByIndex(field.Index).Interface(), new.FieldByIndex(field.Index).Interface()) {
			changed = append(changed, name)
		}
	}
	return changed
}

// renewTLS reads the TLS files again, and puts them in force if they differ.
func (n *node) renewTLS() {
	next := *n.cfg
	y := &yamlFile{name: next.path}
	next.state.ClientCAs = nil
	next.checkTLS(y)
	err := y.err()
	if err == nil {
		err = next.bindServerKey(context.Background(), n.root, n.cfg)
	}
	if err != nil {
		if text := err.Error(); text != n.tlsProblem { // perhaps only one file of two has been replaced yet
			n.tlsProblem = text
			n.log.Warn("keygate: the TLS files are not usable now: those that were read before stay in force", "error", err)
		}
		return
	}
	n.tlsProblem = ""
	if n.cfg.sameTLS(&next) {
		return
	}
	if err := n.server.Reload(next.state); err != nil {
		n.log.Error("keygate: the TLS files were not reloaded", "error", err)
		return
	}
	n.cfg = &next
	n.log.Info("keygate: the TLS files have changed and are in force", "not_after", next.state.Certificate.Leaf.NotAfter)
}

func (c *configuration) sameTLS(next *configuration) bool {
	return reflect.DeepEqual(c.state.Certificate.Certificate, next.state.Certificate.Certificate) &&
		c.state.ClientCAs.Equal(next.state.ClientCAs)
}

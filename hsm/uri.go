package hsm

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// A uri is a PKCS #11 URI (RFC 7512), split into its attributes: those of the path,
// which say what is meant, and those of the query, which say how to reach it.
type uri struct{ path, query map[string]string }

// parseURI takes "pkcs11:token=...;serial=...?module-path=...". Every attribute has to
// be one of known, and stands once.
func parseURI(s string, known ...string) (uri, error) {
	u := uri{path: map[string]string{}, query: map[string]string{}}
	rest, ok := strings.CutPrefix(s, "pkcs11:")
	if !ok {
		return u, errors.New("it does not begin with the scheme pkcs11")
	}
	path, query, _ := strings.Cut(rest, "?")
	if err := splitURI(path, ";", u.path, known); err != nil {
		return u, err
	}
	return u, splitURI(query, "&", u.query, known)
}

func splitURI(s, separator string, into map[string]string, known []string) error {
	if s == "" {
		return nil
	}
	for part := range strings.SplitSeq(s, separator) {
		name, escaped, ok := strings.Cut(part, "=")
		if !ok || name == "" {
			return fmt.Errorf("%q is not of the form name=value", part)
		}
		value, err := url.PathUnescape(escaped)
		switch {
		case name == "pin-value":
			return fmt.Errorf("pin-value: a PIN does not belong into a configuration: pin-source=file:/PATH names its file")
		case err != nil:
			return fmt.Errorf("%s: %w", name, err)
		case !slices.Contains(known, name):
			return fmt.Errorf("%s is not known here; these are: %s", name, strings.Join(slices.Sorted(slices.Values(known)), ", "))
		}
		if _, twice := into[name]; twice {
			return fmt.Errorf("%s is there twice", name)
		}
		into[name] = value
	}
	return nil
}

// apply sets in c what a URI of a token says, and refuses what c says otherwise.
func (c *Config) apply(s string) error {
	u, err := parseURI(s, "token", "serial", "slot-id", "module-path", "pin-source")
	if err != nil {
		return err
	}
	all := maps.Clone(u.path)
	maps.Copy(all, u.query)
	for name, to := range map[string]*string{"token": &c.Token, "serial": &c.Serial, "module-path": &c.Module} {
		if value := all[name]; value != "" {
			*to = value
		}
	}
	if id, ok := all["slot-id"]; ok {
		slot, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return fmt.Errorf("slot-id: %q is not a number", id)
		}
		n := uint(slot)
		c.Slot = &n
	}
	if source := all["pin-source"]; source != "" {
		path := strings.TrimPrefix(strings.TrimPrefix(source, "file:"), "//")
		if !strings.HasPrefix(path, "/") || strings.HasPrefix(source, "|") {
			return fmt.Errorf("pin-source: %q is not file:/PATH", source)
		}
		c.PIN = PIN{File: path}
	}
	return nil
}

package main

import (
	"os"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/keygate/keygate/policy"
)

// TestOpenAPIHasEveryRoute holds docs/openapi.yaml to the table of actions, and
// each reference in it to something that is there.
func TestOpenAPIHasEveryRoute(t *testing.T) {
	b, err := os.ReadFile("../../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths      map[string]any
		Components map[string]map[string]any
	}
	if err := yaml.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool)
	for _, a := range policy.Actions() {
		paths := []string{a.Path()}
		switch {
		case a == policy.DescribeIdentity:
			paths = []string{a.Path() + "{identity}"}
		case a.TakesName():
			paths = []string{a.Path() + "{name}"}
		case a.Lists():
			paths = []string{a.Path() + "{prefix}", strings.TrimSuffix(a.Path(), "/")}
		}
		for _, path := range paths {
			known[path] = true
			if doc.Paths[path] == nil {
				t.Errorf("%s is missing", path)
			}
		}
	}
	for path := range doc.Paths {
		if !known[path] {
			t.Errorf("%s is no route", path)
		}
	}
	for _, ref := range strings.Split(string(b), "#/components/")[1:] {
		kind, name, _ := strings.Cut(ref[:strings.IndexByte(ref, '"')], "/")
		if doc.Components[kind][name] == nil {
			t.Errorf("there is no %s/%s", kind, name)
		}
	}
}

package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/policy"
)

// A specification is what the tests look at of docs/openapi.yaml.
type specification struct {
	Paths map[string]struct {
		Get, Put, Post, Delete *operation
	}
	Components struct {
		Responses map[string]struct{ Headers map[string]any }
		Schemas   map[string]schema
	}
}

type operation struct {
	Responses   map[string]any
	RequestBody struct {
		Content map[string]struct {
			Schema struct {
				Ref string `yaml:"$ref"`
			}
		}
	} `yaml:"requestBody"`
}

type schema struct {
	Maximum    int
	Minimum    *int
	MaxItems   int `yaml:"maxItems"`
	Enum       []string
	Properties map[string]schema
}

func readSpecification(t *testing.T) specification {
	t.Helper()
	b, err := os.ReadFile("../../docs/openapi.yaml")
	check(t, err)
	var s specification
	check(t, yaml.Unmarshal(b, &s))
	return s
}

// TestOpenAPIHasTheLimitsAndValuesOfTheCode compares what both say.
func TestOpenAPIHasTheLimitsAndValuesOfTheCode(t *testing.T) {
	s := readSpecification(t)
	schemas := s.Components.Schemas
	batch := schemas["BatchGenerate"].Properties
	for what, pair := range map[string][2]int{
		"items of a batch to decrypt":    {schemas["Ciphertexts"].MaxItems, kms.MaxBatch},
		"contexts of a batch":            {batch["contexts"].MaxItems, kms.MaxBatch},
		"count of a batch":               {batch["count"].Maximum, kms.MaxBatch},
		"ciphertexts of a bulk decrypt":  {schemas["BulkCiphertexts"].MaxItems, api.MaxBulk},
		"schemas of bulk decrypt's body": {strings.Count(s.Paths["/v1/key/bulk/decrypt/{name}"].Put.RequestBody.Content["application/json"].Schema.Ref, "/BulkCiphertexts"), 1},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %d, and in the code %d", what, pair[0], pair[1])
		}
	}
	if least := batch["count"].Minimum; least == nil {
		t.Error("count of a batch has no minimum")
	} else if _, err := api.ParseBatchGenerate([]byte(`{"count":0}`)); (err == nil) != (*least == 0) {
		t.Errorf("count of a batch is at least %d, and a count of 0 is answered %v", *least, err)
	}
	for what, pair := range map[string][2][]string{
		"ciphers":           {schemas["Import"].Properties["cipher"].Enum, {api.CipherAES256, api.CipherAES256KES}},
		"modes of create":   {schemas["CreateKey"].Properties["mode"].Enum, {"direct", "branch", "default"}},
		"modes of a change": {schemas["ModeRequest"].Properties["mode"].Enum, {"direct", "branch", "default"}},
	} {
		if !slices.Equal(pair[0], pair[1]) {
			t.Errorf("%s: %q, and in the code %q", what, pair[0], pair[1])
		}
	}
}

// TestOpenAPISaysWhatIsRefused: routes that tell of no key are under no rate; all
// else is, and whoever is to try again is told when.
func TestOpenAPISaysWhatIsRefused(t *testing.T) {
	s := readSpecification(t)
	open := []policy.Action{policy.Version, policy.Ready, policy.Status, policy.Metrics, policy.AllMetrics, policy.ListAPIs}
	operations := 0
	for path, methods := range s.Paths {
		free := slices.ContainsFunc(open, func(a policy.Action) bool { return a.Path() == path })
		for _, o := range []*operation{methods.Get, methods.Put, methods.Post, methods.Delete} {
			if o == nil {
				continue
			}
			if (o.Responses["429"] != nil) == free {
				t.Errorf("%s: has a 429 and must have none: %t", path, free)
			}
			if o.Responses["503"] == nil {
				t.Errorf("%s has no 503", path)
			}
			operations++
		}
	}
	if operations < len(policy.Actions()) {
		t.Errorf("%d operations were looked at, of %d actions", operations, len(policy.Actions()))
	}
	for _, name := range []string{"TooMany", "Unavailable"} {
		if s.Components.Responses[name].Headers["Retry-After"] == nil {
			t.Errorf("%s has no Retry-After", name)
		}
	}
}

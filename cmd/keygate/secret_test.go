package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

func TestAU06WhatHoldsASecretIsRedacted(t *testing.T) {
	const hidden = "correct horse"
	c := &configuration{}
	c.TLS.Password = hidden
	if text := fmt.Sprintf("%+v %#v", c, *c); strings.Contains(text, hidden) {
		t.Errorf("told: %s", text)
	}
	for name, v := range map[string]any{
		"secret": secret(hidden), "pointer": &c.TLS.Password, "section": c.TLS, "file": c.file,
		"slice": []secret{hidden}, "map": map[string]secret{"a": hidden},
	} {
		t.Run("AU-06 "+name, func(t *testing.T) {
			for _, text := range renderings(t, v) {
				if strings.Contains(text, hidden) || strings.Contains(text, fmt.Sprintf("%x", hidden)) {
					t.Errorf("told: %s", text)
				}
			}
		})
	}
}

// renderings returns v in all the ways that it can get into an output.
func renderings(t *testing.T, v any) []string {
	t.Helper()
	var all []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		all = append(all, fmt.Sprintf(verb, v))
	}
	if b, err := json.Marshal(v); err == nil {
		all = append(all, string(b))
	}
	if b, err := yaml.Marshal(v); err == nil {
		all = append(all, string(b))
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "v", v)
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "v", v)
	return append(all, log.String())
}

// Fields whose names say that they hold a secret are of a type that hides it.
func TestAU06NoSecretIsAPlainString(t *testing.T) {
	fields := 0
	var walk func(typ reflect.Type, path string)
	walk = func(typ reflect.Type, path string) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for f := range typ.Fields() {
			name := strings.ToLower(f.Name)
			if strings.HasSuffix(name, "file") {
				continue // it says where the secret is
			}
			if strings.Contains(name, "password") || strings.Contains(name, "secret") || name == "apikey" {
				fields++
				if f.Type != reflect.TypeFor[secret]() {
					t.Errorf("%s.%s is of type %v", path, f.Name, f.Type)
				}
			}
			walk(f.Type, path+"."+f.Name)
		}
	}
	walk(reflect.TypeFor[file](), "file")
	if fields == 0 {
		t.Error("no field was found: the walk is broken")
	}
}

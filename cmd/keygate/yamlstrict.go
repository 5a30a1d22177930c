package main

import (
	"encoding"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// decode fills v, a pointer to a struct, with the file, and reports each key
// that v has no field for, each key that is there twice, and each value of
// another type. hints says what to write in the place of keys that are not
// known, by their dotted paths.
//
// yaml.v3 finds unknown keys only when it decodes text, and stops at the first
// problem of some kinds; so the tree is compared with the type here, and only
// values are left to it.
func (y *yamlFile) decode(v any, hints map[string]string) {
	if y.root == nil {
		return
	}
	c := checker{file: y, hints: hints, budget: 100_000}
	c.node(y.root, reflect.TypeOf(v).Elem(), "")
	if c.budget <= 0 {
		y.fail(0, "its aliases expand to too much")
	}
	if len(y.problems) > 0 {
		return // yaml.v3 would say the same again, in other words
	}
	if err := y.root.Decode(v); err != nil {
		y.typeErrors(err)
	}
}

type checker struct {
	file   *yamlFile
	hints  map[string]string
	budget int // nodes to visit, aliases followed
}

var (
	durationType    = reflect.TypeFor[time.Duration]()
	unmarshalerType = reflect.TypeFor[yaml.Unmarshaler]()
	textType        = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// node compares one node with the type that it is decoded into.
func (c *checker) node(n *yaml.Node, t reflect.Type, path string) {
	n = target(n)
	if c.budget--; c.budget <= 0 || n.ShortTag() == "!!null" {
		return
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	p := reflect.PointerTo(t)
	if p.Implements(unmarshalerType) || p.Implements(textType) {
		c.want(n, yaml.ScalarNode, path)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		c.mapping(n, path, func(key string) (reflect.Type, bool) { return fieldOf(t, key) })
	case reflect.Map:
		c.mapping(n, path, func(string) (reflect.Type, bool) { return t.Elem(), true })
	case reflect.Slice:
		if c.want(n, yaml.SequenceNode, path) {
			for i, item := range n.Content {
				c.node(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i))
			}
		}
	default:
		if c.want(n, yaml.ScalarNode, path) && t == durationType {
			c.duration(n, path)
		}
	}
}

// mapping checks the keys of a mapping, for which fieldType gives the types.
func (c *checker) mapping(n *yaml.Node, path string, fieldType func(key string) (reflect.Type, bool)) {
	if !c.want(n, yaml.MappingNode, path) {
		return
	}
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.ShortTag() == "!!merge" {
			c.file.fail(key.Line, "merge keys are not supported: write the values out")
			continue
		}
		if key.Kind != yaml.ScalarNode {
			c.file.fail(key.Line, "a key is not a word")
			continue
		}
		if line, ok := seen[key.Value]; ok {
			c.file.fail(key.Line, "%q is there already, on line %d", dotted(path, key.Value), line)
			continue
		}
		seen[key.Value] = key.Line
		if t, ok := fieldType(key.Value); ok {
			c.node(value, t, dotted(path, key.Value))
		} else {
			c.unknown(key, dotted(path, key.Value))
		}
	}
}

func (c *checker) unknown(key *yaml.Node, path string) {
	for p := path; p != ""; p, _ = cutLast(p) {
		if hint, ok := c.hints[p]; ok {
			c.file.fail(key.Line, "%s", hint)
			return
		}
	}
	c.file.fail(key.Line, "unknown key %q", path)
}

func (c *checker) want(n *yaml.Node, kind yaml.Kind, path string) bool {
	if n.Kind == kind {
		return true
	}
	if hint, ok := c.hints[path]; ok {
		c.file.fail(n.Line, "%s", hint)
		return false
	}
	words := map[yaml.Kind]string{yaml.ScalarNode: "a single value", yaml.SequenceNode: "a list", yaml.MappingNode: "a section of keys and values"}
	c.file.fail(n.Line, "%q is %s, not %s", path, words[n.Kind], words[kind])
	return false
}

// duration takes 0 without a unit, and says what a number without one lacks.
func (c *checker) duration(n *yaml.Node, path string) {
	if n.Value == "0" {
		n.SetString("0s")
		return
	}
	if _, err := time.ParseDuration(n.Value); err != nil {
		c.file.fail(n.Line, "%q is no duration, such as 500ms, 5s or 720h", path)
	}
}

// fieldOf returns the type of the field that a key is decoded into.
func fieldOf(t reflect.Type, key string) (reflect.Type, bool) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if slices.Contains(strings.Split(options, ","), "inline") {
			if inner, ok := fieldOf(f.Type, key); ok {
				return inner, true
			}
			continue
		}
		if f.IsExported() && name != "-" && name == key {
			return f.Type, true
		}
	}
	return nil, false
}

func dotted(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func cutLast(path string) (before, last string) {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}

var unmarshalError = regexp.MustCompile(`^cannot unmarshal (?s:.*) into (\S+)$`)

// typeErrors reports the values that yaml.v3 could not convert. Its texts quote
// them, ours do not: a value can be a secret in the wrong place.
func (y *yamlFile) typeErrors(err error) {
	te, ok := err.(*yaml.TypeError)
	if !ok {
		y.syntax(err)
		return
	}
	for _, text := range te.Errors {
		m := yamlLine.FindStringSubmatch(strings.ReplaceAll(text, "\n", " "))
		if m == nil {
			y.fail(0, "%s", text)
			continue
		}
		line := 0
		fmt.Sscan(m[1], &line)
		if u := unmarshalError.FindStringSubmatch(m[2]); u != nil {
			y.fail(line, "the value is no %s", plainType(u[1]))
		} else {
			y.fail(line, "%s", m[2])
		}
	}
}

func plainType(t string) string {
	switch {
	case strings.HasPrefix(t, "int"):
		return "whole number"
	case strings.HasPrefix(t, "uint"):
		return "whole number from 0"
	case t == "bool":
		return "true or false"
	}
	return t
}

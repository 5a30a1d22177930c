package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// maxConfigFile bounds the configuration file, in bytes.
const maxConfigFile = 1 << 20

// A yamlFile is a configuration file and what is wrong with it. All problems are
// collected, so that they can be mended in one go.
type yamlFile struct {
	name     string
	root     *yaml.Node // the mapping at the top; nil if the file cannot be parsed at all
	problems []problem
}

type problem struct {
	Line int    `json:"line,omitempty"` // 0: of the whole file
	Text string `json:"text"`
}

// readYAML reads and parses a file of one YAML document.
func readYAML(name string) (*yamlFile, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if info.IsDir() {
		return nil, fmt.Errorf("%s is a directory", name)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	if err != nil {
		return nil, err
	}
	return parseYAML(filepath.Base(name), text), nil
}

func parseYAML(name string, text []byte) *yamlFile {
	y := &yamlFile{name: name}
	if len(text) > maxConfigFile {
		y.fail(0, "has more than %d bytes", maxConfigFile)
		return y
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	err := d.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF):
		y.fail(0, "is empty")
	case err != nil:
		y.syntax(err)
	case doc.Content[0].Kind != yaml.MappingNode:
		y.fail(doc.Content[0].Line, "is not a mapping of sections")
	default:
		y.root = doc.Content[0]
	}
	if y.root == nil {
		return y
	}
	if err := d.Decode(&second); err == nil {
		y.fail(second.Line, "a second document begins here; one file is one configuration")
	} else if !errors.Is(err, io.EOF) {
		y.syntax(err)
	}
	return y
}

func (y *yamlFile) fail(line int, format string, args ...any) {
	p := problem{line, fmt.Sprintf(format, args...)}
	if !slices.Contains(y.problems, p) {
		y.problems = append(y.problems, p)
	}
}

// failAt reports a problem with the value at path.
func (y *yamlFile) failAt(path []any, format string, args ...any) {
	y.fail(y.line(path...), format, args...)
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)

// syntax reports an error of the parser, which names the line in its text.
func (y *yamlFile) syntax(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		line, _ := strconv.Atoi(m[1]) // digits
		y.fail(line, "%s", m[2])
		return
	}
	y.fail(0, "%s", text)
}

// err returns all problems, in the order of their lines, or nil.
func (y *yamlFile) err() error {
	if len(y.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(y.problems, func(a, b problem) int { return a.Line - b.Line })
	lines := make([]string, len(y.problems))
	for i, p := range y.problems {
		lines[i] = fmt.Sprintf("%s: %s", y.name, p.Text)
		if p.Line > 0 {
			lines[i] = fmt.Sprintf("%s:%d: %s", y.name, p.Line, p.Text)
		}
	}
	return errors.New(strings.Join(lines, "\n"))
}

// find returns the node at a path of mapping keys and sequence indexes, or nil.
func (y *yamlFile) find(path ...any) *yaml.Node {
	n := y.root
	for _, step := range path {
		if n = child(n, step); n == nil {
			return nil
		}
	}
	return n
}

// line returns the line of the value at path, or of as much of the path as the
// file has.
func (y *yamlFile) line(path ...any) int {
	n, line := y.root, 0
	for _, step := range path {
		if n = child(n, step); n == nil {
			break
		}
		line = n.Line
	}
	return line
}

func child(n *yaml.Node, step any) *yaml.Node {
	n = target(n)
	if n == nil {
		return nil
	}
	switch step := step.(type) {
	case string:
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				return n.Content[i+1]
			}
		}
	case int:
		if n.Kind == yaml.SequenceNode && step < len(n.Content) {
			return n.Content[step]
		}
	}
	return nil
}

// target returns the node that an alias stands for.
func target(n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// keys returns the keys of the mapping at path.
func (y *yamlFile) keys(path ...any) []string {
	n := target(y.find(path...))
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	var keys []string
	for i := 0; i < len(n.Content); i += 2 {
		keys = append(keys, n.Content[i].Value)
	}
	return keys
}

package main

import (
	"os"
	"regexp"

	"gopkg.in/yaml.v3"
)

var envReference = regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*)\}$`)

// expand replaces each value that is exactly ${NAME} by the environment
// variable, as KES does: keys are left alone, and so are the paths of policies.
func (y *yamlFile) expand() {
	if y.root == nil {
		return
	}
	for i := 0; i+1 < len(y.root.Content); i += 2 {
		name, value := y.root.Content[i].Value, y.root.Content[i+1]
		y.expandNode(value, name == "policy")
	}
}

// expandNode does not follow aliases: what they stand for is a node elsewhere.
func (y *yamlFile) expandNode(n *yaml.Node, inPolicy bool) {
	switch n.Kind {
	case yaml.ScalarNode:
		y.expandScalar(n)
	case yaml.SequenceNode:
		for _, item := range n.Content {
			y.expandNode(item, inPolicy)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i].Value, n.Content[i+1]
			if inPolicy && (key == "allow" || key == "deny") && value.Kind == yaml.SequenceNode {
				continue
			}
			y.expandNode(value, inPolicy)
		}
	}
}

func (y *yamlFile) expandScalar(n *yaml.Node) {
	m := envReference.FindStringSubmatch(n.Value)
	if m == nil {
		return
	}
	value, ok := os.LookupEnv(m[1])
	if !ok {
		y.fail(n.Line, "the environment variable %s is not set", m[1])
		value = ""
	}
	n.SetString(value)
	n.Tag, n.Style = "", 0 // so that "5" can be a number
}

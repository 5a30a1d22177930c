package main

import (
	"errors"
	"strings"
)

var errLabels = errors.New("malformed labels")

// parseLabels reads name="value",... up to the closing brace and returns what
// follows it.
func parseLabels(s string) (labels map[string]string, rest string, err error) {
	labels = map[string]string{}
	for {
		s = strings.TrimLeft(s, ", ")
		if after, ok := strings.CutPrefix(s, "}"); ok {
			return labels, after, nil
		}
		name, after, ok := strings.Cut(s, `="`)
		if !ok || name == "" {
			return nil, "", errLabels
		}
		var value string
		if value, s, ok = quoted(after); !ok {
			return nil, "", errLabels
		}
		labels[name] = value
	}
}

// quoted reads a value up to its closing quote. It may hold \\, \" and \n.
func quoted(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			i++
			if i == len(s) {
				return "", "", false
			}
			if s[i] == 'n' {
				b.WriteByte('\n')
			} else {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", false
}

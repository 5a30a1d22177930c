package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// An alternative is a driver's section that the example shows in comments, as
//
//	# name:
//	#   # What the key is.
//	#   key: value
type alternative struct {
	section, name string
	text          string // of the section, uncommented, with nothing else in it
}

var (
	sectionLine     = regexp.MustCompile(`^([a-z]+):$`)
	alternativeLine = regexp.MustCompile(`^  # ([a-z0-9]+):$`)
)

// alternatives returns those of the example.
func alternatives(example string) []alternative {
	var all []alternative
	section, inside := "", false
	for line := range strings.Lines(example) {
		line = strings.TrimSuffix(line, "\n")
		if m := sectionLine.FindStringSubmatch(line); m != nil {
			section = m[1]
		}
		if m := alternativeLine.FindStringSubmatch(line); m != nil {
			all, inside = append(all, alternative{section, m[1], section + ":\n"}), true
		} else {
			inside = inside && strings.HasPrefix(line, "  #   ")
		}
		if inside {
			a := &all[len(all)-1]
			a.text += "  " + strings.TrimPrefix(line, "  # ") + "\n"
		}
	}
	return all
}

// Each alternative that the example shows is accepted in the place of the one
// that it uses.
func TestExampleAlternativesAreConfigurations(t *testing.T) {
	text, err := os.ReadFile("../../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	serverFiles(t)
	all := alternatives(string(text))
	if len(all) == 0 {
		t.Fatal("the example shows no alternatives: the search is broken")
	}
	for _, a := range all {
		t.Run(a.section+"."+a.name, func(t *testing.T) {
			var file strings.Builder
			for line := range strings.Lines(base) {
				if !strings.HasPrefix(line, a.section+":") {
					file.WriteString(line)
				}
			}
			if _, err := parse(file.String() + a.text); err != nil {
				t.Errorf("%v\n%s", err, a.text)
			}
		})
	}
}

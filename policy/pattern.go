package policy

import (
	"slices"
	"strings"

	"github.com/keygate/keygate/keystore"
)

// A pattern is a URL path, or, with open set, the beginning of one.
type pattern struct {
	stem string
	open bool
}

// parsePattern returns why s is not a pattern, or "".
func parsePattern(s string) (p pattern, reason string) {
	p.stem, p.open = strings.CutSuffix(s, "*")
	switch {
	case s == "":
		return p, "is empty"
	case strings.Contains(p.stem, "*"):
		return p, `has a "*" that is not at the end`
	case p.stem != "" && p.stem[0] != '/':
		return p, `does not start with "/"`
	}
	return p, ""
}

// A rule is what a pattern means for one action: a name, or, with open set, the
// beginning of names. For a plain action it is the empty name.
type rule struct {
	name string
	open bool
}

// covers reports whether r applies to all that other applies to.
func (r rule) covers(other rule) bool {
	if r.open {
		return strings.HasPrefix(other.name, r.name)
	}
	return r == other
}

// on returns what the pattern means for a, and whether it is about a's path at
// all. It may be about the path and still match no request: valid tells.
func (p pattern) on(a Action) (r rule, ok bool) {
	path := a.Path()
	if p.open && strings.HasPrefix(path, p.stem) {
		return rule{open: a.Lists() || a.TakesName()}, true
	}
	if actions[a].kind == plain {
		// Plain paths are served with a slash behind them, too.
		return rule{}, p.stem == path || p.stem == path+"/"
	}
	if p.stem+"/" == path {
		return rule{open: p.open}, true
	}
	name, ok := strings.CutPrefix(p.stem, path)
	return rule{name: name, open: p.open}, ok
}

// valid reports whether a request for a exists to which r applies.
func (r rule) valid(a Action) bool {
	switch {
	case actions[a].kind == plain:
		return r == rule{}
	case a.Lists() || r.open:
		return keystore.ValidPrefix(r.name)
	}
	return keystore.ValidName(r.name)
}

// A matcher holds the rules of one action. Its cost is one look-up for the
// exact name and one for each length that a prefix has, however many rules
// there are.
type matcher struct {
	exact   map[string]struct{}
	open    map[string]struct{}
	lengths []int // of the prefixes in open, ascending
}

func (m *matcher) add(r rule) {
	set := &m.exact
	if r.open {
		set = &m.open
		if i, found := slices.BinarySearch(m.lengths, len(r.name)); !found {
			m.lengths = slices.Insert(m.lengths, i, len(r.name))
		}
	}
	if *set == nil {
		*set = make(map[string]struct{})
	}
	(*set)[r.name] = struct{}{}
}

func (m *matcher) match(name string) bool {
	if _, ok := m.exact[name]; ok {
		return true
	}
	for _, n := range m.lengths {
		if n > len(name) {
			return false
		}
		if _, ok := m.open[name[:n]]; ok {
			return true
		}
	}
	return false
}

package policy

import "strings"

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
	if p.stem+"/" == path { // not open, or it would begin the path
		return rule{}, true
	}
	name, ok := strings.CutPrefix(p.stem, path)
	return rule{name: name, open: p.open}, ok
}

// valid reports whether a request for a exists to which r applies.
func (r rule) valid(a Action) bool {
	switch {
	case actions[a].kind == plain:
		return r == rule{}
	case a.Lists() || r.open && len(r.name) < maxName:
		return validPrefix(r.name)
	}
	return validName(r.name)
}

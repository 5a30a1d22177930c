package policy

import "slices"

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

// match reports whether a rule applies to name.
func (m *matcher) match(name string) bool {
	if _, ok := m.exact[name]; ok {
		return true
	}
	return m.matchOpen(name)
}

// covers reports whether one of the rules applies to all that r applies to.
func (m *matcher) covers(r rule) bool {
	if r.open {
		return m.matchOpen(r.name)
	}
	return m.match(r.name)
}

// matchOpen reports whether name begins as one of the open rules.
func (m *matcher) matchOpen(name string) bool {
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

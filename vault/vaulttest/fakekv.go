package vaulttest

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A secret is one path of KV version 2; its first version has number 1.
type secret struct{ versions []kvVersion }

type kvVersion struct {
	data               any
	created            string
	deleted, destroyed bool
}

func (v kvVersion) metadata(number int) map[string]any {
	deletion := ""
	if v.deleted {
		deletion = v.created
	}
	return map[string]any{"version": number, "created_time": v.created, "deletion_time": deletion, "destroyed": v.destroyed}
}

// SetKVConfig replaces a setting of the KV engine.
func (f *Fake) SetKVConfig(name string, value any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kvConfig[name] = value
}

func (f *Fake) kvRoute(r *http.Request, path string, body map[string]any) reply {
	verb, name, _ := strings.Cut(path, "/")
	s := f.secrets[name]
	switch {
	case verb == "config":
		return ok(f.kvConfig)
	case verb == "metadata" && r.URL.Query().Get("list") == "true":
		return f.kvList(strings.TrimSuffix(name, "/") + "/")
	case verb == "data" && r.Method != http.MethodGet && r.Method != http.MethodDelete:
		return f.kvWrite(name, body)
	case s == nil && r.Method == http.MethodDelete:
		return reply{status: http.StatusNoContent}
	case s == nil:
		return bad(http.StatusNotFound)
	case verb == "data" && r.Method == http.MethodGet:
		return s.read()
	case verb == "data":
		s.versions[len(s.versions)-1].deleted = true
	case verb == "metadata" && r.Method == http.MethodGet:
		versions := map[string]any{}
		for i, v := range s.versions {
			versions[strconv.Itoa(i+1)] = v.metadata(i + 1)
		}
		return ok(map[string]any{"versions": versions, "current_version": len(s.versions)})
	case verb == "metadata":
		delete(f.secrets, name)
	case verb == "destroy":
		for _, number := range body["versions"].([]any) {
			v := &s.versions[int(number.(float64))-1]
			v.data, v.destroyed = nil, true
		}
	default:
		return bad(http.StatusNotFound, "no handler for route")
	}
	return reply{status: http.StatusNoContent}
}

func (s *secret) read() reply {
	number := len(s.versions)
	v := s.versions[number-1]
	if v.deleted || v.destroyed {
		return reply{http.StatusNotFound, map[string]any{"data": map[string]any{"data": nil, "metadata": v.metadata(number)}}}
	}
	return ok(map[string]any{"data": v.data, "metadata": v.metadata(number)})
}

func (f *Fake) kvWrite(name string, body map[string]any) reply {
	s := f.secrets[name]
	if s == nil {
		s = &secret{}
	}
	options, _ := body["options"].(map[string]any)
	if cas, given := options["cas"].(float64); given && int(cas) != len(s.versions) {
		return bad(http.StatusBadRequest, "check-and-set parameter did not match the current version")
	}
	s.versions = append(s.versions, kvVersion{data: body["data"], created: time.Now().UTC().Format(time.RFC3339Nano)})
	f.secrets[name] = s
	number := len(s.versions)
	return ok(s.versions[number-1].metadata(number))
}

func (f *Fake) kvList(prefix string) reply {
	var names []string
	for name := range f.secrets {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			first, _, deeper := strings.Cut(rest, "/")
			if deeper {
				first += "/"
			}
			names = append(names, first)
		}
	}
	if names == nil {
		return bad(http.StatusNotFound)
	}
	slices.Sort(names)
	return ok(map[string]any{"keys": slices.Compact(names)})
}

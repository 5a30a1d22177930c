package vaulttest

import (
	"net/http"
	"strings"
)

// A Broken is an answer to every request below an engine, that no driver may
// take for more than it is.
type Broken struct {
	Name   string
	Answer func(w http.ResponseWriter)
	Denied bool // it is a refusal; all else is unavailable
}

// AllBroken returns what a server, and what is before it, can answer. Each driver
// tries all of its calls with each.
func AllBroken() []Broken {
	answer := func(status int, body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { Answer(w, status, body) }
	}
	return []Broken{
		{"denied", answer(403, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`), true},
		{"403 of a proxy", answer(403, `<html>forbidden</html>`), false},
		{"sealed", answer(503, `{"errors":["Vault is sealed"]}`), false},
		{"throttled", answer(429, `{"errors":["request path: rate limit quota exceeded"]}`), false},
		{"standby", answer(473, `{}`), false},
		{"precondition", answer(412, `{"errors":["required index state not present"]}`), false},
		{"failing", answer(500, `{"errors":["internal error"]}`), false},
		{"400 of a proxy", answer(400, `<html>bad request</html>`), false},
		{"404 of a proxy", answer(404, `not found`), false},
		{"no such mount", answer(404, `{"errors":["no handler for route \"x\". route entry not found."]}`), false},
		{"nothing at any path", answer(404, `{"errors":[]}`), false},
		{"everything is wrong", answer(400, `{"errors":["no"]}`), false},
		{"cut", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, false},
		{"another page", answer(200, `<html>welcome</html>`), false},
	}
}

// Break has every request below the engine answered with b.
func (f *Fake) Break(engine string, b Broken) {
	f.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/v1/"+engine+"/") {
			return false
		}
		b.Answer(w)
		return true
	})
}

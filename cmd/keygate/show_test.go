package main

import (
	"reflect"
	"testing"
	"time"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":                  "",
		"/v1/key/create/k1": "/v1/key/create/k1",
		"naïve – ключ":      "naïve – ключ",
		`"quoted" \`:        `"quoted" \`,
		"a\nb":              `a\nb`,
		"\x1b[2J":           `\x1b[2J`,
		"\u202Eevil":        `\u202eevil`,
		"\x9b\xff":          `\x9b\xff`,
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) is %q, want %q", in, got, want)
		}
	}
}

func TestSplitPath(t *testing.T) {
	for path, want := range map[string][2]string{
		"/v1/key/generate/app-1":     {"key:generate", "app-1"},
		"/v1/key/generate/":          {"key:generate", ""},
		"/v1/key/list":               {"key:list", ""},
		"/v1/key/list/app-*":         {"key:list", "app-*"},
		"/v1/identity/self/describe": {"identity:self", ""},
		"/v1/status":                 {"status", ""},
		"/v1/statusx":                {"", "/v1/statusx"},
		"/v1/key/nonsense/app-1":     {"", "/v1/key/nonsense/app-1"},
		"":                           {"", ""},
	} {
		operation, name := splitPath(path)
		if operation != want[0] || name != want[1] {
			t.Errorf("splitPath(%q) is %q, %q, want %q", path, operation, name, want)
		}
	}
}

func TestRoundDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                             "0s",
		12345 * time.Nanosecond:       "12.3µs",
		1234567 * time.Nanosecond:     "1.23ms",
		987654321 * time.Nanosecond:   "987.65ms",
		12345678901 * time.Nanosecond: "12.35s",
	} {
		if got := roundDuration(d); got != want {
			t.Errorf("roundDuration(%d) is %s, want %s", d, got, want)
		}
	}
}

func TestParseMetrics(t *testing.T) {
	got, err := parseMetrics([]byte(`# HELP a_total Text.
# TYPE a_total counter
a_total 12
b{code="200",path="a\"b\\c\nd,}"} 1.5e-05
b{} 3 1700000000000
h_bucket{le="+Inf"} 7

nan NaN
inf +Inf
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []sample{
		{Name: "a_total", Value: "12"},
		{Name: "b", Labels: map[string]string{"code": "200", "path": "a\"b\\c\nd,}"}, Value: "1.5e-05", labels: `{code="200",path="a\"b\\c\nd,}"}`},
		{Name: "b", Labels: map[string]string{}, Value: "3", labels: "{}"},
		{Name: "h_bucket", Labels: map[string]string{"le": "+Inf"}, Value: "7", labels: `{le="+Inf"}`},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("samples\n%+v, want\n%+v", got, want)
	}
	for _, bad := range []string{"a", "a ", "{} 1", `a{b="c} 1`, `a{b} 1`, `a{b="c"`, `a{="c"} 1`, `a{b="c\`, `a{b="c"}`} {
		if got, err := parseMetrics([]byte(bad)); err == nil {
			t.Errorf("parseMetrics(%q) is %v and no error", bad, got)
		}
	}
}

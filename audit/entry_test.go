package audit_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/keygate/keygate/audit"
)

// hostile is what a client can put into names, paths and certificates.
var hostile = []string{
	"", "app-1", "a\nb", "a\r\n{\"time\":\"", "\x1b[2J\x1b]0;owned\a", `"}`, `\`, "\x00", "\x7f", "\xff\xfe", "\xc3", "a\u2028b",
	"\u202emoc.live", "\u009b31m", "\ufeff", "\U000e0041", "grün", "鍵", "🔑", "<script>&",
}

func TestAU07EachRecordIsOneValidLine(t *testing.T) {
	for _, s := range hostile {
		checkLine(t, s, s)
	}
}

func FuzzAU07Entry(f *testing.F) {
	for i, s := range hostile {
		f.Add(s, hostile[(i+7)%len(hostile)])
	}
	f.Fuzz(func(t *testing.T, a, b string) { checkLine(t, a, b) })
}

func checkLine(t *testing.T, a, b string) {
	t.Helper()
	e := audit.Entry{
		Time: time.Unix(0, 1), RequestID: a, Identity: b, Source: a, Operation: b, Path: a, Policy: b, Key: a, Mode: b,
		Outcome: audit.Outcome(a), Error: b, Status: -1, Duration: -time.Hour, Version: 1 << 31, KeyID: [16]byte{15: 1},
	}
	text := e.AppendJSON(nil)
	if !utf8.Valid(text) {
		t.Fatalf("not UTF-8: %q", text)
	}
	for _, r := range string(text) {
		if !unicode.IsPrint(r) {
			t.Fatalf("%U in %q", r, text)
		}
	}
	var got line
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	wantA, wantB := decoded(a), decoded(b)
	if got.RequestID != wantA || got.Source != wantA || got.Path != wantA || got.Key != wantA || got.Outcome != wantA {
		t.Errorf("%q became %+v", a, got)
	}
	if got.Identity != wantB || got.Operation != wantB || got.Policy != wantB || got.Mode != wantB || got.Error != wantB {
		t.Errorf("%q became %+v", b, got)
	}
}

// decoded is s with each byte that is no UTF-8 replaced, as any decoder sees it.
func decoded(s string) string {
	var b strings.Builder
	for _, r := range s {
		b.WriteRune(r)
	}
	return b.String()
}

func TestEntryOfAStrangerHasNoEmptyNames(t *testing.T) {
	e := audit.Entry{Time: time.Unix(1700000000, 0), RequestID: "r1", Source: "192.0.2.1:1", Operation: "generate", Outcome: audit.Denied, Status: 403}
	const want = `{"time":"2023-11-14T22:13:20.000000000Z","request_id":"r1","identity":"","source":"192.0.2.1:1","operation":"generate",` +
		`"outcome":"denied","status":403,"duration_us":0}`
	if got := string(e.AppendJSON(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAppendJSONAllocatesNothing(t *testing.T) {
	e, buf := entry(1), make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { buf = e.AppendJSON(buf[:0]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTimesAreThoseOfPackageTime(t *testing.T) {
	east := time.FixedZone("east", 3600)
	for _, at := range []time.Time{
		time.Unix(1700000000, 0), time.Unix(1700000000, 1), time.Unix(1700000000, 999999999), time.Unix(1700000001, 100),
		time.Unix(1700000000, 123456789).In(east), {}, time.Unix(-1, 5), time.Unix(253402300799, 0), time.Unix(0, 0),
	} {
		e := audit.Entry{Time: at}
		want := `{"time":"` + at.UTC().Format("2006-01-02T15:04:05.000000000Z07:00") + `"`
		if got := e.AppendJSON(nil); !strings.HasPrefix(string(got), want) {
			t.Errorf("%v: %s, not %s", at, got, want)
		}
	}
}

//go:build !race

package gateway_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/keygate/keygate/envelope"
)

// updateAllocs has TestAllocations write what it has measured:
//
//	make allocs
var updateAllocs = flag.Bool("update-allocs", false, "write testdata/allocs.json anew")

// An allocation is what one request costs the heap, on average: all that the
// process does, the little of the client's side of TLS included.
type allocation struct {
	Allocs float64 `json:"allocs"`
	Bytes  float64 `json:"bytes"`
}

// allocGrowth is how much more than what testdata/allocs.json says fails.
const allocGrowth = 1.10

// What a request costs may not grow unseen. A figure that shrank is written down
// with -update-allocs, so that it stays there.
func TestAllocations(t *testing.T) {
	file := filepath.Join("testdata", "allocs.json")
	got := map[string]allocation{}
	for _, mode := range []envelope.Mode{envelope.Branch, envelope.Direct} {
		w := newWorld(t, func(w *world) { w.mode = mode })
		c := w.client(w.admin)
		c.get(http.MethodPost, "/v1/key/create/app-1", "", nil)
		var dek struct{ Ciphertext string }
		const bound = `{"context":"YnVja2V0LTEvc29tZS9vYmplY3Q="}`
		c.get(http.MethodPost, "/v1/key/generate/app-1", bound, &dek)
		got[mode.String()+" generate"] = measureAllocs(t, w, "/v1/key/generate/app-1", bound)
		got[mode.String()+" decrypt"] = measureAllocs(t, w, "/v1/key/decrypt/app-1",
			fmt.Sprintf(`{"ciphertext":%q,"context":"YnVja2V0LTEvc29tZS9vYmplY3Q="}`, dek.Ciphertext))
	}
	if *updateAllocs {
		b, err := json.MarshalIndent(got, "", "\t")
		ok(t, err)
		ok(t, os.WriteFile(file, append(b, '\n'), 0o644))
		return
	}
	b, err := os.ReadFile(file)
	ok(t, err)
	var want map[string]allocation
	ok(t, json.Unmarshal(b, &want))
	if len(want) != len(got) {
		t.Errorf("%s has %d figures, not %d", file, len(want), len(got))
	}
	for name, is := range got {
		was := want[name]
		t.Logf("%s: %.1f allocations, %.0f bytes", name, is.Allocs, is.Bytes)
		if is.Allocs > was.Allocs*allocGrowth || is.Bytes > was.Bytes*allocGrowth {
			t.Errorf("%s: %.1f allocations and %.0f bytes; %s says %.1f and %.0f", name, is.Allocs, is.Bytes, file, was.Allocs, was.Bytes)
		}
	}
}

// measureAllocs makes the same request again and again on one connection of
// HTTP/1.1 over TLS.
func measureAllocs(t *testing.T, w *world, path, body string) (least allocation) {
	t.Helper()
	conn := w.dial(w.app)
	request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	in := bufio.NewReaderSize(conn, 8192)
	run := func(n int) {
		for range n {
			if _, err := conn.Write(request); err != nil {
				t.Fatal(err)
			}
			skipAnswer(t, in)
		}
	}
	const warm, counted, rounds = 300, 1000, 3
	run(warm)
	for range rounds { // the least, since what else the process does only adds
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		run(counted)
		runtime.ReadMemStats(&after)
		a := allocation{
			Allocs: math.Round(10*float64(after.Mallocs-before.Mallocs)/counted) / 10,
			Bytes:  math.Round(float64(after.TotalAlloc-before.TotalAlloc) / counted),
		}
		if least.Allocs == 0 || a.Allocs < least.Allocs {
			least.Allocs = a.Allocs
		}
		if least.Bytes == 0 || a.Bytes < least.Bytes {
			least.Bytes = a.Bytes
		}
	}
	return least
}

// skipAnswer reads an answer of status 200 and allocates next to nothing.
func skipAnswer(t *testing.T, in *bufio.Reader) {
	t.Helper()
	status, err := in.ReadSlice('\n')
	ok(t, err)
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		t.Fatalf("answered %q", status)
	}
	length := 0
	for {
		line, err := in.ReadSlice('\n')
		ok(t, err)
		if len(line) == len("\r\n") {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(": ")); bytes.EqualFold(name, []byte("Content-Length")) {
			length, err = strconv.Atoi(string(bytes.TrimSpace(value)))
			ok(t, err)
		}
	}
	if n, err := in.Discard(length); err != nil || n == 0 {
		t.Fatalf("a body of %d bytes: %v", n, err)
	}
}

package matrix_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The times that the gateways of these tests have, and those that they must keep.
const (
	recordLife = 300 * time.Millisecond // cache.expiry, of key records
	branchLife = 2 * time.Second        // branch.lifetime and branch.opened_lifetime
	window     = 4 * time.Second        // branch.outage
	// callTime is more than a call of a driver takes that is given a second, with
	// the request around it.
	callTime   = 1500 * time.Millisecond
	answerTime = 6 * time.Second // of a request that finds root or store out
	seenTime   = 3 * time.Second // until ready tells of an outage, and of its end
	slack      = 750 * time.Millisecond
)

const short = `cache: {expiry: 300ms, watched: 300ms}
branch: {lifetime: 2s, opened_lifetime: 2s, outage: 4s}
`

// columns are what is found out of each fault.
var columns = []string{"answer", "audit", "metrics", "not ready after", "data keys from memory until", "ready again after"}

// TestFaults breaks a root or a store under a gateway that is in use, and mends it.
func TestFaults(t *testing.T) {
	all := faults()
	var rows []string
	for _, f := range all {
		rows = append(rows, f.name)
	}
	table := newTable("fault", rows, columns)
	t.Run("faults", func(t *testing.T) {
		for _, f := range all {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				// Skipped, unless something else is found.
				table.set(f.name, columns[0], "skipped")
				suffer(t, f, func(column, text string) { table.set(f.name, column, text) })
			})
		}
	})
	t.Logf("\n%s", table)
	if *tablesFile != "" && !t.Failed() {
		if err := appendFile(*tablesFile, faultsPage(table)); err != nil {
			t.Error(err)
		}
	}
}

func appendFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func suffer(t *testing.T, f fault, found func(column, text string)) {
	root, store, broken := f.make(t)
	found(columns[0], "FAILED")
	n := newNode(t, root, store, "1s", short)
	n.start()
	o := &outage{node: n, fault: f, texts: map[string]int{}, sent: map[string]int{}}
	o.prepare()
	o.before, o.failures = n.figures(), failures(n.audit())
	broken(true)
	o.begun = time.Now()
	o.during()
	during := n.figures()
	broken(false)
	mended := time.Now()
	again := o.mended(mended)
	if n.ended() {
		t.Fatalf("the gateway has ended: %s", n.log())
	}
	found(columns[2], o.counted(during, n.figures()))
	found(columns[1], o.audited())
	n.hides()
	n.stop()
	found(columns[3], seconds(o.notReady))
	found(columns[4], seconds(o.lastGood))
	found(columns[5], seconds(again))
	if !t.Failed() {
		found(columns[0], o.answers())
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// An outage is a gateway while its root or its store fails.
type outage struct {
	*node
	fault
	direct, branch string // bodies of decrypt: ciphertexts of before
	before         figures
	failures       int // in the audit log before
	begun          time.Time

	mu    sync.Mutex
	texts map[string]int // answers that were 503, by text
	sent  map[string]int // and by operation
	ids   []string       // and their request ids

	notReady time.Duration // when ready first was not, since begun
	lastGood time.Duration // when the last request was answered that was served from memory
}

// figures are values of metrics by series.
type figures map[string]float64

const (
	rootErrors  = "keygate_root_errors_total"
	storeErrors = "keygate_store_errors_total"
	outageNow   = "keygate_root_outage_seconds"
	outageUses  = "keygate_branch_outage_uses_total"
)

// operations are those that are sent while something is out.
var operations = []string{"key:create", "key:generate", "key:decrypt", "key:encrypt", "key:describe"}

func unavailable(operation string) string {
	return fmt.Sprintf(`keygate_requests_total{operation=%q,outcome="unavailable"}`, operation)
}

func (n *node) figures() figures {
	n.t.Helper()
	f := make(figures)
	for _, series := range []string{rootErrors, storeErrors, outageNow, outageUses} {
		f[series] = n.metric(series)
	}
	for _, operation := range operations {
		f[unavailable(operation)] = n.metric(unavailable(operation))
	}
	return f
}

// prepare makes a key in each mode, with a ciphertext, and looks whether all is well.
// Where many programs share a machine a second may be too little for a create.
func (o *outage) prepare() {
	o.t.Helper()
	for _, mode := range []string{"direct", "branch"} {
		for range 5 {
			if a := o.send("PUT", "/v1/key/create/"+mode, `{"mode":"`+mode+`"}`); a.status != 503 {
				break
			}
		}
	}
	o.direct, o.branch = o.seal("direct"), o.seal("branch")
	o.good("GET", "/v1/ready", "")
}

// seal makes a data key and returns the body that decrypts it.
func (o *outage) seal(key string) string {
	o.t.Helper()
	var made struct{ Plaintext, Ciphertext string }
	if err := json.Unmarshal([]byte(o.good("PUT", "/v1/key/generate/"+key, `{"context":"Yw=="}`).body), &made); err != nil {
		o.t.Fatal(err)
	}
	if made.Plaintext == "" {
		o.t.Fatal("there is no data key")
	}
	return fmt.Sprintf(`{"ciphertext":%q,"context":"Yw=="}`, made.Ciphertext)
}

func (o *outage) good(method, path, body string) answer {
	o.t.Helper()
	a := o.send(method, path, body)
	if a.status != 200 {
		o.t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
	}
	return a
}

// request sends a request that may find root or store out, and reports whether it
// was served. Anything but 200 and a proper 503 is an error.
func (o *outage) request(operation, method, path, body string) bool {
	a := o.send(method, path, body)
	if a.status == 200 {
		return true
	}
	var said struct{ Message string }
	if err := json.Unmarshal([]byte(a.body), &said); err != nil || a.status != 503 {
		o.t.Errorf("%s: %d %q", path, a.status, a.body)
		return false
	}
	if after, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || after < 1 {
		o.t.Errorf("%s: Retry-After is %q", path, a.header.Get("Retry-After"))
	}
	if a.took > answerTime {
		o.t.Errorf("%s: the answer took %v", path, a.took)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.texts[said.Message]++
	o.sent[operation]++
	o.ids = append(o.ids, a.header.Get("X-Request-Id"))
	return false
}

// during sends requests until the outage has shown all that it should.
func (o *outage) during() {
	var all sync.WaitGroup
	for _, r := range []struct{ operation, method, path, body string }{
		{"key:create", "PUT", "/v1/key/create/new", ""},
		{"key:generate", "PUT", "/v1/key/generate/direct", ""},
		{"key:decrypt", "PUT", "/v1/key/decrypt/direct", o.direct},
		{"key:encrypt", "PUT", "/v1/key/encrypt/direct", `{"plaintext":"YQ=="}`},
	} {
		all.Go(func() {
			if o.store {
				time.Sleep(recordLife + slack) // no record is in memory any more
			}
			if o.request(r.operation, r.method, r.path, r.body) {
				o.t.Errorf("%s was served", r.path)
			}
		})
	}
	if o.store {
		// Whether there is such a key, nobody can know now.
		all.Go(func() {
			if o.request("key:describe", "GET", "/v1/key/describe/none", "") {
				o.t.Error("a key that does not exist was described")
			}
		})
	}
	all.Go(o.watchReady)
	o.useMemory()
	all.Wait()
}

// watchReady waits until the gateway says that it is not ready.
func (o *outage) watchReady() {
	for end := o.begun.Add(4 * seenTime); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		a := o.send("GET", "/v1/ready", "")
		if a.status == 200 {
			continue
		}
		o.notReady = time.Since(o.begun)
		part := "root of trust is "
		if o.store {
			part = "key store is "
		}
		if a.status != 502 && a.status != 504 || !strings.Contains(a.body, part) {
			o.t.Errorf("ready: %d %s", a.status, a.body)
		}
		if o.notReady > seenTime {
			o.t.Errorf("not ready %v after the fault", o.notReady)
		}
		return
	}
	o.t.Error("the gateway is ready all the time")
}

// useMemory makes and opens data keys of the key in branch mode until that ends,
// for good, and checks when it did.
func (o *outage) useMemory() {
	least, most := time.Duration(0), branchLife
	switch {
	case o.store:
		most = recordLife
	case o.outage():
		least, most = window-callTime, window+callTime
	}
	bad := 0
	for bad < 4 && time.Since(o.begun) < 4*window {
		bad++
		if o.request("key:generate", "PUT", "/v1/key/generate/branch", "") {
			o.lastGood, bad = time.Since(o.begun), 0
		}
		if o.request("key:decrypt", "PUT", "/v1/key/decrypt/branch", o.branch) {
			o.lastGood, bad = time.Since(o.begun), 0
		}
		time.Sleep(50 * time.Millisecond)
	}
	if o.lastGood < least || o.lastGood > most+slack {
		o.t.Errorf("branch keys in memory were used until %v after the fault, want %v to %v", o.lastGood, least, most+slack)
	}
	if bad < 4 {
		o.t.Error("branch keys in memory are used for ever")
	}
}

// mended waits until the gateway is ready again, checks that all works without a
// restart, and returns how long it took.
func (o *outage) mended(at time.Time) time.Duration {
	for o.send("GET", "/v1/ready", "").status != 200 {
		if time.Since(at) > 4*seenTime {
			o.t.Fatalf("the gateway is not ready %v after the repair: %s", time.Since(at), o.log())
		}
		time.Sleep(50 * time.Millisecond)
	}
	again := time.Since(at)
	if again > seenTime {
		o.t.Errorf("ready %v after the repair", again)
	}
	for _, key := range []string{"direct", "branch"} {
		o.good("PUT", "/v1/key/decrypt/"+key, o.seal(key))
	}
	o.good("PUT", "/v1/key/decrypt/direct", o.direct)
	o.good("PUT", "/v1/key/decrypt/branch", o.branch)
	o.good("PUT", "/v1/key/create/after", "")
	return again
}

// counted checks the metrics against what was sent, and says what they count.
func (o *outage) counted(during, after figures) string {
	o.t.Helper()
	for _, operation := range operations {
		series := unavailable(operation)
		if got := after[series] - o.before[series]; got != float64(o.sent[operation]) {
			o.t.Errorf("%s is %v, but %d were answered 503", series, got, o.sent[operation])
		}
	}
	counter, other := rootErrors, storeErrors
	if o.store {
		counter, other = storeErrors, rootErrors
	}
	if during[counter] <= o.before[counter] || during[other] != o.before[other] {
		o.t.Errorf("%s went from %v to %v, %s from %v to %v", counter, o.before[counter], during[counter], other, o.before[other], during[other])
	}
	if (during[outageNow] > 0) != o.outage() || (during[outageUses] > o.before[outageUses]) != o.outage() {
		o.t.Errorf("the outage has %v s and %v uses", during[outageNow], during[outageUses])
	}
	if after[outageNow] != 0 {
		o.t.Errorf("the outage goes on, for %v s", after[outageNow])
	}
	return fmt.Sprintf("%s +%v", strings.TrimSuffix(strings.TrimPrefix(counter, "keygate_"), "_total"), during[counter]-o.before[counter])
}

// audited checks that each refusal is in the audit log as one, and nothing else is.
func (o *outage) audited() string {
	o.t.Helper()
	all := o.audit()
	for _, id := range o.ids {
		if e := all[id]; e.Outcome != "unavailable" || e.Status != 503 || o.texts[e.Error] == 0 {
			o.t.Errorf("the audit entry of a 503 is %+v", e)
		}
	}
	outages := 0
	for _, e := range all {
		if e.Outage {
			outages++
		}
	}
	if n := failures(all) - o.failures; n != len(o.ids) {
		o.t.Errorf("the audit log has %d failures, but %d were answered", n, len(o.ids))
	}
	if (outages > 0) != o.outage() {
		o.t.Errorf("the audit log has %d uses of branch keys past their life", outages)
	}
	return fmt.Sprintf("unavailable x %d", len(o.ids))
}

// failures counts the operations on keys that were not done.
func failures(all map[string]entry) (n int) {
	for _, e := range all {
		if e.Outcome != "ok" && strings.HasPrefix(e.Operation, "key:") {
			n++
		}
	}
	return n
}

// answers checks the texts of the answers.
func (o *outage) answers() string {
	o.t.Helper()
	var texts []string
	for text := range o.texts {
		texts = append(texts, text)
		if text != o.text && text != "operation timed out" {
			o.t.Errorf("clients were told %q %d times, want %q", text, o.texts[text], o.text)
		}
	}
	if slices.Sort(texts); !slices.Contains(texts, o.text) {
		o.t.Errorf("clients were told %q, never %q", texts, o.text)
	}
	return "503 " + strings.Join(texts, "; ")
}

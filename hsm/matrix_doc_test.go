package hsm_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/p11shim"
	"github.com/keygate/keygate/kms"
)

var update = flag.Bool("update", false, "write docs/hsm-faults.md from what was found")

const faultsDoc = "../docs/hsm-faults.md"

// What is found in docs/hsm-faults.md between these lines was measured on one
// machine, and is written with -update only.
const measuredBegin, measuredEnd = "<!-- measured: begin -->", "<!-- measured: end -->"

// called are when functions are called, for the table.
var called = map[reach]string{
	inUse: "in use", onConnect: "connecting", onInitialize: "initialising", onClose: "initialising, after C_Finalize failed",
}

// repairs are what each class of codes has a token do.
var repairs = []struct{ class, repair string }{
	{"token", "ask on another session; if that fails too, use the link's own key, and if that fails connect anew, and if that fails initialise the module and connect once more; then the same every 50 ms to 1 s, whenever somebody asks"},
	{"session", "the same"},
	{"object", "load the key again; if that does not help, the same"},
	{"login", "connect anew at once, and log in if the token says that nobody is"},
	{"module", "connect anew at once; if that fails, initialise the module and connect once more"},
	{"PIN", "from C_Login: never try this PIN again; another one in `pin.file` is tried, once. From other functions: as token"},
	{"request", "ask the same with arguments that are known to be good. If that fails too it is the token's fault, and handled as such. If not, ask again, and if the answer is the same say so to the client: 501"},
	{"input", "open something that is known to be good. If that fails too it is the token's fault. If not, ask again, and if the answer is the same the input is bad: 400"},
	{"unclear", "as input from C_Decrypt and C_UnwrapKey, if the token gave this code, when it was connected to, to a ciphertext with a bad tag or a wrapped key that was changed; else as token"},
}

// A tableRow is codes of a function of which all comes to the same.
type tableRow struct {
	function, once, always string
	codes                  []string
}

// faultRows groups what was found.
func faultRows(all map[cell]finding) (rows []tableRow) {
	for _, f := range matrixFunctions {
		for _, code := range matrixCodes {
			r := tableRow{function: f.name, once: all[cell{f.name, code, once}].Told, always: all[cell{f.name, code, always}].Told}
			i := slices.IndexFunc(rows, func(o tableRow) bool {
				return o.function == r.function && o.once == r.once && o.always == r.always
			})
			if i < 0 {
				i = len(rows)
				rows = append(rows, r)
			}
			rows[i].codes = append(rows[i].codes, codeName(code))
		}
	}
	return rows
}

// whichOf says which of n codes a row is about.
func whichOf(codes []string, n int) string {
	switch {
	case len(codes) == n:
		return "all"
	case len(codes) > n/2:
		return "all others"
	}
	return strings.Join(codes, ", ")
}

// faultTables are the part of docs/hsm-faults.md that must not change by itself.
func faultTables(all map[cell]finding) string {
	var b strings.Builder
	b.WriteString("## What each code leads to\n\n| class | codes (CKR_) | what is done |\n|---|---|---|\n")
	for _, r := range repairs {
		var codes []string
		for _, code := range matrixCodes {
			if function := "C_Login"; hsm.ClassOf(function, code) == r.class {
				codes = append(codes, codeName(code))
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.class, strings.Join(codes, ", "), r.repair)
	}
	fmt.Fprintf(&b, "\n## Function by function\n\n%d functions, %d codes. \"served\": no client notices. \"unavailable\": 503 to requests that need the function; others are served. ",
		len(matrixFunctions), len(matrixCodes))
	b.WriteString("\"denied\": 503, and the log says that the PIN was refused. \"unsupported\": 501.\n\n")
	b.WriteString("| function | called | code | once | for ever |\n|---|---|---|---|---|\n")
	for _, r := range faultRows(all) {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.function, called[reachOf(r.function)], whichOf(r.codes, len(matrixCodes)), r.once, r.always)
	}
	return b.String()
}

// faultFigures are what was measured.
func faultFigures(all map[cell]finding, took time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d cells in %.0f s: %d functions times %d codes, once, three times and for ever, and each function hanging and slow.\n\n",
		len(all), took.Seconds(), len(matrixFunctions), len(matrixCodes))
	b.WriteString("| fault | cells | served all the time | all is served again, after the fault ended: p50 | p99 | slowest |\n|---|---|---|---|---|---|\n")
	for _, mode := range []string{once, burst, always, hang, slow} {
		var times []time.Duration
		unseen := 0
		for c, f := range all {
			if c.Mode != mode {
				continue
			}
			times = append(times, f.Recovery)
			if f.Told == served {
				unseen++
			}
		}
		slices.Sort(times)
		n := len(times)
		fmt.Fprintf(&b, "| %s | %d | %d | %s | %s | %s |\n", mode, n, unseen, ms(times[n/2]), ms(times[n*99/100]), ms(times[n-1]))
	}
	return b.String()
}

func ms(d time.Duration) string {
	return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
}

// checkFaultsDoc compares docs/hsm-faults.md with what was found, or writes it.
func checkFaultsDoc(t *testing.T, all map[cell]finding, took time.Duration) {
	t.Helper()
	old, err := os.ReadFile(faultsDoc)
	ok(t, err)
	head, rest, found := strings.Cut(string(old), measuredBegin+"\n")
	measured, _, ended := strings.Cut(rest, measuredEnd+"\n")
	if !found || !ended {
		t.Fatalf("%s has no lines %s and %s", faultsDoc, measuredBegin, measuredEnd)
	}
	if *update {
		measured = faultFigures(all, took)
	}
	want := head + measuredBegin + "\n" + measured + measuredEnd + "\n\n" + faultTables(all)
	if *update {
		ok(t, os.WriteFile(faultsDoc, []byte(want), 0o644))
		return
	}
	if bytes.Equal(old, []byte(want)) {
		return
	}
	was, is := strings.Split(string(old), "\n"), strings.Split(want, "\n")
	for _, line := range is {
		if !slices.Contains(was, line) {
			t.Errorf("%s lacks %q: make faults", faultsDoc, line)
		}
	}
	for _, line := range was {
		if !slices.Contains(is, line) {
			t.Errorf("%s has %q, which was not found", faultsDoc, line)
		}
	}
}

// All that calls the module is done, from making a token to the end.
func TestHS01_TheMatrixHasEveryFunctionThatIsCalled(t *testing.T) {
	s, cfg := shimmed(t)
	before, err := s.control.Tally()
	ok(t, err)
	ok(t, hsm.InitSecondToken(t.Context(), cfg.Module, "matrix-"+cfg.Token[:8], "officer pin", "user pin"))
	pin := filepath.Join(t.TempDir(), "pin")
	ok(t, os.WriteFile(pin, []byte("user pin"), 0o400))
	cfg.Token, cfg.PIN = "matrix-"+cfg.Token[:8], hsm.PIN{File: pin}
	_, err = hsm.Init(t.Context(), cfg)
	ok(t, err)
	report, err := hsm.Doctor(t.Context(), cfg)
	ok(t, err)
	if !report.OK {
		t.Errorf("%+v", report)
	}
	m := newMatrix(t, s, cfg)
	m.open()
	m.prepare()
	m.lead("C_CloseAllSessions") // and all others
	for end := time.Now().Add(mostRecovery); !m.round(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not work")
		}
	}
	if m.found.Wrong != nil {
		t.Error(m.found.Wrong)
	}
	ok(t, m.root.Close())
	after, err := s.control.Tally()
	ok(t, err)
	compareFunctions(t, "called", append(slices.Sorted(maps.Keys(after.Since(before))), ceremonyFunctions...))
}

// What is called only where it is rare is found in the source: each call names its
// function for the error that it may return, or is one of miekg/pkcs11.
func TestHS01_TheMatrixHasEveryFunctionInTheSource(t *testing.T) {
	files, err := filepath.Glob("*.go")
	ok(t, err)
	names := map[string]bool{}
	literal, method := regexp.MustCompile(`"(C_[A-Z]\w+)"`), regexp.MustCompile(`ctx\.([A-Z]\w+)\(`)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		ok(t, err)
		for _, found := range literal.FindAllSubmatch(text, -1) {
			names[string(found[1])] = true
		}
		for _, found := range method.FindAllSubmatch(text, -1) {
			if name := "C_" + string(found[1]); slices.Contains(p11shim.Functions, name) {
				names[name] = true
			}
		}
	}
	compareFunctions(t, "in the source", slices.Sorted(maps.Keys(names)))
}

// compareFunctions compares functions with those of the matrix.
func compareFunctions(t *testing.T, what string, got []string) {
	t.Helper()
	want := append(slices.Clone(otherFunctions), ceremonyFunctions...)
	for _, f := range matrixFunctions {
		want = append(want, f.name)
	}
	for _, name := range got {
		if !slices.Contains(want, name) && name != "C_GetFunctionList" {
			t.Errorf("%s is %s, and not in the matrix", name, what)
		}
	}
	for _, name := range want {
		if !slices.Contains(got, name) {
			t.Errorf("%s is in the matrix, and not %s", name, what)
		}
	}
}

// A code of a PIN from a function that was given none is a fault of the token, and a
// code that says that something was asked wrongly too, if it has been asked before.
func TestHS01_TheClassOfACodeDependsOnTheFunction(t *testing.T) {
	for _, c := range []struct {
		function string
		code     uint
		class    string
		err      error
	}{
		{"C_Login", pkcs11.CKR_PIN_INCORRECT, "PIN", hsm.ErrPIN},
		{"C_Decrypt", pkcs11.CKR_PIN_INCORRECT, "token", kms.ErrUnavailable},
		{"C_Decrypt", pkcs11.CKR_ENCRYPTED_DATA_INVALID, "input", kms.ErrUnavailable},
		{"C_Decrypt", pkcs11.CKR_GENERAL_ERROR, "unclear", kms.ErrUnavailable},
		{"C_Encrypt", pkcs11.CKR_ARGUMENTS_BAD, "request", kms.ErrUnsupported},
		{"C_Encrypt", vendorCode, "token", kms.ErrUnavailable},
	} {
		if got := hsm.ClassOf(c.function, c.code); got != c.class {
			t.Errorf("%s %#x is a fault of the %s, not %s", c.function, c.code, got, c.class)
		}
		is(t, &hsm.Error{Function: c.function, Code: c.code}, c.err)
	}
}

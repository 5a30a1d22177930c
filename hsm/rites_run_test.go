package hsm_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
)

// A riteFinding is what was found in a cell.
type riteFinding struct {
	Cell riteCell
	Told string
	Why  string // if Told is wrong
}

const ritesEnv = "KEYGATE_TEST_RITES" // "part file"

// TestRitesPart runs in a child process, as TestMatrixPart does.
func TestRitesPart(t *testing.T) {
	var part int
	var path string
	if n, _ := fmt.Sscan(os.Getenv(ritesEnv), &part, &path); n != 2 {
		t.Skip("a child of TestHS01_F4_TheMatrixOfCeremonies")
	}
	long := os.Getenv("KEYGATE_LONG") == "1"
	codes := riteCodes
	if !long {
		codes = append(slices.Clone(someCodes), pkcs11.CKR_ATTRIBUTE_TYPE_INVALID)
	}
	var found []riteFinding
	n := 0
	for i, x := range allRites {
		if !long && i%matrixParts != part { // to prepare them takes longer than they do
			continue
		}
		r := newRites(t, x)
		for _, c := range riteCells(x.name, r.functions(), codes) {
			if !long && (!onlyInRites(c.Function) || c.Mode != once && c.Mode != after && c.Mode != abort) {
				continue
			}
			if n++; long && n%matrixParts != part {
				continue
			}
			told, err := r.cell(c.cell)
			f := riteFinding{Cell: c, Told: told}
			if err != nil {
				f.Why = err.Error()
			}
			found = append(found, f)
		}
	}
	text, err := json.Marshal(found)
	ok(t, err)
	ok(t, os.WriteFile(path, text, 0o600))
}

// The short form has what the other matrix has not; KEYGATE_LONG=1: all.
func TestHS01_F4_TheMatrixOfCeremonies(t *testing.T) {
	if !allCells() {
		t.Skip("KEYGATE_LONG=1 runs it with the race detector")
	}
	begin := time.Now()
	found := inParts[riteFinding](t, "TestRitesPart", ritesEnv)
	all, tally := map[riteCell]string{}, map[string]int{}
	for _, f := range found {
		all[f.Cell] = f.Told
		tally[f.Told]++
		if f.Told == wrong {
			t.Errorf("%v: %s", f.Cell, f.Why)
		}
	}
	for _, function := range slices.Concat(otherFunctions, ceremonyFunctions) {
		if !slices.ContainsFunc(found, func(f riteFinding) bool { return f.Cell.Function == function }) {
			t.Errorf("%s is called in no ceremony", function)
		}
	}
	took := time.Since(begin)
	t.Logf("%d cells in %v: %v", len(all), took.Round(time.Second), tally)
	if os.Getenv("KEYGATE_LONG") == "1" {
		checkRitesDoc(t, all, took)
	}
}

// Of two runs of init at the same time, where PKCS#11 has nothing to keep one out, none
// says that all is well if there are two KEKs; and the keys can be named then.
func TestHS18_TwoInitsAtTheSameTime(t *testing.T) {
	r := newRites(t, allRites[slices.IndexFunc(allRites, func(x rite) bool { return x.name == "init" })])
	r.s.fail("C_GenerateKey", fault{sleep: 50 * time.Millisecond})
	order, err := json.Marshal(r.c)
	ok(t, err)
	said := make([]string, 2)
	var wg sync.WaitGroup
	for i := range said {
		wg.Go(func() {
			out, _ := child("TestRiteChild", riteEnv+"="+string(order))
			_, text, _ := strings.Cut(string(out), "it said ")
			said[i], _, _ = strings.Cut(text, "\n")
		})
	}
	wg.Wait()
	r.s.heal()
	var labels []string
	as(t, r.f, func(raw raw) {
		for _, label := range []string{hsm.DefaultKEK, hsm.DefaultRecordKey} {
			ok(t, raw.FindObjectsInit(raw.session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}))
			found, _, err := raw.FindObjects(raw.session, 4)
			ok(t, err)
			ok(t, raw.FindObjectsFinal(raw.session))
			for range found {
				labels = append(labels, label)
			}
		}
	})
	well := slices.Index(said, "<nil>") >= 0
	t.Logf("%q: %q", labels, said)
	if twice := len(labels) > 2; well && twice {
		t.Errorf("%q are there, and it was said that all is well: %q", labels, said)
	} else if !twice && !well {
		t.Errorf("%q are there, and nobody says that all is well: %q", labels, said)
	}
}

// riteTables are what docs/hsm-faults.md says of ceremonies.
func riteTables(all map[riteCell]string, took time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d cells in %.0f s.\n\n| command | function | code | once | 3 times | for ever | done, and then | hangs, killed | ends the process |\n|---|---|---|---|---|---|---|---|---|\n", len(all), took.Seconds())
	for _, x := range allRites {
		for _, row := range riteRows(x.name, all) {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", x.name, strings.Join(row.columns[:2], " | "), strings.Join(row.columns[2:], " | "))
		}
	}
	return b.String()
}

type riteRow struct {
	columns []string // function, codes, and what came of each mode
	codes   []string
}

func riteRows(name string, all map[riteCell]string) (rows []riteRow) {
	functions := map[string]bool{}
	for c := range all {
		if c.Rite == name {
			functions[c.Function] = true
		}
	}
	var sorted []string
	for f := range functions {
		sorted = append(sorted, f)
	}
	slices.Sort(sorted)
	for _, f := range sorted {
		var of []riteRow
		for _, code := range riteCodes {
			row := riteRow{columns: []string{f, ""}}
			for _, c := range []cell{{f, code, once}, {f, code, burst}, {f, code, always}, {f, code, after}, {f, 0, hang}, {f, 0, abort}} {
				row.columns = append(row.columns, all[riteCell{name, c}])
			}
			i := slices.IndexFunc(of, func(o riteRow) bool { return slices.Equal(o.columns, row.columns) })
			if i < 0 {
				i = len(of)
				of = append(of, row)
			}
			of[i].codes = append(of[i].codes, codeName(code))
		}
		for i := range of {
			of[i].columns = slices.Clone(of[i].columns)
			of[i].columns[1] = whichOf(of[i].codes, len(riteCodes))
		}
		rows = append(rows, of...)
	}
	return rows
}

const ritesBegin, ritesEnd = "<!-- ceremonies: begin -->", "<!-- ceremonies: end -->"

// checkRitesDoc compares docs/hsm-faults.md with what was found, or writes it.
func checkRitesDoc(t *testing.T, all map[riteCell]string, took time.Duration) {
	t.Helper()
	old, err := os.ReadFile(faultsDoc)
	ok(t, err)
	head, rest, found := strings.Cut(string(old), ritesBegin+"\n")
	was, tail, ended := strings.Cut(rest, ritesEnd+"\n")
	if !found || !ended {
		t.Fatalf("%s has no lines %s and %s", faultsDoc, ritesBegin, ritesEnd)
	}
	is := riteTables(all, took)
	if *update {
		ok(t, os.WriteFile(faultsDoc, []byte(head+ritesBegin+"\n"+is+ritesEnd+"\n"+tail), 0o644))
		return
	}
	_, was, _ = strings.Cut(was, "\n")
	if _, is, _ = strings.Cut(is, "\n"); is != was {
		t.Errorf("%s has other tables of ceremonies than was found: make faults\n%s", faultsDoc, is)
	}
}

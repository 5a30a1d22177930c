package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestReportInMarkdown(t *testing.T) {
	r := report{machine: []string{"Commit: abc"}}
	tb := r.table("Rates", "", "rate")
	tb.row("gateway", "10 /s")
	tb.row("é", "9 /s")
	tb.note("A note.")
	r.verdict(false, "rate", ">= 11 /s", "%d /s", 10)
	got := r.markdown()
	for _, want := range []string{
		"- Commit: abc\n",
		"## Figures to reach\n\n|      | wanted   | got   | reached |\n| ---- | -------- | ----- | ------- |\n| rate | >= 11 /s | 10 /s | NO      |\n",
		"## Rates\n\n|         | rate  |\n| ------- | ----- |\n| gateway | 10 /s |\n| é       | 9 /s  |\n\nA note.\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	var text strings.Builder
	r.print(&text)
	if !strings.Contains(text.String(), "\n  rate  >= 11 /s  10 /s  NO\n") {
		t.Errorf("got\n%s", text.String())
	}
}

func TestCPUIsReadFromProc(t *testing.T) {
	const stat = "42 (a) b) 1 2) S 1 42 42 0 -1 4194560 1 0 0 0 150 25 7 7 20 0 8 0 100 1 1 1"
	if got := parseCPU([]byte(stat)); got != 1750*time.Millisecond {
		t.Errorf("got %v", got)
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	p := &process{cmd: cmd}
	if p.rss() == 0 {
		t.Error("no memory")
	}
	own := &process{cmd: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}}
	before := own.cpu()
	for end := time.Now().Add(10 * time.Second); own.cpu() < before+5*tick; {
		if time.Now().After(end) {
			t.Fatal("the CPU time does not grow")
		}
	}
	var none *process
	if none.cpu() != 0 || none.rss() != 0 {
		t.Error("no process has figures")
	}
}

func TestScenariosAreChosenByName(t *testing.T) {
	got, err := choose("overload,floor")
	if err != nil || len(got) != 2 || got[0].name != "floor" || got[1].name != "overload" {
		t.Errorf("%v, %v", got, err)
	}
	if all, err := choose("all"); err != nil || len(all) != len(scenarios) {
		t.Errorf("all: %d, %v", len(all), err)
	}
	if _, err := choose("floor,nothing"); err == nil || !strings.Contains(err.Error(), `"nothing"`) {
		t.Errorf("error is %v", err)
	}
}

func TestBatchesAreChecked(t *testing.T) {
	dek := `{"plaintext":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","ciphertext":"AA=="}`
	for _, body := range []string{"", "[]", "[" + dek + "]", "[" + strings.Repeat(dek+",", batchSize-1) + dek + "]"} {
		if checkBatch([]byte(body)) == nil {
			t.Errorf("accepted %.40q of %d bytes", body, len(body))
		}
	}
	if samePlaintext([]byte(dek), []byte(dek)) != nil || samePlaintext([]byte(dek), []byte(`{"plaintext":"AAAA"}`)) == nil {
		t.Error("plaintexts are not compared")
	}
}

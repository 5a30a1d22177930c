package soak_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// rotate renames the audit log, as logrotate does before SIGHUP.
func (g *gateway) rotate() error { return os.Rename(g.path("audit.log"), g.path("audit.rotated")) }

// An auditLog counts the entries of all the files that there were.
type auditLog struct {
	g       *gateway
	entries int // and the requests that entries stand for
	files   int
}

// rotated counts what is in the file that was rotated away, and removes it: the
// gateway has opened another.
func (a *auditLog) rotated() error {
	err := a.count(a.g.path("audit.rotated"))
	return errors.Join(err, os.Remove(a.g.path("audit.rotated")))
}

// count reads a file of entries, each of which has to be whole.
func (a *auditLog) count(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	a.files++
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		var e struct {
			Time      time.Time `json:"time"`
			ID        string    `json:"request_id"`
			Operation string    `json:"operation"`
			Skipped   int       `json:"skipped"`
		}
		if err := json.Unmarshal(scanner.Bytes(), &e); err != nil || e.ID == "" || e.Time.IsZero() {
			return fmt.Errorf("audit log: a line that is no entry: %q: %w", scanner.Text(), err)
		}
		a.entries += 1 + e.Skipped
	}
	return scanner.Err()
}

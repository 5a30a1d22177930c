package audit_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/keygate/keygate/audit"
)

func Example() {
	dir, err := os.MkdirTemp("", "audit")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "audit.log")

	trail, err := audit.Open(audit.Config{File: file})
	if err != nil {
		log.Fatal(err)
	}
	defer trail.Close()

	// An operation that could not be written down must not be done.
	if err := trail.Ready(); err != nil {
		log.Fatal(err)
	}
	// ... it is done here, and then written down before it is answered.
	err = trail.Write(&audit.Entry{
		Time: time.Unix(1700000000, 0), RequestID: "4f1c", Source: "192.0.2.7:50312",
		Operation: "key:generate", Policy: "app", Key: "app-1", Version: 1, Mode: "direct",
		Outcome: audit.OK, Status: 200, Duration: 412 * time.Microsecond,
	})
	if err != nil {
		log.Fatal(err)
	}

	text, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s", text)
	// Output:
	// {"time":"2023-11-14T22:13:20.000000000Z","request_id":"4f1c","identity":"","source":"192.0.2.7:50312","operation":"key:generate","policy":"app","key":"app-1","version":1,"mode":"direct","outcome":"ok","status":200,"duration_us":412}
}

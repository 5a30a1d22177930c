//go:build profile

package main

import (
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"time"
)

// A build with the tag profile writes a CPU profile of ten seconds to the file that
// KEYGATE_PROFILE names whenever it gets SIGUSR1. No build that is shipped has it:
// scripts/pgo.sh makes default.pgo with it.
func init() {
	name := os.Getenv("KEYGATE_PROFILE")
	if name == "" {
		return
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1)
	go func() {
		for range c {
			f, err := os.Create(name)
			if err != nil {
				continue
			}
			if pprof.StartCPUProfile(f) == nil {
				time.Sleep(10 * time.Second)
				pprof.StopCPUProfile()
			}
			f.Close()
		}
	}()
}

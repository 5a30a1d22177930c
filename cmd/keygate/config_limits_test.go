package main

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestLimitsAreChecked(t *testing.T) {
	serverFiles(t)
	for text, want := range map[string]string{
		"limits: {running: -1}":                                                  "limits.running: -1 is not from 1 to 65536, or 0 for the default",
		"limits: {streams: 100000}":                                              "limits.streams: 100000 is not from 1 to 65536, or 0 for the default",
		"limits: {wait: 2s}":                                                     "limits.wait: 2s is not from 0 to 1s",
		"limits: {rate: {requests: -5}}":                                         "limits.rate: requests is 0, or from",
		"limits: {rate: {burst: -5}}":                                            "limits.rate: requests is 0, or from",
		"limits: {rate: {identities: {app: {requests: 5}}}}":                     `limits.rate.identities: "app" is not an identity`,
		"limits: {rate: {identities: {" + testIdentity + ": {requests: .inf}}}}": "limits.rate.identities: " + testIdentity + ": requests is 0, or from",
		"audit: {polls: {sample: -1}}":                                           "audit.polls.sample: -1 is not from 0 to 1000000",
	} {
		_, err := parse(base + text + "\n")
		if err == nil || !strings.HasPrefix(err.Error(), "config.yaml:6: "+want) {
			t.Errorf("%s: error is %v, not %s", text, err, want)
		}
	}
	c, err := parse(base + "limits: {running: 7, wait: 8ms, rate: {requests: 0.5, burst: 3}}\n")
	if err != nil || c.Limits.Running != 7 || c.Limits.Wait != 8*time.Millisecond || c.Limits.Rate.Requests != 0.5 || c.Limits.Rate.Burst != 3 {
		t.Errorf("limits are %+v, %v", c.Limits, err)
	}
}

func TestConnectionsFitTheOpenFiles(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if got := fitDescriptors(1); got != 1 {
		t.Errorf("1 became %d", got)
	}
	if got := fitDescriptors(1 << 40); limit.Cur < 1<<30 && uint64(got) >= limit.Cur {
		t.Errorf("%d connections for %d files", got, limit.Cur)
	}
}

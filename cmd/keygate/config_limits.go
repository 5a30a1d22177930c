package main

import (
	"strings"
	"syscall"
)

// checkLimits looks at the section limits and at audit.polls.
func (c *configuration) checkLimits(y *yamlFile) {
	for _, err := range each(c.Limits.Check()) {
		text := strings.TrimPrefix(err.Error(), "gateway: ")
		field, _, _ := strings.Cut(text, ":")
		y.failAt(at(steps(field)...), "%s", text)
	}
	if err := c.Audit.Polls.Check(); err != nil {
		y.failAt(at("audit", "polls", "sample"), "%s", strings.Replace(err.Error(), "audit: ", "audit.", 1))
	}
}

// descriptorsKept are the file descriptors that are not for connections of clients:
// the log, the key store, the HSM's client, and each of these anew.
const descriptorsKept = 256

// fitDescriptors lowers a number of connections to what the limit of open files
// leaves, so that the key store and the audit log find one when clients have all
// others.
func fitDescriptors(connections int) int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil || limit.Cur > 1<<30 {
		return connections
	}
	return min(connections, max(int(limit.Cur)-descriptorsKept, int(limit.Cur)/2, 1))
}

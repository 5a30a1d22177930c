package gateway

import "sync/atomic"

// A bodyMemory is how many bytes of bodies are in memory at a time. A client that
// sends a body but for its last byte has it here until the route's time is over: the
// number of such requests alone, thousands of batches, is no bound that fits into
// the memory of a machine.
type bodyMemory struct {
	limit int64
	used  atomic.Int64
}

// smallBody is what a body may have without being counted, in bytes. That many for
// each of limits.pending are 16 MiB by default.
const smallBody = 4 << 10

// take takes n bytes, or none and reports false.
func (m *bodyMemory) take(n int64) bool {
	if m.used.Add(n) > m.limit {
		m.used.Add(-n)
		return false
	}
	return true
}

// hold has the request hold size bytes in all for its body, or reports false: its
// caller, or all, hold too many.
func (r *request) hold(size int64) bool {
	size = min(size, r.route.maxBody)
	more := size - r.held
	if size <= smallBody || more <= 0 {
		return true
	}
	if !r.caller.bodies.take(more) {
		return false
	}
	if !r.caller.allBodies.take(more) {
		r.caller.bodies.used.Add(-more)
		return false
	}
	r.held = size
	return true
}

// endBody wipes the body and gives its bytes back.
func (r *request) endBody() {
	clear(r.body)
	if r.held > 0 {
		r.caller.bodies.used.Add(-r.held)
		r.caller.allBodies.used.Add(-r.held)
	}
}

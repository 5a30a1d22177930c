package hsm

// WorkerPID returns the process id of the worker of r's first token, or 0.
func (r *Root) WorkerPID() int {
	w, ok := r.group.members[0].get().(*remote)
	if !ok {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.process == nil {
		return 0
	}
	return w.process.pid
}

// StallTime is how long a worker that has stopped goes unnoticed at the most.
const StallTime = (missedTicks + 1) * tickTime

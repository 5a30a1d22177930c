// Package audit is the trail of who asked for what: one entry for each request,
// refusals and failures too, written before the request is answered. Of requests
// that were not begun for want of room, and of polls if Config says so, one entry
// stands for many; see Entry.Skipped.
//
// An entry holds names and outcomes only. Nothing that a client sends as a body,
// and no context, gets into it.
package audit

import (
	"encoding/hex"
	"strconv"
	"time"
)

// An Outcome says in one word or two how a request ended.
type Outcome string

// The outcomes.
const (
	OK              Outcome = "ok"               // the operation was done
	Denied          Outcome = "denied"           // no policy allows it, or the certificate was refused
	Invalid         Outcome = "invalid"          // the request is malformed or its ciphertext not authentic
	NotFound        Outcome = "not found"        // the key, policy or identity is proved not to exist
	Exists          Outcome = "exists"           // the name is taken
	PendingDeletion Outcome = "pending deletion" // the key was deleted and waits for its end
	Unavailable     Outcome = "unavailable"      // the root of trust, the key store or this log could not serve it
	Refused         Outcome = "refused"          // it was not begun: the server had too much to do, or the identity its rate
	Error           Outcome = "error"            // all else: a corrupt record, a fault of the gateway
)

// An Entry is what is written down of one request. Fields without a value are
// left out of the line, but for the first five, the outcome, the status and the
// duration.
type Entry struct {
	Time      time.Time     // when the request came
	RequestID string        // names the request in the error log, too
	Identity  string        // 64 hex digits; empty: no certificate was shown
	Source    string        // the TCP peer, ip:port
	Operation string        // such as "key:generate", from package policy
	Path      string        // of the request, where it names no operation or an invalid key
	Policy    string        // that allowed or denied the request; empty: the admin, or none
	Key       string        // name of the key
	KeyID     [16]byte      // of the key that was used; zero: none
	Version   uint32        // of the key that was used; zero: none
	Outage    bool          // a branch key past its life was used, as the root of trust was out
	Items     int           // of a batch; zero: it was none, or an empty one
	Failed    int           // of Items, those that were answered with an error of their own
	Mode      string        // "direct" or "branch"; empty: no ciphertext was made or opened
	Outcome   Outcome       // how it ended
	Status    int           // HTTP status of the answer
	Duration  time.Duration // until the answer was ready; written in microseconds
	Error     string        // the text that the client got; empty: the operation was done

	// Skipped is how many requests before this one have no entry, as this one stands
	// for them: of the same identity, status and text (refusals), or of the same
	// operation and policy, all done (polls).
	Skipped int
	// Poll marks what clients ask again and again: of those that were done, some are
	// written only, if Config.Polls says so. It is not in the line.
	Poll bool
}

// AppendJSON appends the entry as one JSON object, without a line break. It is
// valid JSON of printable characters whatever the fields hold.
func (e *Entry) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"time":"`...)
	dst = appendTime(dst, e.Time)
	dst = append(dst, '"')
	dst = appendField(dst, "request_id", e.RequestID)
	dst = appendField(dst, "identity", e.Identity)
	dst = appendField(dst, "source", e.Source)
	dst = appendField(dst, "operation", e.Operation)
	dst = appendOptional(dst, "path", e.Path)
	dst = appendOptional(dst, "policy", e.Policy)
	dst = appendOptional(dst, "key", e.Key)
	dst = e.appendKey(dst)
	dst = appendOptional(dst, "mode", e.Mode)
	if e.Outage {
		dst = append(dst, `,"outage":true`...)
	}
	dst = appendCount(dst, "items", e.Items)
	dst = appendCount(dst, "failed", e.Failed)
	dst = appendField(dst, "outcome", string(e.Outcome))
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(e.Status), 10)
	dst = append(dst, `,"duration_us":`...)
	dst = strconv.AppendInt(dst, e.Duration.Microseconds(), 10)
	dst = appendOptional(dst, "error", e.Error)
	dst = appendCount(dst, "skipped", e.Skipped)
	return append(dst, '}')
}

func appendCount(dst []byte, name string, n int) []byte {
	if n == 0 {
		return dst
	}
	dst = append(append(append(dst, `,"`...), name...), `":`...)
	return strconv.AppendInt(dst, int64(n), 10)
}

func (e *Entry) appendKey(dst []byte) []byte {
	if e.KeyID != ([16]byte{}) {
		dst = append(dst, `,"key_id":"`...)
		dst = hex.AppendEncode(dst, e.KeyID[:])
		dst = append(dst, '"')
	}
	if e.Version != 0 {
		dst = append(dst, `,"version":`...)
		dst = strconv.AppendUint(dst, uint64(e.Version), 10)
	}
	return dst
}

package hsm

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/keygate/keygate/kms"
)

// maxCaller bounds the name of a caller that goes to a worker: an identity has 64
// bytes. Longer ones that begin alike take turns as one.
const maxCaller = 255

// An order is an op as a worker gets it.
type order struct {
	op
	caller []byte        // of kms.CallerOf
	left   time.Duration // that the caller has; negative: none
}

// size returns the bytes that append needs at the most.
func (o *order) size() int {
	return 96 + len(o.handle) + len(o.a) + len(o.b) + min(len(o.caller), maxCaller)
}

// append appends what o has but for begun, which each process counts for itself:
//
//	1  kind
//	1  purpose
//	1  once
//	16 key id
//	8  number of the first key in the token
//	8  nanoseconds that are left
//	8  size
//	caller, handle, a and b, each with its size
func (o *order) append(b []byte) []byte {
	once := byte(0)
	if o.once {
		once = 1
	}
	b = append(b, byte(o.kind), byte(o.purpose), once)
	b = append(b, o.id[:]...)
	b = append(b, o.number[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(o.left))
	b = binary.BigEndian.AppendUint64(b, uint64(o.op.size))
	b = appendBytes(b, o.caller[:min(len(o.caller), maxCaller)])
	b = appendBytes(b, o.handle)
	b = appendBytes(b, o.a)
	return appendBytes(b, o.b)
}

// parseOrder reads what append wrote, without copies.
func parseOrder(body []byte) (o order, err error) {
	r := reading{b: body}
	o.kind, o.purpose = opKind(r.uint8()), kms.Purpose(r.uint8())
	o.once = r.uint8() == 1
	copy(o.id[:], r.take(len(o.id)))
	copy(o.number[:], r.take(len(o.number)))
	o.left = time.Duration(r.uint64())
	o.op.size = int(r.uint64())
	o.caller = r.bytes()
	o.handle, o.a, o.b = r.bytes(), r.bytes(), r.bytes()
	if err := r.end("an op"); err != nil {
		return order{}, err
	}
	if o.kind == 0 || o.kind >= opKindAfter || o.op.size < 0 {
		return order{}, fmt.Errorf("%w: operation %d of %d bytes", errFrame, o.kind, o.op.size)
	}
	return o, nil
}

package kms

import (
	"context"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/keystore"
)

// A record is all that is known of one named key. Its encoding is canonical
// (one record, one byte string), ends in the root's MAC over all before it, and
// is therefore either exactly what a gateway of this cluster stored under this
// name or refused. Integers are big endian:
//
//	 4  "KGR" and the format version, 1
//	16  cluster id
//	 1  length of the name, then the name
//	16  key id
//	 8  generation: 1 in a new record, one more with each change
//	 1  state
//	 1  mode of new ciphertexts; 0 is the gateway's
//	 1  algorithm: 1 is AES-256-GCM
//	 1  1 if the first version was imported, else 0
//	 8  created, in nanoseconds since 1970
//	 8  delete after, likewise; 0 for none
//	 1  length of the creator's identity, then the identity
//	 2  length of the MAC key's handle, then the handle
//	 2  length of the handle that opens KES ciphertexts, 0 for none, then it
//	 2  number of versions, at least 1; for each, in ascending order:
//	    4 number, 8 created, 8 operations reserved, 2 length of handle, handle
//	32  HMAC-SHA-256 by the root's record key over macDomain and all above
//
// A record never changes hands between names, clusters or states unseen: T4 and
// T5 of docs/security.md.
type record struct {
	// What every request reads is first and together, in 64 bytes: with many keys
	// in use each cache line is one that has to come from memory.
	ID       KeyID
	State    State
	Mode     envelope.Mode
	Imported bool
	// sealer and budget are not stored: they are this node's, of the newest
	// version.
	sealer   *sealer
	budget   *budget
	Versions []version

	Cluster     ClusterID
	Name        string
	Generation  uint64
	Created     time.Time
	DeleteAfter time.Time
	CreatedBy   string
	MACHandle   []byte
	KESHandle   []byte
}

// A version is one generation of the master key. Old ones only decrypt.
type version struct {
	Number  uint32
	Created time.Time
	// Reserved is the number of random-nonce operations that nodes have taken
	// out of the version's budget (NIST SP 800-38D 8.3).
	Reserved uint64
	Handle   []byte
}

const (
	recordMagic   = "KGR\x01"
	macDomain     = "keygate key record v1\x00"
	algorithmAES  = 1
	maxVersions   = 100
	maxIdentity   = math.MaxUint8
	minRecordSize = 4 + 16 + 1 + 1 + 16 + 8 + 4 + 8 + 8 + 1 + 2 + 2 + 2 + MACSize
)

func (r *record) newest() version { return r.Versions[len(r.Versions)-1] }

func (r *record) version(number uint32) (version, bool) {
	for _, v := range r.Versions {
		if v.Number == number {
			return v, true
		}
	}
	return version{}, false
}

func (r *record) handles() [][]byte {
	var all [][]byte
	for _, v := range r.Versions {
		all = append(all, v.Handle)
	}
	for _, h := range [][]byte{r.MACHandle, r.KESHandle} {
		if h != nil {
			all = append(all, h)
		}
	}
	return all
}

// usable returns why the key may not be used, nil if it may.
func (r *record) usable() error {
	if r.State == PendingDeletion {
		return r.pendingDeletion()
	}
	return nil
}

func (r *record) pendingDeletion() error {
	return &PendingDeletionError{Until: r.DeleteAfter}
}

// A PendingDeletionError is ErrPendingDeletion with the time at which the
// waiting ends.
type PendingDeletionError struct{ Until time.Time }

func (e *PendingDeletionError) Error() string {
	return ErrPendingDeletion.Error() + " until " + e.Until.UTC().Format(time.RFC3339)
}

// Unwrap returns ErrPendingDeletion.
func (e *PendingDeletionError) Unwrap() error { return ErrPendingDeletion }

// encode returns the record without its MAC.
func (r *record) encode() ([]byte, error) {
	if len(r.CreatedBy) > maxIdentity {
		return nil, fmt.Errorf("kms: identity of %d bytes", len(r.CreatedBy))
	}
	b := make([]byte, 0, 512)
	b = append(b, recordMagic...)
	b = append(b, r.Cluster[:]...)
	b = append(b, byte(len(r.Name)))
	b = append(b, r.Name...)
	b = append(b, r.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Generation)
	b = append(b, byte(r.State), byte(r.Mode), algorithmAES, flag(r.Imported))
	b = binary.BigEndian.AppendUint64(b, nanos(r.Created))
	b = binary.BigEndian.AppendUint64(b, nanos(r.DeleteAfter))
	b = append(b, byte(len(r.CreatedBy)))
	b = append(b, r.CreatedBy...)
	b = appendHandle(b, r.MACHandle)
	b = appendHandle(b, r.KESHandle)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Versions)))
	for _, v := range r.Versions {
		b = binary.BigEndian.AppendUint32(b, v.Number)
		b = binary.BigEndian.AppendUint64(b, nanos(v.Created))
		b = binary.BigEndian.AppendUint64(b, v.Reserved)
		b = appendHandle(b, v.Handle)
	}
	return b, nil
}

func appendHandle(b, handle []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(handle)))
	return append(b, handle...)
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func nanos(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}

// errRecord is wrapped in ErrCorrupt by open.
var errRecord = errors.New("malformed")

// decode reads what encode wrote, followed by a MAC that it does not check. The
// result holds parts of raw.
func decode(raw []byte) (*record, error) {
	if len(raw) < minRecordSize || len(raw) > keystore.MaxRecordSize {
		return nil, fmt.Errorf("%w: %d bytes", errRecord, len(raw))
	}
	d := decoder{b: raw[:len(raw)-MACSize]}
	if string(d.take(len(recordMagic))) != recordMagic {
		return nil, fmt.Errorf("%w: not a record of format 1", errRecord)
	}
	r := new(record)
	copy(r.Cluster[:], d.take(len(r.Cluster)))
	r.Name = string(d.take(int(d.u8())))
	copy(r.ID[:], d.take(len(r.ID)))
	r.Generation = d.u64()
	r.State = State(d.u8())
	r.Mode = envelope.Mode(d.u8())
	algorithm, imported := d.u8(), d.u8()
	r.Imported = imported == 1
	r.Created = d.time()
	r.DeleteAfter = d.time()
	r.CreatedBy = string(d.take(int(d.u8())))
	r.MACHandle = d.handle()
	r.KESHandle = d.handle()
	d.versions(r)
	switch {
	case d.short || len(d.b) != 0:
		return nil, fmt.Errorf("%w: wrong length", errRecord)
	case algorithm != algorithmAES:
		return nil, fmt.Errorf("%w: algorithm %d", errRecord, algorithm)
	case imported > 1:
		return nil, fmt.Errorf("%w: flags %d", errRecord, imported)
	case r.State != Enabled && r.State != PendingDeletion:
		return nil, fmt.Errorf("%w: %v", errRecord, r.State)
	case r.Mode > envelope.Branch:
		return nil, fmt.Errorf("%w: mode %d", errRecord, r.Mode)
	case !keystore.ValidName(r.Name) || r.Generation == 0:
		return nil, fmt.Errorf("%w: name or generation", errRecord)
	}
	return r, nil
}

// A decoder takes fields from the front of b. Once b was too short, every field
// is zero and short is set.
type decoder struct {
	b     []byte
	short bool
}

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.b, d.short = nil, true
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) u8() byte {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if p := d.take(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if p := d.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if p := d.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

func (d *decoder) time() time.Time {
	if ns := d.u64(); ns != 0 {
		return time.Unix(0, int64(ns)).UTC()
	}
	return time.Time{}
}

func (d *decoder) handle() []byte {
	n := int(d.u16())
	if n > MaxHandleSize {
		d.short = true
	}
	if n == 0 {
		return nil
	}
	return d.take(n)
}

// versions reads at least one version; their numbers ascend from 1 or more and
// each has a handle.
func (d *decoder) versions(r *record) {
	n := int(d.u16())
	if n == 0 || n > maxVersions {
		d.short = true
	}
	last := uint32(0)
	for range n {
		v := version{Number: d.u32(), Created: d.time(), Reserved: d.u64(), Handle: d.handle()}
		if d.short || v.Number <= last || v.Handle == nil {
			d.short = true
			return
		}
		last = v.Number
		r.Versions = append(r.Versions, v)
	}
}

// seal encodes a record and has the root authenticate it.
func (k *KMS) seal(ctx context.Context, r *record) ([]byte, error) {
	body, err := r.encode()
	if err != nil {
		return nil, err
	}
	mac, err := k.recordMAC(ctx, body)
	if err != nil {
		return nil, err
	}
	raw := append(body, mac[:]...)
	if len(raw) > keystore.MaxRecordSize {
		return nil, fmt.Errorf("%w: record of %d bytes", ErrUnsupported, len(raw))
	}
	return raw, nil
}

// open reads a record that was stored under name. What is not exactly what a
// gateway of this cluster stored there is ErrCorrupt.
func (k *KMS) open(ctx context.Context, name string, raw []byte) (*record, error) {
	r, err := decode(raw)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	case r.Cluster != k.cfg.Cluster:
		return nil, fmt.Errorf("%w: it belongs to cluster %v", ErrCorrupt, r.Cluster)
	case r.Name != name:
		return nil, fmt.Errorf("%w: it is the record of key %q", ErrCorrupt, r.Name)
	}
	body, tag := raw[:len(raw)-MACSize], raw[len(raw)-MACSize:]
	mac, err := k.recordMAC(ctx, body)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(mac[:], tag) {
		return nil, fmt.Errorf("%w: it is not authentic", ErrCorrupt)
	}
	return r, nil
}

func (k *KMS) recordMAC(ctx context.Context, body []byte) ([MACSize]byte, error) {
	message := make([]byte, 0, len(macDomain)+len(body))
	message = append(append(message, macDomain...), body...)
	mac, err := k.root.MAC(ctx, nil, message)
	if err != nil {
		return mac, k.rootError(err)
	}
	return mac, nil
}

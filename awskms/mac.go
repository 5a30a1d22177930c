package awskms

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"golang.org/x/sync/singleflight"

	keygate "github.com/keygate/keygate/kms"
)

// recordLabel is the message whose MAC under the HMAC key of KMS is the record key
// (a key derivation as NIST SP 800-108 4.1, of one block).
const recordLabel = "keygate record key 1"

// MAC computes HMAC-SHA-256 in this process, with the record key if handle is nil;
// see kms.Root. The key is asked of KMS if it is not in memory.
func (r *Root) MAC(ctx context.Context, handle, message []byte) (sum [keygate.MACSize]byte, err error) {
	load := r.deriveRecordKey
	if handle != nil {
		h, err := forPurpose(handle, keygate.Authentication)
		if err != nil {
			return sum, err
		}
		load = func(ctx context.Context) ([]byte, error) { return r.unwrap(ctx, h) }
	}
	if err := r.begin(ctx, "mac"); err != nil {
		return sum, err
	}
	key, err := r.macs.get(ctx, sha256.Sum256(handle), load)
	if err != nil {
		return sum, err
	}
	defer clear(key)
	mac := hmac.New(sha256.New, key)
	mac.Write(message)
	mac.Sum(sum[:0])
	return sum, nil
}

// deriveRecordKey returns the record key, for the caller to wipe.
func (r *Root) deriveRecordKey(ctx context.Context) (key []byte, err error) {
	err = r.do(ctx, "GenerateMac", func(ctx context.Context) error {
		out, err := r.api.GenerateMac(ctx, &kms.GenerateMacInput{KeyId: &r.cfg.RecordKey, MacAlgorithm: types.MacAlgorithmSpecHmacSha256, Message: []byte(recordLabel)})
		if err != nil {
			return err
		}
		if len(out.Mac) != keygate.MACSize {
			clear(out.Mac)
			return fmt.Errorf("%d bytes, not %d", len(out.Mac), keygate.MACSize)
		}
		key = out.Mac
		return nil
	})
	return key, err
}

// unwrap returns a MAC key, for the caller to wipe. A wrapped key that KMS does not
// open is ErrCorrupt: the handle was changed.
func (r *Root) unwrap(ctx context.Context, h keyHandle) ([]byte, error) {
	key, err := r.decrypt(ctx, inRegion(h.arn, r.region), h.wrapped, encryptionContext(useMACKey, h.owner(), nil))
	if errors.Is(err, keygate.ErrCiphertext) {
		return nil, fmt.Errorf("awskms: key handle: %w: %v", keygate.ErrCorrupt, err)
	}
	if err == nil && len(key) != keygate.KeySize {
		clear(key)
		return nil, fmt.Errorf("awskms: key handle: a MAC key of %d bytes: %w", len(key), keygate.ErrCorrupt)
	}
	return key, err
}

// macKeys are the MAC keys in memory, by the hash of their handle.
type macKeys struct {
	life  time.Duration
	limit int
	loads singleflight.Group

	mu     sync.Mutex
	keys   map[[sha256.Size]byte]*macKey
	closed bool
}

type macKey struct {
	key []byte
	end *time.Timer // wipes it
}

// get returns a copy of a key, for the caller to wipe. One call of load, which the
// end of no caller ends, is for all that wait for the key.
func (m *macKeys) get(ctx context.Context, id [sha256.Size]byte, load func(context.Context) ([]byte, error)) ([]byte, error) {
	if key := m.lookup(id); key != nil {
		return key, nil
	}
	loaded := m.loads.DoChan(string(id[:]), func() (any, error) {
		key, err := loadSafely(context.WithoutCancel(ctx), load)
		if err == nil {
			m.put(id, key)
		}
		return nil, err
	})
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("awskms: mac: %w: %w", keygate.ErrUnavailable, ctx.Err())
	case result := <-loaded:
		if result.Err != nil {
			return nil, result.Err
		}
	}
	if key := m.lookup(id); key != nil {
		return key, nil
	}
	return nil, fmt.Errorf("awskms: mac: %w: the key is gone from memory: the root is closed, or awskms.mac_keys is too small", keygate.ErrUnavailable)
}

// loadSafely makes a panic an error: it is on a goroutine of its own, where it
// would end the process.
func loadSafely(ctx context.Context, load func(context.Context) ([]byte, error)) (key []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("awskms: %w: panic: %v", keygate.ErrUnavailable, p)
		}
	}()
	return load(ctx)
}

func (m *macKeys) lookup(id [sha256.Size]byte) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.keys[id]
	if k == nil {
		return nil
	}
	return append(make([]byte, 0, len(k.key)), k.key...)
}

// put keeps key, which is the cache's from now on, for its life. If there are too
// many, any other goes.
func (m *macKeys) put(id [sha256.Size]byte, key []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		clear(key)
		return
	}
	if m.keys == nil {
		m.keys = make(map[[sha256.Size]byte]*macKey)
	}
	m.dropLocked(id)
	for other := range m.keys {
		if len(m.keys) < m.limit {
			break
		}
		m.dropLocked(other)
	}
	k := &macKey{key: key}
	k.end = time.AfterFunc(m.life, func() { m.drop(id, k) })
	m.keys[id] = k
}

func (m *macKeys) dropLocked(id [sha256.Size]byte) {
	if k := m.keys[id]; k != nil {
		k.end.Stop()
		clear(k.key)
		delete(m.keys, id)
	}
}

// drop wipes a key, unless another has its place.
func (m *macKeys) drop(id [sha256.Size]byte, k *macKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k == nil || m.keys[id] == k {
		m.dropLocked(id)
	}
}

func (m *macKeys) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for id := range m.keys {
		m.dropLocked(id)
	}
}

package kms

import (
	"context"
	"crypto/rand"
	"fmt"
	"iter"

	"golang.org/x/sync/errgroup"

	"github.com/keygate/keygate/envelope"
)

// MaxBatch is the number of DEKs in the largest batch.
const MaxBatch = 10_000

// batchCalls is how many calls of the root one batch has under way: few, so that
// a batch does not keep others from the root.
const batchCalls = 8

// batchChunk is how many DEKs of a batch are in memory at a time. In branch mode
// they are made as they are asked for.
const batchChunk = 64

// A Batch is a number of new DEKs. All that can fail was done when it was made.
// It is for one goroutine.
type Batch struct {
	cluster  ClusterID
	contexts [][]byte // one for each DEK, or one for all
	n        int
	parts    []batchPart // in branch mode
	deks     []byte      // in direct mode
	direct   [][]byte    // in direct mode: the ciphertexts of deks
}

// A batchPart is what one branch key seals of a batch: nearly always all of it.
type batchPart struct {
	branch *branch
	n      int
}

// GenerateDataKeys makes n DEKs, at most MaxBatch. additionalData has one entry
// for each, or one for all of them, or none. In branch mode that takes one look
// at the key's record and one at its branch key; in direct mode each DEK is a
// call of the root, and if one fails there is no batch.
func (k *KMS) GenerateDataKeys(ctx context.Context, name string, n int, additionalData [][]byte) (*Batch, Use, error) {
	if n < 0 || n > MaxBatch || len(additionalData) > 1 && len(additionalData) != n {
		return nil, Use{}, fmt.Errorf("%w: a batch of %d with %d contexts", ErrUnsupported, n, len(additionalData))
	}
	r, err := k.lookup(ctx, name)
	if err != nil {
		return nil, Use{}, err
	}
	use := Use{KeyID: r.ID, Version: r.newest().Number, Mode: k.mode(r)}
	if err := r.usable(); err != nil {
		return nil, use, err
	}
	b := &Batch{cluster: k.cfg.Cluster, contexts: additionalData, n: n}
	if use.Mode == envelope.Branch {
		use.Outage, err = k.reserveBatch(ctx, r, b)
	} else {
		err = k.sealBatch(ctx, r, b)
	}
	if err != nil {
		b.Wipe()
		return nil, use, err
	}
	return b, use, nil
}

// reserveBatch takes what the batch needs out of as few branch keys as can be.
func (k *KMS) reserveBatch(ctx context.Context, r *record, b *Batch) (outage bool, err error) {
	epoch := k.opened.epoch.Load()
	for left := b.n; left > 0; {
		n := int(min(int64(left), k.cfg.BranchUses))
		key, past, err := k.sealing(ctx, r, epoch, int64(n))
		if err != nil {
			return outage, err
		}
		outage = outage || past
		b.parts = append(b.parts, batchPart{key, n})
		left -= n
	}
	return outage, nil
}

// sealBatch makes the DEKs of a batch and has the root encrypt each.
func (k *KMS) sealBatch(ctx context.Context, r *record, b *Batch) error {
	if err := k.spend(ctx, r, int64(b.n)); err != nil {
		return err
	}
	v := r.newest()
	h := envelope.Header{Mode: envelope.Direct, KeyID: r.ID, Version: v.Number}
	b.deks, b.direct = make([]byte, b.n*DataKeySize), make([][]byte, b.n)
	rand.Read(b.deks)
	additionalData := func(i int) []byte { return envelope.AdditionalData(h, k.cfg.Cluster, b.contexts[i]) }
	if len(b.contexts) <= 1 { // hashed once: it can be as large as a body
		one := envelope.AdditionalData(h, k.cfg.Cluster, b.context())
		additionalData = func(int) []byte { return one }
	}
	calls, ctx := errgroup.WithContext(ctx)
	calls.SetLimit(batchCalls)
	for i := range b.n {
		calls.Go(func() (err error) {
			defer recovered(&err)
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("%w: batch: %w", ErrUnavailable, err)
			}
			b.direct[i], err = k.sealDirect(ctx, h, v, b.deks[i*DataKeySize:][:DataKeySize], additionalData(i))
			return err
		})
	}
	return calls.Wait()
}

// context returns what all DEKs are bound to, if it is one.
func (b *Batch) context() []byte {
	if len(b.contexts) == 0 {
		return nil
	}
	return b.contexts[0]
}

// Len returns the number of DEKs.
func (b *Batch) Len() int { return b.n }

// CiphertextSizes returns the number of bytes of each ciphertext.
func (b *Batch) CiphertextSizes() iter.Seq[int] {
	return func(yield func(int) bool) {
		for _, c := range b.direct {
			if !yield(len(c)) {
				return
			}
		}
		for _, p := range b.parts {
			size := envelope.BranchSize(len(p.branch.wrapped), DataKeySize)
			for range p.n {
				if !yield(size) {
					return
				}
			}
		}
	}
}

// All returns each DEK with its ciphertext. Both are good until the next one is
// asked for: plaintexts are wiped then. All can be used once.
func (b *Batch) All() iter.Seq2[[]byte, []byte] {
	if b.direct != nil {
		return b.allDirect
	}
	return b.allBranch
}

func (b *Batch) allDirect(yield func(plaintext, ciphertext []byte) bool) {
	defer b.Wipe()
	for i, c := range b.direct {
		if !yield(b.deks[i*DataKeySize:][:DataKeySize:DataKeySize], c) {
			return
		}
	}
}

func (b *Batch) allBranch(yield func(plaintext, ciphertext []byte) bool) {
	deks := make([]byte, batchChunk*DataKeySize)
	defer clear(deks)
	var ciphertext []byte
	i := 0
	for _, p := range b.parts {
		additionalData := b.additionalDataOf(p.branch)
		for range p.n {
			at := i % batchChunk * DataKeySize
			if at == 0 {
				rand.Read(deks)
			}
			dek := deks[at : at+DataKeySize : at+DataKeySize]
			ciphertext = envelope.AppendBranchOf(ciphertext[:0], p.branch.header, p.branch.wrapped, p.branch.aead, dek, additionalData(i))
			if !yield(dek, ciphertext) {
				return
			}
			i++
		}
	}
}

// additionalDataOf returns the additional data of DEK i under one branch key. A
// context of all is hashed once: it can be as large as a body.
func (b *Batch) additionalDataOf(key *branch) func(i int) []byte {
	if len(b.contexts) > 1 {
		return func(i int) []byte {
			return envelope.BranchAdditionalData(key.header, b.cluster, key.wrapped, b.contexts[i])
		}
	}
	one := envelope.BranchAdditionalData(key.header, b.cluster, key.wrapped, b.context())
	return func(int) []byte { return one }
}

// Wipe overwrites the plaintexts of a batch that is not used, or not to its end.
func (b *Batch) Wipe() { clear(b.deks) }

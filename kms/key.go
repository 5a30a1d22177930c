package kms

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/keystore"
)

// CreateKey makes a key with a first version inside the root. It returns
// ErrKeyExists or ErrPendingDeletion if the name is taken. When it returns nil
// the record is durable, was read back, and its key has been used once.
func (k *KMS) CreateKey(ctx context.Context, name, by string) (Info, error) {
	return k.create(ctx, name, by, 0, nil)
}

// CreateKeyWithMode is CreateKey for a key with a mode of its own; zero means
// the gateway's.
func (k *KMS) CreateKeyWithMode(ctx context.Context, name, by string, mode envelope.Mode) (Info, error) {
	if err := validMode(mode); err != nil {
		return Info{}, err
	}
	return k.create(ctx, name, by, mode, nil)
}

// ImportKey makes a key whose first version is the caller's 32 bytes, and
// which opens the ciphertexts that KES made under them. Its MAC key is random,
// as in KES. Otherwise it is like CreateKey. The caller wipes key.
func (k *KMS) ImportKey(ctx context.Context, name, by string, key []byte) (Info, error) {
	if len(key) != KeySize {
		return Info{}, fmt.Errorf("%w: %d bytes, not %d", ErrKeySize, len(key), KeySize)
	}
	return k.create(ctx, name, by, 0, key)
}

func (k *KMS) create(ctx context.Context, name, by string, mode envelope.Mode, imported []byte) (Info, error) {
	if !keystore.ValidName(name) {
		return Info{}, ErrName
	}
	// Asked first so that a name that is taken, the usual case for a client
	// that creates at each start, costs the root nothing.
	if err := k.nameIsFree(ctx, name); err != nil {
		return Info{}, err
	}
	r := &record{Cluster: k.cfg.Cluster, Name: name, Generation: 1, State: Enabled, Mode: mode, Created: k.cfg.Now().UTC(), CreatedBy: by}
	rand.Read(r.ID[:])
	err := k.makeKeys(ctx, r, imported)
	if err == nil {
		err = k.commit(ctx, r)
	}
	if err != nil {
		return Info{}, err
	}
	return k.info(r), nil
}

func (k *KMS) nameIsFree(ctx context.Context, name string) error {
	r, err := k.fetch(ctx, name)
	if errors.Is(err, ErrKeyNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return r.taken()
}

// taken returns the error that says how the record holds its name.
func (r *record) taken() error {
	if r.State == PendingDeletion {
		return r.pendingDeletion()
	}
	return ErrKeyExists
}

// makeKeys makes the root's keys of a new record. Those that were made when it
// fails are destroyed again.
func (k *KMS) makeKeys(ctx context.Context, r *record, imported []byte) (err error) {
	var made [][]byte
	defer func() {
		if err != nil {
			k.destroy(ctx, made)
		}
	}()
	add := func(purpose Purpose, key []byte) []byte {
		if err != nil {
			return nil
		}
		var handle []byte
		if key == nil {
			handle, err = k.root.NewKey(ctx, r.ID, purpose)
		} else {
			handle, err = k.root.ImportKey(ctx, r.ID, purpose, key)
		}
		if err == nil {
			made = append(made, handle)
		}
		return handle
	}
	r.Versions = []version{{Number: 1, Created: r.Created, Reserved: creationOperations + firstBranchStep, Handle: add(Encryption, imported)}}
	r.MACHandle = add(Authentication, nil)
	if imported != nil {
		r.Imported = true
		r.KESHandle = add(Authentication, imported)
	}
	return err
}

// commit stores a new record, reads it back and uses what it names, so that
// what is acknowledged can be opened.
func (k *KMS) commit(ctx context.Context, r *record) error {
	raw, err := k.seal(ctx, r)
	if err != nil {
		return err
	}
	storeCtx, cancel := context.WithTimeout(ctx, k.cfg.StoreTimeout)
	defer cancel()
	err = k.store.Create(storeCtx, r.Name, raw)
	if errors.Is(err, keystore.ErrExists) {
		return k.lostRace(ctx, r)
	}
	if err != nil {
		// It may have been stored: the root's keys must stay.
		return storeError(err)
	}
	back, _, err := k.read(ctx, r.Name)
	if err != nil {
		return unavailable("read back", err)
	}
	if back.ID != r.ID {
		return fmt.Errorf("%w: another key was read back", ErrCorrupt)
	}
	if err := k.tryKey(ctx, back); err != nil {
		return unavailable("try the new key", err)
	}
	back.budget.left.Add(firstBranchStep) // so that the first use needs no write
	return nil
}

// lostRace is the answer for a create of r that another create of the name beat. The
// root's keys of r are destroyed only when another key is seen to have the name: a
// record that a store took for another's could be r itself.
func (k *KMS) lostRace(ctx context.Context, r *record) error {
	winner, _, err := k.read(ctx, r.Name)
	switch {
	case errors.Is(err, ErrCorrupt):
		return err
	case err != nil:
		return ErrKeyExists
	case winner.ID == r.ID:
		return fmt.Errorf("%w: the store takes the new record for another's", ErrUnavailable)
	}
	k.destroy(ctx, r.handles())
	return winner.taken()
}

// tryKey encrypts and decrypts once with the key as it was stored.
func (k *KMS) tryKey(ctx context.Context, r *record) error {
	plaintext, ad := []byte("keygate key test"), []byte("keygate key test v1")
	handle := r.newest().Handle
	c, err := k.root.Encrypt(ctx, handle, plaintext, ad)
	if err != nil {
		return err
	}
	p, err := k.root.Decrypt(ctx, handle, c, ad)
	if err != nil {
		return err
	}
	if string(p) != string(plaintext) {
		return fmt.Errorf("%w: the root decrypts to something else", ErrUnavailable)
	}
	return nil
}

// destroy is best effort: what stays is a key without a record, of no use to
// anyone.
func (k *KMS) destroy(ctx context.Context, handles [][]byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.cfg.StoreTimeout)
	defer cancel()
	for _, h := range handles {
		if err := k.root.DestroyKey(ctx, h); err != nil {
			k.cfg.Logger.WarnContext(ctx, "kms: a key without a record stays in the root", "error", err)
		}
	}
}

// DescribeKey returns what is known of a key, also of one that is pending
// deletion.
func (k *KMS) DescribeKey(ctx context.Context, name string) (Info, error) {
	r, err := k.lookup(ctx, name)
	if err != nil {
		return Info{}, err
	}
	return k.info(r), nil
}

// listPage is how many names one call of the store is asked for.
const listPage = 10_000

// ListKeys returns the names that start with prefix, all of them, in ascending
// order. Keys that are pending deletion are among them: their names are taken.
func (k *KMS) ListKeys(ctx context.Context, prefix string) ([]string, error) {
	if !keystore.ValidPrefix(prefix) {
		return nil, ErrName
	}
	var names []string
	after := ""
	for {
		storeCtx, cancel := context.WithTimeout(ctx, k.cfg.StoreTimeout)
		page, err := k.store.List(storeCtx, prefix, after, listPage)
		cancel()
		if err != nil {
			return nil, storeError(err)
		}
		names = append(names, page...)
		if len(page) < listPage {
			return names, nil
		}
		after = page[len(page)-1]
	}
}

// DeleteKey ends the use of a key. With a deletion window the record stays, as
// PendingDeletion, and nothing is lost; the second delete of such a key changes
// nothing. Without one the key is gone.
func (k *KMS) DeleteKey(ctx context.Context, name string) (Info, error) {
	if !keystore.ValidName(name) {
		return Info{}, ErrName
	}
	for {
		info, err := k.tryDelete(ctx, name)
		// A conflict means that another writer got further, so this ends.
		if !errors.Is(err, keystore.ErrConflict) {
			return info, err
		}
		if ctx.Err() != nil {
			return Info{}, fmt.Errorf("%w: delete: %w", ErrUnavailable, ctx.Err())
		}
	}
}

func (k *KMS) tryDelete(ctx context.Context, name string) (Info, error) {
	r, rev, err := k.read(ctx, name)
	if err != nil {
		return Info{}, err
	}
	if k.cfg.DeletionWindow < 0 {
		return k.info(r), k.remove(ctx, r, rev)
	}
	if r.State == PendingDeletion {
		return k.info(r), nil
	}
	next := *r
	next.State = PendingDeletion
	next.DeleteAfter = k.cfg.Now().Add(k.cfg.DeletionWindow).UTC()
	if err := k.replace(ctx, &next, rev); err != nil {
		return Info{}, err
	}
	return k.info(&next), nil
}

func (k *KMS) remove(ctx context.Context, r *record, rev keystore.Revision) error {
	storeCtx, cancel := context.WithTimeout(ctx, k.cfg.StoreTimeout)
	defer cancel()
	err := k.store.Delete(storeCtx, r.Name, rev)
	k.records.forget(r.Name, k.cfg.MaxRecords)
	k.forgetBranches(r)
	if err != nil {
		return storeError(err)
	}
	k.destroy(ctx, r.handles())
	return nil
}

func (k *KMS) info(r *record) Info {
	v := r.newest()
	return Info{
		Name: r.Name, ID: r.ID, State: r.State, Version: v.Number, Mode: k.mode(r), Imported: r.Imported,
		Created: r.Created, CreatedBy: r.CreatedBy, DeleteAfter: r.DeleteAfter, Operations: v.Reserved,
	}
}

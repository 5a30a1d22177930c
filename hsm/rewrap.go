package hsm

import (
	"context"
	"fmt"

	"github.com/keygate/keygate/kms"
)

var _ kms.Rewrapper = (*Root)(nil)

// Rewrap has the present KEK wrap a handle's key; see kms.Rewrapper. Of several tokens
// each has shown that it can use the new handle: a token that is away, or has not got
// the KEK, is ErrUnavailable, as the key would depend on the others alone.
func (r *Root) Rewrap(ctx context.Context, handle []byte) (next []byte, changed bool, err error) {
	if _, err := parseHandle(handle); err != nil {
		return nil, false, err
	}
	next, err = r.group.do(ctx, op{kind: opRewrap, a: handle})
	if err != nil {
		return nil, false, err
	}
	if len(next) == 0 {
		return handle, false, nil
	}
	if err := r.loadedByAll(ctx, next); err != nil {
		return nil, false, err
	}
	return next, true, nil
}

// loadedByAll returns an error unless each token of a group can use a key.
func (r *Root) loadedByAll(ctx context.Context, handle []byte) error {
	if len(r.group.members) == 1 {
		return nil // it has just done so
	}
	for _, m := range r.group.members {
		if _, err := m.do(ctx, &op{kind: opLoad, a: handle}); err != nil {
			return fmt.Errorf("hsm: a key is not wrapped again, since %s cannot use it then: %w: %w", m.name, kms.ErrUnavailable, err)
		}
	}
	return nil
}

// WrappedBy names the KEK of a handle: by its label or, if it is neither kek nor one
// of other_keks, by its CKA_ID; see kms.Rewrapper.
func (r *Root) WrappedBy(ctx context.Context, handle []byte) (kek string, present bool, err error) {
	if _, err := parseHandle(handle); err != nil {
		return "", false, err
	}
	answer, err := r.group.do(ctx, op{kind: opWrappedBy, a: handle})
	if err == nil && len(answer) == 0 {
		err = errStale
	}
	if err != nil {
		return "", false, err
	}
	return string(answer[1:]), answer[0] == 1, nil
}

// wrappedBy returns one byte, 1 if the present KEK wraps the key of a handle, else 0,
// and the name of the KEK.
func (l *link) wrappedBy(handle []byte) ([]byte, error) {
	h, err := parseHandle(handle)
	if err != nil {
		return nil, err
	}
	if h.wrapping == inToken {
		return []byte{0}, nil
	}
	k, err := l.kekOf(h)
	switch {
	case err != nil:
		return append([]byte{0}, fmt.Sprintf("KEK %x, which is neither kek nor one of other_keks", h.kek)...), nil
	case k == l.present():
		return append([]byte{1}, k.label...), nil
	}
	return append([]byte{0}, k.label...), nil
}

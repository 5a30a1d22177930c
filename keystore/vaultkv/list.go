package vaultkv

import (
	"context"
	"slices"
	"strings"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/vault/vaultapi"
)

// List asks the engine for all names, as it has no pages, and reads those of the
// page that were deleted at some time: ask for many at a time.
func (s *Store) List(ctx context.Context, prefix, after string, n int) ([]string, error) {
	err := keystore.CheckList(ctx, prefix, after)
	if err != nil {
		return nil, wrap("list", err)
	}
	names, err := s.list(ctx, prefix, after, n)
	if err != nil {
		return nil, wrap("list", err)
	}
	return names, nil
}

func (s *Store) list(ctx context.Context, prefix, after string, n int) ([]string, error) {
	names, err := s.names(ctx, "records")
	if err != nil {
		return nil, err
	}
	// After the names: a record that is deleted between the two is listed or not.
	marked, err := s.names(ctx, "deleted")
	if err != nil {
		return nil, err
	}
	if err := s.verify(ctx); err != nil {
		return nil, err // it may have been another store that has no names
	}
	page := []string{}
	for _, name := range names {
		if len(page) >= n {
			break
		}
		if name <= after || !strings.HasPrefix(name, prefix) {
			continue
		}
		if _, ok := slices.BinarySearch(marked, name); ok {
			if e, err := s.readRecord(ctx, name); err == nil && (e == nil || e.Data.Deleted) {
				continue
			} else if err != nil && !isCorrupt(err) {
				return nil, err
			}
		}
		page = append(page, name)
	}
	return page, nil
}

// names returns the valid names below a path, sorted.
func (s *Store) names(ctx context.Context, path string) ([]string, error) {
	var out struct{ Keys []string }
	err := s.api.List(ctx, s.path("metadata", path), &out)
	if vaultapi.Is(err, vaultapi.Absent) {
		return nil, nil
	}
	if err != nil {
		return nil, failed(err)
	}
	names := slices.DeleteFunc(out.Keys, func(name string) bool { return !keystore.ValidName(name) })
	slices.Sort(names)
	return names, nil
}

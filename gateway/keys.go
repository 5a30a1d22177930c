package gateway

import (
	"errors"
	"time"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/policy"
)

// name returns the key name that the request is about, or the answer that there
// is none. The audit entry has it where it is valid.
func (r *request) name() (string, error) {
	if !keystore.ValidName(r.resource) {
		return "", api.NameError("key name", shorten(r.resource))
	}
	return r.resource, nil
}

// used writes down which key an operation used, also one that failed.
func (r *request) used(u kms.Use) {
	r.entry.KeyID, r.entry.Version = u.KeyID, u.Version
	r.entry.Outage = u.Outage
	if u.Mode != 0 {
		r.entry.Mode = u.Mode.String()
	}
}

func (r *request) described(info kms.Info) { r.entry.KeyID, r.entry.Version = info.ID, info.Version }

func (s *Server) createKey(r *request) (any, error) {
	name, err := r.name()
	if err != nil {
		return nil, err
	}
	mode, err := r.createMode()
	if err != nil {
		return nil, err
	}
	info, err := s.cfg.KMS.CreateKeyWithMode(&r.ctx, name, string(r.identity), mode)
	r.described(info)
	return nil, err
}

func (s *Server) importKey(r *request) (any, error) {
	name, err := r.name()
	if err != nil {
		return nil, err
	}
	if err := r.read(); errors.Is(err, api.ErrOverload) {
		return nil, err
	}
	var in api.ImportKeyRequest
	err = r.decode(&in)
	defer func() { clear(in.Key) }()
	if err != nil {
		return nil, api.ErrImportBody
	}
	if in.Cipher != api.CipherAES256 && in.Cipher != api.CipherAES256KES {
		return nil, api.CipherError(in.Cipher)
	}
	info, err := s.cfg.KMS.ImportKey(&r.ctx, name, string(r.identity), in.Key)
	r.described(info)
	return nil, err
}

func (s *Server) describeKey(r *request) (any, error) {
	name, err := r.name()
	if err != nil {
		return nil, err
	}
	info, err := s.cfg.KMS.DescribeKey(&r.ctx, name)
	if err != nil {
		return nil, err
	}
	r.described(info)
	return &api.DescribeKeyResponse{
		Name: info.Name, Algorithm: api.CipherAES256, CreatedAt: info.Created, CreatedBy: info.CreatedBy,
		ID: info.ID.String(), State: info.State.String(), Version: info.Version, Mode: info.Mode.String(),
		Operations: info.Operations, Imported: info.Imported, DeleteAfter: optional(info.DeleteAfter),
	}, nil
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (s *Server) deleteKey(r *request) (any, error) {
	name, err := r.name()
	if err != nil {
		return nil, err
	}
	info, err := s.cfg.KMS.DeleteKey(&r.ctx, name)
	r.described(info)
	return nil, err
}

// listKeys answers all names. KES's pages lose names, as its clients send the
// beginning of the next page as a prefix.
func (s *Server) listKeys(r *request) (any, error) {
	prefix, err := r.prefix()
	if err != nil {
		return nil, err
	}
	names, err := s.cfg.KMS.ListKeys(&r.ctx, prefix)
	if err != nil {
		return nil, err
	}
	return &api.ListKeysResponse{Names: visible(r, policy.ListKeys, names)}, nil
}

// prefix returns the beginning of names that a listing is about. One "*" at its
// end means nothing.
func (r *request) prefix() (string, error) {
	prefix := policy.ListPrefix(r.resource)
	if !keystore.ValidPrefix(prefix) {
		return "", api.PatternError(shorten(r.resource))
	}
	return prefix, nil
}

// visible returns names without those that the client's policy denies to list.
// It is never nil: a list of none is [], not null.
func visible(r *request, a policy.Action, names []string) []string {
	seen := make([]string, 0, len(names))
	for _, name := range names {
		if !r.state.Rules.Hides(r.identity, a, name) {
			seen = append(seen, name)
		}
	}
	return seen
}

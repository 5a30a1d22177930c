package gateway

import (
	"encoding/base64"

	"github.com/keygate/keygate/api"
)

func (s *Server) generateDataKey(r *request) (any, error) {
	name, err := r.name()
	if err != nil {
		return nil, err
	}
	var in api.GenerateKeyRequest
	if err := r.decodeOptional(&in); err != nil {
		return nil, err
	}
	if in.Plaintext != nil && !*in.Plaintext {
		ciphertext, use, err := s.cfg.KMS.GenerateDataKeyWithoutPlaintext(&r.ctx, name, in.Context)
		r.used(use)
		if err == nil && !decryptable(len(ciphertext), len(in.Context)) {
			err = api.ErrBody
		}
		if err != nil {
			return nil, err
		}
		return &api.GenerateKeyResponse{Ciphertext: ciphertext}, nil
	}
	plaintext, ciphertext, use, err := s.cfg.KMS.GenerateDataKey(&r.ctx, name, in.Context)
	r.used(use)
	if err == nil && !decryptable(len(ciphertext), len(in.Context)) {
		clear(plaintext)
		err = api.ErrBody
	}
	if err != nil {
		return nil, err
	}
	return &api.GenerateKeyResponse{Plaintext: plaintext, Ciphertext: ciphertext}, nil
}

func (s *Server) encrypt(r *request) (any, error) {
	name, err := r.name()
	if err != nil {
		return nil, err
	}
	var in api.EncryptRequest
	err = r.decode(&in)
	defer func() { clear(in.Plaintext) }()
	if err != nil {
		return nil, err
	}
	ciphertext, use, err := s.cfg.KMS.Encrypt(&r.ctx, name, in.Plaintext, in.Context)
	r.used(use)
	if err == nil && !decryptable(len(ciphertext), len(in.Context)) {
		err = api.ErrBody
	}
	if err != nil {
		return nil, err
	}
	return &api.EncryptResponse{Ciphertext: ciphertext}, nil
}

// decryptable reports whether a ciphertext and its context, of those bytes, fit in
// the body of a decrypt. The ciphertext is longer than what it was made of, so the
// last contexts and plaintexts that fit in a body would make one that could never
// be sent back.
func decryptable(ciphertext, context int) bool {
	const rest = len(`{"ciphertext":"","context":""}`)
	size := base64.StdEncoding.EncodedLen(ciphertext) + base64.StdEncoding.EncodedLen(context)
	return size+rest <= api.MaxBody
}

func (s *Server) decrypt(r *request) (any, error) {
	name, err := r.name()
	if err != nil {
		return nil, err
	}
	var in api.DecryptRequest
	if err := r.decode(&in); err != nil {
		return nil, err
	}
	plaintext, use, err := s.cfg.KMS.Decrypt(&r.ctx, name, in.Ciphertext, in.Context)
	r.used(use)
	if err != nil {
		return nil, err
	}
	return &api.DecryptResponse{Plaintext: plaintext}, nil
}

func (s *Server) mac(r *request) (any, error) {
	name, err := r.name()
	if err != nil {
		return nil, err
	}
	var in api.HMACRequest
	err = r.decode(&in)
	defer func() { clear(in.Message) }()
	if err != nil {
		return nil, err
	}
	mac, use, err := s.cfg.KMS.MAC(&r.ctx, name, in.Message)
	r.used(use)
	if err != nil {
		return nil, err
	}
	return &api.HMACResponse{HMAC: mac[:]}, nil
}

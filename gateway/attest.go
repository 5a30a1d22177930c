package gateway

import (
	"encoding/hex"

	"github.com/keygate/keygate/api"
)

// maxNonce is in bytes.
const maxNonce = 64

// attest answers what the tokens of the root of trust say of their keys. The nonce of
// the query, if there is one, is in what is signed.
func (s *Server) attest(r *request) (any, error) {
	nonce, err := hex.DecodeString(r.http.URL.Query().Get("nonce"))
	if err != nil || len(nonce) > maxNonce {
		return nil, api.ErrNonce
	}
	if s.cfg.Attest == nil {
		return nil, api.ErrNoAttestation
	}
	return s.cfg.Attest(&r.ctx, nonce)
}

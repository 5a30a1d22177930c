package client

import (
	"context"
	"encoding/hex"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/policy"
)

// Attest returns what the HSM tokens of the gateway say of the root keys, signed by a
// key in each. A nonce, of 64 bytes at most, shows that they are new: it is in what is
// signed. Nothing in the answer is to be believed before its signature was verified.
func (c *Client) Attest(ctx context.Context, nonce []byte) (*api.AttestResponse, error) {
	return get[api.AttestResponse](ctx, c, path(policy.AttestHSM, "")+"?nonce="+hex.EncodeToString(nonce))
}

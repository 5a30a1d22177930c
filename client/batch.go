package client

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/policy"
)

// maxBatchAnswer is more than the answer to any batch: each item of an answer is
// at most some hundred bytes longer than what it answers.
const maxBatchAnswer = 16 << 20

// A DataKey is a data key and its ciphertext. The caller wipes Plaintext.
type DataKey = api.GenerateKeyResponse

// A Ciphertext is one of a batch, with the additional data that it was made with.
type Ciphertext = api.DecryptRequest

// An Opened is what came of a Ciphertext of a batch: a plaintext, which the
// caller wipes, or why there is none.
type Opened struct {
	Plaintext api.Secret
	Err       error
}

// LogValue returns the error, or else a mark: the plaintext is not logged.
func (o Opened) LogValue() slog.Value {
	if o.Err != nil {
		return slog.AnyValue(o.Err)
	}
	return o.Plaintext.LogValue()
}

// GenerateKeys returns n random data keys, at most kms.MaxBatch, which Decrypt and
// DecryptBatch open only with the same additional data.
func (c *Client) GenerateKeys(ctx context.Context, name string, n int, additionalData []byte) ([]DataKey, error) {
	in := struct {
		Count   int    `json:"count"` // also if it is 0
		Context []byte `json:"context,omitempty"`
	}{n, additionalData}
	return c.generateBatch(ctx, name, n, in)
}

// GenerateKeysFor returns a random data key for each of contexts, at most
// kms.MaxBatch.
func (c *Client) GenerateKeysFor(ctx context.Context, name string, contexts [][]byte) ([]DataKey, error) {
	in := struct {
		Contexts [][]byte `json:"contexts"`
	}{append([][]byte{}, contexts...)} // not null
	return c.generateBatch(ctx, name, len(contexts), in)
}

func (c *Client) generateBatch(ctx context.Context, name string, n int, in any) ([]DataKey, error) {
	var out []DataKey
	r := call{method: http.MethodPut, path: path(policy.BatchGenerate, name), limit: maxBatchAnswer}
	if err := c.exchange(ctx, r, in, &out); err != nil {
		return nil, err
	}
	if len(out) != n {
		return nil, fmt.Errorf("client: %d data keys were answered, not %d", len(out), n)
	}
	return out, nil
}

// DecryptBatch opens up to kms.MaxBatch ciphertexts of one key, each with an error
// of its own, such as kms.ErrCiphertext. The results are in the order of batch.
func (c *Client) DecryptBatch(ctx context.Context, name string, batch []Ciphertext) ([]Opened, error) {
	var out []api.BatchDecryptItem
	r := call{method: http.MethodPut, path: path(policy.BatchDecrypt, name), limit: maxBatchAnswer}
	if err := c.exchange(ctx, r, append([]Ciphertext{}, batch...), &out); err != nil {
		return nil, err
	}
	if len(out) != len(batch) {
		return nil, fmt.Errorf("client: %d ciphertexts were answered, not %d", len(out), len(batch))
	}
	opened := make([]Opened, len(out))
	for i, one := range out {
		if opened[i].Plaintext = one.Plaintext; one.Error != "" {
			opened[i].Err = api.ItemError(one.Error)
		}
	}
	return opened, nil
}

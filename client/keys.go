package client

import (
	"context"
	"fmt"
	"net/http"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/policy"
)

// CreateKey makes a key inside the gateway's root of trust. It returns
// kms.ErrKeyExists or kms.ErrPendingDeletion if the name is taken.
//
// CreateKey, ImportKey and DeleteKey are sent again, to another gateway, only
// if they did not arrive at the first. After any other failure the key may or
// may not be there: describe it.
func (c *Client) CreateKey(ctx context.Context, name string) error {
	return c.exchange(ctx, call{method: http.MethodPut, path: path(policy.CreateKey, name), once: true}, nil, nil)
}

// CreateKeyWithMode is CreateKey for a key whose data keys are made in a mode of
// its own: "direct", "branch", or "default", which is the gateway's.
func (c *Client) CreateKeyWithMode(ctx context.Context, name, mode string) error {
	in := api.CreateKeyRequest{Mode: mode}
	return c.exchange(ctx, call{method: http.MethodPut, path: path(policy.CreateKey, name), once: true}, in, nil)
}

// SetKeyMode changes the mode of a key, as CreateKeyWithMode names it.
// Ciphertexts of before open as they did.
func (c *Client) SetKeyMode(ctx context.Context, name, mode string) error {
	return c.post(ctx, path(policy.SetKeyMode, name), api.SetModeRequest{Mode: mode}, nil)
}

// ImportKey makes a key of the caller's 32 bytes, which opens ciphertexts that
// KES made under them; else it is like CreateKey. The caller wipes key.
func (c *Client) ImportKey(ctx context.Context, name string, key []byte) error {
	in := api.ImportKeyRequest{Key: key, Cipher: api.CipherAES256}
	return c.exchange(ctx, call{method: http.MethodPut, path: path(policy.ImportKey, name), once: true}, in, nil)
}

// DescribeKey returns what is known of a key, also of one that is pending
// deletion.
func (c *Client) DescribeKey(ctx context.Context, name string) (*api.DescribeKeyResponse, error) {
	return get[api.DescribeKeyResponse](ctx, c, path(policy.DescribeKey, name))
}

// ListKeys returns the names that start with prefix, all of them, in ascending
// order.
func (c *Client) ListKeys(ctx context.Context, prefix string) ([]string, error) {
	out := new(api.ListKeysResponse)
	r := call{method: http.MethodGet, path: path(policy.ListKeys, prefix), limit: maxList}
	if err := c.exchange(ctx, r, nil, out); err != nil {
		return nil, err
	}
	return all(out.Names, out.ContinueAt)
}

// DeleteKey ends the use of a key. Whether it is kept for a while is the
// gateway's setting; DescribeKey tells until when.
func (c *Client) DeleteKey(ctx context.Context, name string) error {
	return c.exchange(ctx, call{method: http.MethodDelete, path: path(policy.DeleteKey, name), once: true}, nil, nil)
}

// GenerateKey returns a random 32-byte data key and its ciphertext, which
// Decrypt opens only with the same additional data. The caller wipes plaintext.
func (c *Client) GenerateKey(ctx context.Context, name string, additionalData []byte) (plaintext, ciphertext []byte, err error) {
	var out api.GenerateKeyResponse
	in := api.GenerateKeyRequest{Context: additionalData}
	if err := c.post(ctx, path(policy.GenerateDataKey, name), in, &out); err != nil {
		return nil, nil, err
	}
	return out.Plaintext, out.Ciphertext, nil
}

// GenerateKeyWithoutPlaintext returns the ciphertext of a random 32-byte data key
// for use elsewhere: its plaintext never leaves the gateway before Decrypt.
func (c *Client) GenerateKeyWithoutPlaintext(ctx context.Context, name string, additionalData []byte) (ciphertext []byte, err error) {
	var out api.GenerateKeyResponse
	plaintext := false
	in := api.GenerateKeyRequest{Context: additionalData, Plaintext: &plaintext}
	err = c.post(ctx, path(policy.GenerateDataKey, name), in, &out)
	return out.Ciphertext, err
}

// Encrypt encrypts plaintext and authenticates additionalData with it. Both
// together have to fit in a request of api.MaxBody bytes, in base64.
func (c *Client) Encrypt(ctx context.Context, name string, plaintext, additionalData []byte) (ciphertext []byte, err error) {
	var out api.EncryptResponse
	in := api.EncryptRequest{Plaintext: plaintext, Context: additionalData}
	err = c.post(ctx, path(policy.Encrypt, name), in, &out)
	return out.Ciphertext, err
}

// Decrypt opens a ciphertext of GenerateKey or Encrypt. It returns
// kms.ErrCiphertext unless key, additional data and every bit are right. The
// caller wipes plaintext.
func (c *Client) Decrypt(ctx context.Context, name string, ciphertext, additionalData []byte) (plaintext []byte, err error) {
	var out api.DecryptResponse
	in := api.DecryptRequest{Ciphertext: ciphertext, Context: additionalData}
	err = c.post(ctx, path(policy.Decrypt, name), in, &out)
	return out.Plaintext, err
}

// HMAC returns HMAC-SHA-256 of message, 32 bytes, under a MAC key that belongs
// to the named key. It returns kms.ErrNoMAC if there is none.
func (c *Client) HMAC(ctx context.Context, name string, message []byte) (mac []byte, err error) {
	var out api.HMACResponse
	err = c.post(ctx, path(policy.MAC, name), api.HMACRequest{Message: message}, &out)
	return out.HMAC, err
}

func (c *Client) post(ctx context.Context, path string, in, out any) error {
	return c.exchange(ctx, call{method: http.MethodPut, path: path}, in, out)
}

// all returns names, unless the server holds some back: a list that is taken
// for whole and is not has cost users of KES their keys.
func all(names []string, continueAt string) ([]string, error) {
	if continueAt != "" {
		return nil, fmt.Errorf("client: the server listed only part: the rest begins at %q", continueAt)
	}
	return names, nil
}

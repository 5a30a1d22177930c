package soak_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/client"
)

// generate makes a data key and keeps it.
func (h hand) generate(ctx context.Context) error {
	k, about := h.key(), random(h.rand.IntN(40))
	var made api.GenerateKeyResponse
	if err := h.call(ctx, "PUT", "/v1/key/generate/"+k.name, api.GenerateKeyRequest{Context: about}, &made); err != nil {
		return err
	}
	if len(made.Plaintext) != 32 {
		return fmt.Errorf("%w: a data key of %d bytes", errWrong, len(made.Plaintext))
	}
	k.keep(sealed{about, made.Plaintext, made.Ciphertext})
	return nil
}

// decrypt opens what was sealed before.
func (h hand) decrypt(ctx context.Context) error {
	k := h.key()
	for _, s := range h.some(k, 1) {
		if err := h.opens(ctx, k.name, s); err != nil {
			return err
		}
	}
	return nil
}

func (h hand) opens(ctx context.Context, name string, s sealed) error {
	var opened api.DecryptResponse
	if err := h.call(ctx, "PUT", "/v1/key/decrypt/"+name, api.DecryptRequest{Ciphertext: s.ciphertext, Context: s.context}, &opened); err != nil {
		return err
	}
	return isEqual(opened.Plaintext, s.plaintext)
}

// encrypt seals something that is small, or larger than a root takes, or large.
func (h hand) encrypt(ctx context.Context) error {
	k := h.key()
	s := sealed{context: random(h.rand.IntN(40)), plaintext: random(h.rand.IntN(200))}
	switch h.rand.IntN(10) {
	case 0:
		s.plaintext = random(5000)
	case 1:
		s.plaintext = random(100_000)
	}
	var made api.EncryptResponse
	if err := h.call(ctx, "PUT", "/v1/key/encrypt/"+k.name, api.EncryptRequest{Plaintext: s.plaintext, Context: s.context}, &made); err != nil {
		return err
	}
	s.ciphertext = made.Ciphertext
	if len(s.plaintext) > 10_000 {
		return h.opens(ctx, k.name, s) // not kept: that is memory of this process
	}
	k.keep(s)
	return nil
}

// hmac has a key answer what it always has.
func (h hand) hmac(ctx context.Context) error {
	k := h.key()
	var made api.HMACResponse
	if err := h.call(ctx, "PUT", "/v1/key/hmac/"+k.name, api.HMACRequest{Message: []byte(macMessage)}, &made); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mac == nil {
		k.mac = made.HMAC
	}
	if len(made.HMAC) != 32 || !slices.Equal(made.HMAC, k.mac) {
		return fmt.Errorf("%w: the MAC under %s is another than before", errWrong, k.name)
	}
	return nil
}

func (h hand) bulkDecrypt(ctx context.Context) error {
	k := h.key()
	all := h.some(k, 10)
	var in []api.DecryptRequest
	for _, s := range all {
		in = append(in, api.DecryptRequest{Ciphertext: s.ciphertext, Context: s.context})
	}
	if len(in) == 0 {
		return nil
	}
	var out []api.DecryptResponse
	if err := h.call(ctx, "PUT", "/v1/key/bulk/decrypt/"+k.name, in, &out); err != nil {
		return err
	}
	if len(out) != len(all) {
		return fmt.Errorf("%w: %d of %d", errWrong, len(out), len(all))
	}
	for i, s := range all {
		if err := isEqual(out[i].Plaintext, s.plaintext); err != nil {
			return err
		}
	}
	return nil
}

// batches makes data keys with the client that is shipped, and opens them with one
// that does not open among them.
func (h hand) batches(ctx context.Context) error {
	identity := fmt.Sprintf("app-%d", h.rand.IntN(4))
	c, err := client.New(client.Config{Endpoints: []string{h.base}, Certificate: program.clients[identity], RootCAs: program.roots})
	if err != nil {
		return err
	}
	defer c.Close()
	k := h.key()
	made, err := c.GenerateKeys(ctx, k.name, 8, []byte("batch"))
	if err != nil {
		return err
	}
	var in []client.Ciphertext
	for _, one := range made {
		in = append(in, client.Ciphertext{Ciphertext: one.Ciphertext, Context: []byte("batch")})
	}
	in[3].Context = []byte("another")
	out, err := c.DecryptBatch(ctx, k.name, in)
	if err != nil {
		return err
	}
	for i, one := range out {
		if i == 3 && one.Err == nil {
			return fmt.Errorf("%w: an item opens in another context", errWrong)
		}
		if i != 3 {
			if err := errors.Join(one.Err, isEqual(one.Plaintext, made[i].Plaintext)); err != nil {
				return fmt.Errorf("item %d: %w", i, err)
			}
		}
	}
	return nil
}

func (h hand) describe(ctx context.Context) error {
	k := h.key()
	var d api.DescribeKeyResponse
	if err := h.call(ctx, "GET", "/v1/key/describe/"+k.name, nil, &d); err != nil {
		return err
	}
	if d.Name != k.name || d.Mode != k.mode || d.State != "enabled" || d.Imported {
		return fmt.Errorf("%w: %s is %+v", errWrong, k.name, d)
	}
	return nil
}

func (h hand) list(ctx context.Context) error {
	var all api.ListKeysResponse
	if err := h.call(ctx, "GET", "/v1/key/list/soak-", nil, &all); err != nil {
		return err
	}
	var want []string
	for _, k := range h.keys {
		want = append(want, k.name)
	}
	if slices.Sort(want); !slices.Equal(all.Names, want) {
		return fmt.Errorf("%w: the list has %d names, not %d", errWrong, len(all.Names), len(want))
	}
	return nil
}

// createAndDelete is the whole life of a key, whose name is used once.
func (h hand) createAndDelete(ctx context.Context) error {
	mode := []string{"branch", "direct"}[h.rand.IntN(2)]
	name := h.name()
	if err := h.call(ctx, "PUT", "/v1/key/create/"+name, api.CreateKeyRequest{Mode: mode}, nil); err != nil {
		return err
	}
	other := map[string]string{"branch": "direct", "direct": "branch"}[mode]
	if err := h.call(ctx, "PUT", "/v1/key/mode/"+name, api.SetModeRequest{Mode: other}, nil); err != nil {
		return err
	}
	if err := answers(h.call(ctx, "PUT", "/v1/key/create/"+name, nil, nil), 400); err != nil {
		return fmt.Errorf("create twice: %w", err)
	}
	return h.useAndDelete(ctx, name)
}

func (h hand) importAndDelete(ctx context.Context) error {
	name := h.name()
	if err := h.call(ctx, "PUT", "/v1/key/import/"+name, api.ImportKeyRequest{Key: random(32), Cipher: api.CipherAES256}, nil); err != nil {
		return err
	}
	return h.useAndDelete(ctx, name)
}

func (h hand) useAndDelete(ctx context.Context, name string) error {
	var made api.GenerateKeyResponse
	if err := h.call(ctx, "PUT", "/v1/key/generate/"+name, nil, &made); err != nil {
		return err
	}
	s := sealed{nil, made.Plaintext, made.Ciphertext}
	if err := h.opens(ctx, name, s); err != nil {
		return err
	}
	if err := h.call(ctx, "DELETE", "/v1/key/delete/"+name, nil, nil); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if err := answers(h.opens(ctx, name, s), 404); err != nil {
		return fmt.Errorf("after its deletion: %w", err)
	}
	return nil
}

func (h hand) noSuchKey(ctx context.Context) error {
	name := h.name()
	if h.rand.IntN(2) == 0 {
		return answers(h.call(ctx, "GET", "/v1/key/describe/"+name, nil, nil), 404)
	}
	return answers(h.call(ctx, "PUT", "/v1/key/generate/"+name, nil, nil), 404)
}

func (h hand) denied(ctx context.Context) error {
	if h.rand.IntN(2) == 0 {
		return answers(h.call(ctx, "GET", "/v1/policy/list/", nil, nil), 403)
	}
	return answers(h.call(ctx, "PUT", "/v1/key/generate/forbidden-1", nil, nil), 403)
}

// stranger is a client that nobody knows, on a connection of its own, with an
// identity that comes once.
func (h hand) stranger(ctx context.Context) error {
	key, err := client.GenerateAPIKey()
	if err != nil {
		return err
	}
	certificate, err := key.Certificate()
	if err != nil {
		return err
	}
	d := h.g.newDoor(certificate, h.rand.IntN(2) == 0)
	defer d.close()
	return answers(d.call(ctx, "PUT", "/v1/key/generate/"+h.key().name, nil, nil), 403)
}

// malformed sends what no client should.
func (h hand) malformed(ctx context.Context) error {
	k := h.key()
	switch h.rand.IntN(6) {
	case 0:
		return answers(h.call(ctx, "PUT", "/v1/key/generate/"+k.name, `{"context":`, nil), 400)
	case 1:
		return answers(h.call(ctx, "PUT", "/v1/key/decrypt/"+k.name, `{"ciphertext":"####"}`, nil), 400)
	case 2:
		return answers(h.call(ctx, "PUT", "/v1/key/create/not%20a%20name", nil, nil), 400)
	case 3:
		return answers(h.call(ctx, "GET", "/v1/key/generate/"+k.name, nil, nil), 405)
	case 4:
		return answers(h.call(ctx, "GET", "/v1/nothing/here", nil, nil), 501)
	}
	return answers(h.call(ctx, "PUT", "/v1/key/import/"+h.name(), api.ImportKeyRequest{Key: random(31), Cipher: api.CipherAES256}, nil), 406)
}

// notAuthentic sends ciphertexts that were changed, or are another key's. 409 and
// the like are not among the answers: these keys are in use.
func (h hand) notAuthentic(ctx context.Context) error {
	k := h.key()
	some := h.some(k, 1)
	if len(some) == 0 {
		return nil
	}
	in := api.DecryptRequest{Ciphertext: slices.Clone(some[0].ciphertext), Context: some[0].context}
	if h.rand.IntN(2) == 0 {
		in.Context = append([]byte("not "), in.Context...)
	} else {
		in.Ciphertext[len(in.Ciphertext)-1] ^= 1
	}
	return answers(h.call(ctx, "PUT", "/v1/key/decrypt/"+k.name, in, nil), 400)
}

// cancelled is a request in direct mode, or one that makes a batch, whose client
// leaves within some milliseconds. If it is answered all the same the answer counts.
func (h hand) cancelled(ctx context.Context) error {
	k := h.key()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(h.rand.Int64N(int64(3*time.Millisecond))))
	defer cancel()
	var made api.GenerateKeyResponse
	err := h.call(ctx, "PUT", "/v1/key/generate/"+k.name, nil, &made)
	if err != nil && ctx.Err() != nil {
		return nil
	}
	if err == nil {
		k.keep(sealed{nil, made.Plaintext, made.Ciphertext})
	}
	return err
}

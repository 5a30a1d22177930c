package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// A gateway is a server that runs, and what is known of it.
type gateway struct {
	*process
	state *state
}

// gateway starts one with a configuration of its own, which is kept under name.
func (b *bench) gateway(ctx context.Context, name string, c config, env ...string) (*gateway, error) {
	file, err := b.state.write(name, c)
	if err != nil {
		return nil, err
	}
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	p, err := startProcess(ctx, b.state.file(name+".log"), addr, env, b.keygate, "server", "--config", file, "--addr", addr)
	if err != nil {
		return nil, err
	}
	g := &gateway{process: p, state: b.state}
	err = p.waitUntil(ctx, func() error {
		_, err := g.call(ctx, b.state.admin, newGet("/v1/ready"))
		return err
	})
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return g, nil
}

// target returns the gateway as clients with these identities see it.
func (g *gateway) target(as ...tls.Certificate) target {
	return target{addr: g.addr, ca: g.state.ca, as: as}
}

// A statusError is an answer other than 200.
type statusError struct {
	path   string
	status int
	body   string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: status %d: %s", e.path, e.status, e.body)
}

// call makes one request and returns the body of the answer.
func (g *gateway) call(ctx context.Context, as tls.Certificate, r *request) ([]byte, error) {
	c, err := g.target(as).dial(ctx, http1, 0)
	if err != nil {
		return nil, err
	}
	defer c.close()
	c.(*h1).keep = true
	a, err := c.do(r, dialTime)
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusOK {
		return nil, &statusError{r.path, a.status, string(a.body)}
	}
	return a.body, nil
}

// context is what the clients bind DEKs to: as long as a storage server's.
var boundContext = []byte(`{"bucket":"bucket-1/some/object/of/the/usual/length.parquet"}`)

// createKey makes the key if it is not there.
func (g *gateway) createKey(ctx context.Context, name string) error {
	if _, err := g.call(ctx, g.state.app, newGet("/v1/key/describe/"+name)); err == nil {
		return nil
	}
	_, err := g.call(ctx, g.state.app, newRequest("/v1/key/create/"+name, []byte{}))
	return err
}

// mode returns how DEKs are made with a key: direct or branch.
func (g *gateway) mode(ctx context.Context, name string) (string, error) {
	body, err := g.call(ctx, g.state.app, newGet("/v1/key/describe/"+name))
	if err != nil {
		return "", err
	}
	var info struct {
		Mode string `json:"mode"`
	}
	return info.Mode, json.Unmarshal(body, &info)
}

// generate is the request for a DEK.
func generate(name string) *request {
	body, _ := json.Marshal(map[string][]byte{"context": boundContext}) // cannot fail
	return newRequest("/v1/key/generate/"+name, body)
}

// decrypt is the request that undoes one; answer is that of generate.
func decrypt(name string, answer []byte) (*request, error) {
	var dek struct {
		Ciphertext []byte `json:"ciphertext"`
	}
	if err := json.Unmarshal(answer, &dek); err != nil {
		return nil, err
	}
	body, err := json.Marshal(map[string][]byte{"ciphertext": dek.Ciphertext, "context": boundContext})
	return newRequest("/v1/key/decrypt/"+name, body), err
}

// always returns one request again and again.
func always(r *request) func(int) *request { return func(int) *request { return r } }

// inTurn returns requests one after the other, from the beginning again.
func inTurn(all []*request) func(int) *request {
	return func(i int) *request { return all[i%len(all)] }
}

// once returns each request once.
func once(all []*request) func(int) *request {
	return func(i int) *request {
		if i >= len(all) {
			return nil
		}
		return all[i]
	}
}

// samePlaintext returns an error unless an answer of decrypt holds the DEK that
// one of generate does.
func samePlaintext(generated, decrypted []byte) error {
	var a, b struct {
		Plaintext []byte `json:"plaintext"`
	}
	if err := errors.Join(json.Unmarshal(generated, &a), json.Unmarshal(decrypted, &b)); err != nil {
		return err
	}
	defer clear(a.Plaintext)
	defer clear(b.Plaintext)
	if len(a.Plaintext) != 32 || !bytes.Equal(a.Plaintext, b.Plaintext) {
		return errors.New("the DEK that came back is another one")
	}
	return nil
}

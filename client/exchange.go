package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/policy"
)

// The bytes that are read of an answer.
const (
	maxAnswer = 2 * api.MaxAnswer
	maxList   = 32 << 20 // nearly 400,000 names of the greatest length
)

// path returns the escaped path of an action on a resource: a name, or the
// prefix of a list, or nothing.
func path(a policy.Action, resource string) string {
	return a.Path() + url.PathEscape(resource)
}

// exchange sends in as JSON and reads the answer into out; nil means that there
// is none.
func (c *Client) exchange(ctx context.Context, r call, in, out any) error {
	if r.limit == 0 {
		r.limit = maxAnswer
	}
	if in != nil {
		doc, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("client: %w", err)
		}
		r.body = &body{bytes: doc}
		defer r.body.wipe()
	}
	answer, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer clear(answer)
	if out == nil {
		return nil
	}
	if json.Unmarshal(answer, out) != nil {
		// The cause could quote the answer, which may be secret.
		return fmt.Errorf("client: the answer to %s %s is not what it should be", r.method, r.path)
	}
	return nil
}

// get returns the answer to a GET.
func get[T any](ctx context.Context, c *Client, path string) (*T, error) {
	out := new(T)
	if err := c.exchange(ctx, call{method: http.MethodGet, path: path}, nil, out); err != nil {
		return nil, err
	}
	return out, nil
}

package client

import (
	"context"
	"net/http"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/policy"
)

// Version returns what the gateway is.
func (c *Client) Version(ctx context.Context) (*api.VersionResponse, error) {
	return get[api.VersionResponse](ctx, c, path(policy.Version, ""))
}

// Status returns the state of the gateway and of what it depends on. It is an
// answer, not an error, if those are down.
func (c *Client) Status(ctx context.Context) (*api.StatusResponse, error) {
	return get[api.StatusResponse](ctx, c, path(policy.Status, ""))
}

// Ready returns nil if the gateway can serve keys now.
func (c *Client) Ready(ctx context.Context) error {
	return c.exchange(ctx, call{method: http.MethodGet, path: path(policy.Ready, "")}, nil, nil)
}

// Routes returns the routes of the gateway's API.
func (c *Client) Routes(ctx context.Context) ([]api.Route, error) {
	out, err := get[[]api.Route](ctx, c, path(policy.ListAPIs, ""))
	if err != nil {
		return nil, err
	}
	return *out, nil
}

// Metrics returns the metrics that KES has, in the Prometheus text format.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	return c.do(ctx, call{method: http.MethodGet, path: path(policy.Metrics, ""), limit: maxAnswer})
}

// AllMetrics returns all metrics, in the Prometheus text format.
func (c *Client) AllMetrics(ctx context.Context) ([]byte, error) {
	return c.do(ctx, call{method: http.MethodGet, path: path(policy.AllMetrics, ""), limit: maxAnswer})
}

// DescribePolicy returns who made a policy, and when.
func (c *Client) DescribePolicy(ctx context.Context, name string) (*api.DescribePolicyResponse, error) {
	return get[api.DescribePolicyResponse](ctx, c, path(policy.DescribePolicy, name))
}

// ReadPolicy returns a policy with its rules.
func (c *Client) ReadPolicy(ctx context.Context, name string) (*api.ReadPolicyResponse, error) {
	return get[api.ReadPolicyResponse](ctx, c, path(policy.ReadPolicy, name))
}

// ListPolicies returns the names of the policies that start with prefix.
func (c *Client) ListPolicies(ctx context.Context, prefix string) ([]string, error) {
	out, err := get[api.ListPoliciesResponse](ctx, c, path(policy.ListPolicies, prefix))
	if err != nil {
		return nil, err
	}
	return all(out.Names, out.ContinueAt)
}

// DescribeIdentity returns what an identity is: the admin's, or that of a
// policy.
func (c *Client) DescribeIdentity(ctx context.Context, id policy.Identity) (*api.DescribeIdentityResponse, error) {
	return get[api.DescribeIdentityResponse](ctx, c, path(policy.DescribeIdentity, string(id)))
}

// ListIdentities returns the identities that start with prefix.
func (c *Client) ListIdentities(ctx context.Context, prefix string) ([]string, error) {
	out, err := get[api.ListIdentitiesResponse](ctx, c, path(policy.ListIdentities, prefix))
	if err != nil {
		return nil, err
	}
	return all(out.Identities, out.ContinueAt)
}

// DescribeSelf returns the caller's own identity and policy. Every identity may
// ask.
func (c *Client) DescribeSelf(ctx context.Context) (*api.SelfDescribeResponse, error) {
	return get[api.SelfDescribeResponse](ctx, c, path(policy.DescribeSelf, ""))
}

package gateway

import (
	"slices"
	"strings"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/policy"
)

// policy returns the policy that the request names.
func (r *request) policy() (policy.Policy, error) {
	if !keystore.ValidName(r.resource) {
		return policy.Policy{}, api.NameError("policy name", shorten(r.resource))
	}
	p, ok := r.state.Rules.Policy(r.resource)
	if !ok {
		return policy.Policy{}, api.ErrPolicyNotFound
	}
	return p, nil
}

// Policies and identities are in the configuration: they were made when the
// server started, by its admin.

func (s *Server) describePolicy(r *request) (any, error) {
	p, err := r.policy()
	if err != nil {
		return nil, err
	}
	return &api.DescribePolicyResponse{Name: p.Name, CreatedAt: s.started, CreatedBy: r.admin()}, nil
}

func (s *Server) readPolicy(r *request) (any, error) {
	p, err := r.policy()
	if err != nil {
		return nil, err
	}
	return &api.ReadPolicyResponse{
		Name: p.Name, Allow: ruleSet(p.Allow), Deny: ruleSet(p.Deny),
		CreatedAt: s.started, CreatedBy: r.admin(),
	}, nil
}

func (s *Server) listPolicies(r *request) (any, error) {
	prefix, err := r.prefix()
	if err != nil {
		return nil, err
	}
	names := beginning(r.state.Rules.Policies(), prefix)
	return &api.ListPoliciesResponse{Names: visible(r, policy.ListPolicies, names)}, nil
}

func (s *Server) describeIdentity(r *request) (any, error) {
	if !keystore.ValidName(r.resource) {
		return nil, api.NameError("identity", shorten(r.resource))
	}
	id := policy.Identity(r.resource)
	if id == r.state.Rules.Admin() {
		return &api.DescribeIdentityResponse{IsAdmin: true, CreatedAt: s.started}, nil
	}
	name := r.state.Rules.PolicyOf(id)
	if name == "" {
		return nil, api.ErrIdentityNotFound
	}
	return &api.DescribeIdentityResponse{Policy: name, CreatedAt: s.started, CreatedBy: r.admin()}, nil
}

func (s *Server) listIdentities(r *request) (any, error) {
	prefix, err := r.prefix()
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, id := range r.state.Rules.Identities() {
		ids = append(ids, string(id))
	}
	return &api.ListIdentitiesResponse{Identities: visible(r, policy.ListIdentities, beginning(ids, prefix))}, nil
}

// describeSelf answers everyone, also those without a policy.
func (s *Server) describeSelf(r *request) (any, error) {
	self := &api.SelfDescribeResponse{Identity: string(r.identity), CreatedAt: s.started}
	if r.identity == r.state.Rules.Admin() {
		self.IsAdmin = true
		return self, nil
	}
	self.CreatedBy = r.admin()
	if p, ok := r.state.Rules.Policy(r.state.Rules.PolicyOf(r.identity)); ok {
		self.Policy, self.Allow, self.Deny = p.Name, ruleSet(p.Allow), ruleSet(p.Deny)
	}
	return self, nil
}

func (r *request) admin() string { return string(r.state.Rules.Admin()) }

func ruleSet(patterns []string) map[string]api.Rule {
	set := make(map[string]api.Rule, len(patterns))
	for _, p := range patterns {
		set[p] = api.Rule{}
	}
	return set
}

func beginning(names []string, prefix string) []string {
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, prefix) })
}

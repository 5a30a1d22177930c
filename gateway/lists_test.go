package gateway_test

import (
	"slices"
	"testing"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/gateway"
	"github.com/keygate/keygate/policy"
)

func TestListsHideWhatAPolicyDeniesToList(t *testing.T) {
	w := newWorld(t)
	admin, app := w.client(w.admin), w.client(w.app)
	hidden := identity(newCertificate(t, nil))
	rules, err := policy.Compile(w.adminID, []policy.Policy{
		{Name: "app", Identities: []policy.Identity{w.appID}, Allow: []string{"/v1/key/list/*", "/v1/policy/list/*", "/v1/identity/list/*"},
			Deny: []string{"/v1/key/list/secret-*", "/v1/policy/list/secret", "/v1/identity/list/" + string(hidden)}},
		{Name: "secret", Identities: []policy.Identity{hidden}, Allow: []string{"/v1/status"}},
	})
	ok(t, err)
	w.reload(func(s *gateway.State) { s.Rules = rules })
	for _, name := range []string{"app-1", "secret", "secret-1"} {
		admin.get("POST", "/v1/key/create/"+name, "", nil)
	}
	identities := []string{string(w.adminID), string(w.appID)}
	all := append(slices.Clone(identities), string(hidden))
	slices.Sort(identities)
	slices.Sort(all)
	for _, test := range []struct {
		c                          *client
		keys, policies, identities []string
	}{
		{admin, []string{"app-1", "secret", "secret-1"}, []string{"app", "secret"}, all},
		{app, []string{"app-1", "secret"}, []string{"app"}, identities},
	} {
		var keys api.ListKeysResponse
		test.c.get("GET", "/v1/key/list/", "", &keys)
		var policies api.ListPoliciesResponse
		test.c.get("GET", "/v1/policy/list/", "", &policies)
		var ids api.ListIdentitiesResponse
		test.c.get("GET", "/v1/identity/list/", "", &ids)
		if !slices.Equal(keys.Names, test.keys) || !slices.Equal(policies.Names, test.policies) || !slices.Equal(ids.Identities, test.identities) {
			t.Errorf("listed are keys %v, policies %v, identities %v", keys.Names, policies.Names, ids.Identities)
		}
	}
	var keys api.ListKeysResponse
	app.get("GET", "/v1/key/list/secret*", "", &keys)
	if !slices.Equal(keys.Names, []string{"secret"}) {
		t.Errorf("by a prefix %v are listed", keys.Names)
	}
	app.fails("GET", "/v1/key/list/secret-*", "", 403, notAuthorized)
}

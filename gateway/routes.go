package gateway

import (
	"net/http"
	"strings"
	"time"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/policy"
)

// An access says who may use a route.
type access uint8

const (
	authorized access = iota // whom a policy allows it, and the admin
	identified               // everyone with an identity
	anyone                   // everyone
)

// A route is one operation. Its path is that of its action.
type route struct {
	action  policy.Action
	method  string        // PUT stands for POST, too
	maxBody int64         // bytes; zero: a body is not read
	timeout time.Duration // zero: none. Configuration can change it
	access  access

	// public routes may be opened to clients without a certificate, and are
	// served also while the audit log cannot be written. They tell of no key,
	// policy or identity.
	public bool

	// run does the operation. A nil reply is an empty answer.
	run func(s *Server, r *request) (reply any, err error)
}

// routes returns the table of all routes. Timeouts and limits are those of KES.
func routes() []route {
	const (
		get, put, del = http.MethodGet, http.MethodPut, http.MethodDelete
		second        = time.Second
	)
	return []route{
		{action: policy.Version, method: get, timeout: 10 * second, access: anyone, public: true, run: (*Server).version},
		{action: policy.Ready, method: get, timeout: 15 * second, public: true, run: (*Server).ready},
		{action: policy.Status, method: get, timeout: 15 * second, public: true, run: (*Server).status},
		{action: policy.Metrics, method: get, timeout: 15 * second, public: true, run: (*Server).kesMetrics},
		{action: policy.AllMetrics, method: get, timeout: 15 * second, public: true, run: (*Server).allMetrics},
		{action: policy.ListAPIs, method: get, timeout: 10 * second, public: true, run: (*Server).listAPIs},

		{action: policy.CreateKey, method: put, timeout: 15 * second, run: (*Server).createKey},
		{action: policy.ImportKey, method: put, maxBody: api.MaxBody, timeout: 15 * second, run: (*Server).importKey},
		{action: policy.DescribeKey, method: get, timeout: 15 * second, run: (*Server).describeKey},
		{action: policy.ListKeys, method: get, timeout: 15 * second, run: (*Server).listKeys},
		{action: policy.DeleteKey, method: del, timeout: 15 * second, run: (*Server).deleteKey},
		{action: policy.SetKeyMode, method: put, maxBody: maxModeBody, timeout: 15 * second, run: (*Server).setKeyMode},
		{action: policy.GenerateDataKey, method: put, maxBody: api.MaxBody, timeout: 15 * second, run: (*Server).generateDataKey},
		{action: policy.Encrypt, method: put, maxBody: api.MaxBody, timeout: 15 * second, run: (*Server).encrypt},
		{action: policy.Decrypt, method: put, maxBody: api.MaxBody, timeout: 15 * second, run: (*Server).decrypt},
		{action: policy.BulkDecrypt, method: put, maxBody: 1 << 20, timeout: 15 * second, run: (*Server).bulkDecrypt},
		{action: policy.BatchGenerate, method: put, maxBody: api.MaxBatch, timeout: 15 * second, run: (*Server).batchGenerate},
		{action: policy.BatchDecrypt, method: put, maxBody: api.MaxBatch, timeout: 15 * second, run: (*Server).batchDecrypt},
		{action: policy.MAC, method: put, maxBody: api.MaxBody, timeout: 15 * second, run: (*Server).mac},

		{action: policy.DescribePolicy, method: get, timeout: 15 * second, run: (*Server).describePolicy},
		{action: policy.ReadPolicy, method: get, timeout: 15 * second, run: (*Server).readPolicy},
		{action: policy.ListPolicies, method: get, timeout: 15 * second, run: (*Server).listPolicies},
		{action: policy.DescribeIdentity, method: get, timeout: 15 * second, run: (*Server).describeIdentity},
		{action: policy.ListIdentities, method: get, timeout: 15 * second, run: (*Server).listIdentities},
		{action: policy.DescribeSelf, method: get, timeout: 15 * second, access: identified, run: (*Server).describeSelf},

		{action: policy.AttestHSM, method: get, timeout: 15 * second, run: (*Server).attest},

		{action: policy.ReadErrorLog, method: get, run: (*Server).readErrorLog},
		{action: policy.ReadAuditLog, method: get, run: (*Server).readAuditLog},
	}
}

// methods returns the methods that the route accepts.
func (rt *route) methods() []string {
	if rt.method == http.MethodPut {
		return []string{http.MethodPut, http.MethodPost}
	}
	return []string{rt.method}
}

func (rt *route) accepts(method string) bool {
	return method == rt.method || rt.method == http.MethodPut && method == http.MethodPost
}

// patterns returns the paths under which the router knows the route: each with
// and without a slash at its end. What follows, slashes too, is the resource.
func (rt *route) patterns() []string {
	path := strings.TrimSuffix(rt.action.Path(), "/")
	if rt.action.TakesName() || rt.action.Lists() {
		return []string{path, path + "/*"}
	}
	return []string{path, path + "/"}
}

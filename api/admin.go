package api

import "time"

// VersionResponse says what the server is.
type VersionResponse struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`

	// Ours.

	FIPS       bool   `json:"fips"`                  // the process runs in FIPS 140-3 mode
	FIPSModule string `json:"fips_module,omitempty"` // version of the Go Cryptographic Module
}

// StatusResponse is the state of the server and of what it depends on.
type StatusResponse struct {
	Version      string `json:"version"`
	OS           string `json:"os"`
	Arch         string `json:"arch"`
	UpTime       uint64 `json:"uptime"` // seconds
	CPUs         int    `json:"num_cpu"`
	UsableCPUs   int    `json:"num_cpu_used"`
	HeapMemUsed  uint64 `json:"mem_heap_used"`  // bytes
	StackMemUsed uint64 `json:"mem_stack_used"` // bytes

	// KeyStoreLatency is that of the key store's answer, in nanoseconds and at
	// least 1; zero, and left out, if there was none.
	KeyStoreLatency int64 `json:"keystore_latency,omitempty"`
	// KeyStoreUnavailable and KeyStoreUnreachable are set together: KES clients
	// take the second without the first for a broken answer.
	KeyStoreUnavailable bool `json:"keystore_unavailable,omitempty"`
	KeyStoreUnreachable bool `json:"keystore_unreachable,omitempty"`

	// Root is the kind of the root of trust, such as pkcs11, or local, which is not
	// for production. Ours.
	Root string `json:"root,omitempty"`
	// RootUnavailable says that the root of trust cannot be used. Ours.
	RootUnavailable bool `json:"root_unavailable,omitempty"`
	// RootOutage is for how many seconds, at least 1, operations have found the
	// root of trust unavailable; zero, and left out, if the last one did not.
	// Branch keys in memory may go on meanwhile. Ours.
	RootOutage int64 `json:"root_outage_seconds,omitempty"`
	// RootDegraded names the parts of the root of trust that cannot be used, while
	// others serve in their place. Ours.
	RootDegraded []string `json:"root_degraded,omitempty"`
}

// Route describes a route of the API; the answer of the api route is a list of
// them.
type Route struct {
	Method  string `json:"method"`
	Path    string `json:"path"`
	MaxBody int64  `json:"max_body"` // bytes; zero: a body is ignored
	Timeout int64  `json:"timeout"`  // seconds; zero: none
}

// Rule is an entry of a policy. It is empty: the pattern is its name.
type Rule struct{}

// DescribePolicyResponse describes a policy.
type DescribePolicyResponse struct {
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"` // the start of the server: policies are in its configuration
	CreatedBy string    `json:"created_by"` // the admin's identity
}

// ReadPolicyResponse is a policy: sets of path patterns.
type ReadPolicyResponse struct {
	Name      string          `json:"name"`
	Allow     map[string]Rule `json:"allow,omitempty"`
	Deny      map[string]Rule `json:"deny,omitempty"`
	CreatedAt time.Time       `json:"created_at"`
	CreatedBy string          `json:"created_by"`
}

// ListPoliciesResponse holds names in ascending order: all of them, so that
// ContinueAt is always empty.
type ListPoliciesResponse struct {
	Names      []string `json:"names"`
	ContinueAt string   `json:"continue_at"`
}

// DescribeIdentityResponse describes an identity that is the admin's or has a
// policy.
type DescribeIdentityResponse struct {
	IsAdmin   bool      `json:"admin,omitempty"`
	Policy    string    `json:"policy,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by,omitempty"`
}

// ListIdentitiesResponse holds identities in ascending order, the admin's
// included: all of them, so that ContinueAt is always empty.
type ListIdentitiesResponse struct {
	Identities []string `json:"identities"`
	ContinueAt string   `json:"continue_at"`
}

// SelfDescribeResponse describes the caller and its policy. KES clients want
// the name of the policy and its rules side by side.
type SelfDescribeResponse struct {
	Identity  string          `json:"identity"`
	IsAdmin   bool            `json:"admin,omitempty"`
	CreatedAt time.Time       `json:"created_at"`
	CreatedBy string          `json:"created_by,omitempty"`
	Policy    string          `json:"policy,omitempty"` // empty: none
	Allow     map[string]Rule `json:"allow,omitempty"`
	Deny      map[string]Rule `json:"deny,omitempty"`
}

// AuditEvent is a line of the audit stream: one request and how it ended. The
// audit log itself says more.
type AuditEvent struct {
	Time     time.Time     `json:"time"` // when the request came
	Request  AuditRequest  `json:"request"`
	Response AuditResponse `json:"response"`
}

// AuditRequest is the request of an AuditEvent.
type AuditRequest struct {
	IP       string `json:"ip"`
	Path     string `json:"path"`
	Identity string `json:"identity"` // empty: none was shown
}

// AuditResponse is the answer of an AuditEvent.
type AuditResponse struct {
	Code int           `json:"code"` // HTTP status
	Time time.Duration `json:"time"` // nanoseconds until the answer was ready
}

// ErrorEvent is a line of the error stream.
type ErrorEvent struct {
	Message string `json:"message"` // a line of the server's error log
}

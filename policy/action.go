// Package policy decides who may do what with which key. It is pure: no I/O, no
// clock, and rules that never change once they are compiled.
//
// Policies are written as in KES, in patterns of URL paths, and compiled into
// pairs of an Action and a pattern of names, so that a decision looks at no
// pattern and is independent of routing.
package policy

import (
	"fmt"
	"strings"
)

// An Action is one thing that a client can ask for. The zero Action is none.
type Action uint8

// The actions. Each is one route of the REST API.
const (
	CreateKey Action = iota + 1
	ImportKey
	DescribeKey
	ListKeys
	DeleteKey
	SetKeyMode
	GenerateDataKey
	Encrypt
	Decrypt
	BulkDecrypt
	BatchGenerate
	BatchDecrypt
	MAC
	DescribePolicy
	ReadPolicy
	ListPolicies
	DescribeIdentity
	ListIdentities
	DescribeSelf
	ReadErrorLog
	ReadAuditLog
	Ready
	Status
	Metrics
	AllMetrics
	ListAPIs
	Version
	AttestHSM
	numActions
)

// A kind says what follows an action's path.
type kind uint8

const (
	plain  kind = iota // nothing
	named              // one name
	prefix             // the beginning of names, maybe empty, maybe with a "*" behind it
)

var actions = [numActions]struct {
	name string
	path string
	kind kind
}{
	CreateKey:        {"key:create", "/v1/key/create/", named},
	ImportKey:        {"key:import", "/v1/key/import/", named},
	DescribeKey:      {"key:describe", "/v1/key/describe/", named},
	ListKeys:         {"key:list", "/v1/key/list/", prefix},
	DeleteKey:        {"key:delete", "/v1/key/delete/", named},
	SetKeyMode:       {"key:mode", "/v1/key/mode/", named},
	GenerateDataKey:  {"key:generate", "/v1/key/generate/", named},
	Encrypt:          {"key:encrypt", "/v1/key/encrypt/", named},
	Decrypt:          {"key:decrypt", "/v1/key/decrypt/", named},
	BulkDecrypt:      {"key:bulk-decrypt", "/v1/key/bulk/decrypt/", named},
	BatchGenerate:    {"key:batch-generate", "/v1/key/batch/generate/", named},
	BatchDecrypt:     {"key:batch-decrypt", "/v1/key/batch/decrypt/", named},
	MAC:              {"key:hmac", "/v1/key/hmac/", named},
	DescribePolicy:   {"policy:describe", "/v1/policy/describe/", named},
	ReadPolicy:       {"policy:read", "/v1/policy/read/", named},
	ListPolicies:     {"policy:list", "/v1/policy/list/", prefix},
	DescribeIdentity: {"identity:describe", "/v1/identity/describe/", named},
	ListIdentities:   {"identity:list", "/v1/identity/list/", prefix},
	DescribeSelf:     {"identity:self", "/v1/identity/self/describe", plain},
	ReadErrorLog:     {"log:error", "/v1/log/error", plain},
	ReadAuditLog:     {"log:audit", "/v1/log/audit", plain},
	Ready:            {"ready", "/v1/ready", plain},
	Status:           {"status", "/v1/status", plain},
	Metrics:          {"metrics", "/v1/metrics", plain},
	AllMetrics:       {"metrics:all", "/metrics", plain},
	ListAPIs:         {"api", "/v1/api", plain},
	Version:          {"version", "/version", plain},
	AttestHSM:        {"hsm:attest", "/v1/hsm/attest", plain},
}

// removed are the paths that older releases of KES had, by their beginnings.
var removed = []string{"/v1/secret/", "/v1/enclave/", "/v1/policy/write/", "/v1/policy/assign/", "/v1/policy/delete/", "/v1/identity/delete/", "/v1/identity/assign/", "/v1/key/export/", "/v1/log/audit/trace", "/v1/log/error/trace"}

// Actions returns all actions, in a fixed order.
func Actions() []Action {
	all := make([]Action, 0, numActions-1)
	for a := Action(1); a < numActions; a++ {
		all = append(all, a)
	}
	return all
}

// String returns the action's name, such as "key:generate", and "" for the zero
// Action.
func (a Action) String() string {
	if a < numActions {
		return actions[a].name
	}
	return fmt.Sprintf("action %d", uint8(a))
}

// Path returns the action's URL path. It ends in a slash if a name or the
// beginning of names follows.
func (a Action) Path() string { return actions[a].path }

// TakesName reports whether one name follows the path.
func (a Action) TakesName() bool { return actions[a].kind == named }

// Lists reports whether the beginning of names follows the path, maybe empty
// and maybe with a "*" behind it.
func (a Action) Lists() bool { return actions[a].kind == prefix }

// ListPrefix returns the beginning of names that a request for a listing asks
// for: the resource without one trailing "*".
func ListPrefix(resource string) string { return strings.TrimSuffix(resource, "*") }

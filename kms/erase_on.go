//go:build goexperiment.runtimesecret

package kms

import "runtime/secret"

// erasing runs f so that what it leaves on the stack and in registers is erased
// when it returns, and what it allocates when that is no longer reachable: an
// expanded key, once it was evicted.
func erasing(f func()) { secret.Do(f) }

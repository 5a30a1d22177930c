package kms

import "context"

type callerKey struct{}

// WithCaller returns a context whose operations are done for the client that who
// names. A root that cannot do all at once serves clients in turn, by these names.
// who is called only when an operation reaches the root, and may be called
// concurrently. One context for all of a client's requests does.
func WithCaller(ctx context.Context, who func() string) context.Context {
	return context.WithValue(ctx, callerKey{}, who)
}

// CallerOf returns the name of the client that ctx's operations are done for.
// Empty: none is known; all such are one client.
func CallerOf(ctx context.Context) string {
	if who, ok := ctx.Value(callerKey{}).(func() string); ok {
		return who()
	}
	return ""
}

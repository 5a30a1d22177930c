package main

import (
	"context"
	"errors"
	"time"

	"github.com/keygate/keygate/kms"
)

// keyRetry is when the keys of the configuration are tried again that could not
// be made because root or store could not answer.
const keyRetry = 5 * time.Second

// makeKeys makes the keys of the configuration that do not exist. It reports
// false if it has to be called again.
func (n *node) makeKeys(ctx context.Context) bool {
	done := true
	for _, key := range n.cfg.Keys {
		_, err := n.kms.CreateKey(ctx, key.Name, n.cfg.createdBy())
		switch {
		case err == nil:
			n.log.Info("keygate: made a key of the configuration", "key", key.Name)
		case errors.Is(err, kms.ErrKeyExists):
		case ctx.Err() != nil:
			return false
		default:
			n.log.Error("keygate: a key of the configuration cannot be made", "key", key.Name, "error", err)
			done = done && !errors.Is(err, kms.ErrUnavailable)
		}
	}
	return done
}

// createdBy is the identity that keys of the configuration are made by: the
// admin's.
func (c *configuration) createdBy() string {
	return string(c.state.Rules.Admin())
}

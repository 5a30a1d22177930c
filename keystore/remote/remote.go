// Package remote is what the drivers of key stores on the network have in common:
// TLS by files, a password by file, and calls that are tried again for as long as
// there is time.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/keygate/keygate/keystore"
)

// tries is into how many parts the time of a call is cut: one server that does not
// answer must leave time to ask another.
const tries = 4

// The pause between two tries. Half of it is random, so that the gateways do not
// come back all at once.
const (
	firstPause = 20 * time.Millisecond
	maxPause   = 400 * time.Millisecond
)

// Try calls try until it does not ask to be called again, or until timeout is over
// or ctx has ended; each time with a quarter of timeout at most. It returns the
// error of the last try, and the cause if there was no time for another:
// keystore.ErrUnavailable.
func Try(ctx context.Context, timeout time.Duration, try func(context.Context) (again bool, err error)) error {
	all, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		again, err := once(all, timeout/tries, try)
		if !again {
			return err
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-all.Done():
			return ended(ctx, timeout, err)
		}
	}
}

func once(ctx context.Context, timeout time.Duration, try func(context.Context) (bool, error)) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return try(ctx)
}

// ended is the error of a call for which there was no more time.
func ended(ctx context.Context, timeout time.Duration, last error) error {
	if cause := ctx.Err(); cause != nil && !errors.Is(last, cause) {
		return fmt.Errorf("%w: %w: %v", keystore.ErrUnavailable, cause, last)
	}
	if errors.Is(last, keystore.ErrUnavailable) {
		return last
	}
	return fmt.Errorf("%w: not done in %v: %v", keystore.ErrUnavailable, timeout, last)
}

// maxSecret is more than any password has, in bytes.
const maxSecret = 4096

// Secret returns what a file holds, without a newline at its end.
func Secret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	defer clear(text)
	if err != nil {
		return "", err
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if secret == "" || len(text) > maxSecret {
		return "", fmt.Errorf("%s does not hold 1 to %d bytes", path, maxSecret)
	}
	return secret, nil
}

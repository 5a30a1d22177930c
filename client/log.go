package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/policy"
)

// maxLogLine bounds a line of a log stream, in bytes.
const maxLogLine = 1 << 20

// AuditLog returns the requests that one gateway answers from now on, until ctx
// ends or the loop is left; the last error, if any, comes with a zero event.
// It is a live view: a reader that is too slow misses events. The audit log
// itself is the gateway's.
func (c *Client) AuditLog(ctx context.Context) iter.Seq2[api.AuditEvent, error] {
	return stream[api.AuditEvent](ctx, c, path(policy.ReadAuditLog, ""))
}

// ErrorLog returns the lines that one gateway writes to its error log from now
// on, as AuditLog does.
func (c *Client) ErrorLog(ctx context.Context) iter.Seq2[api.ErrorEvent, error] {
	return stream[api.ErrorEvent](ctx, c, path(policy.ReadErrorLog, ""))
}

func stream[T any](ctx context.Context, c *Client, path string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		body, err := c.openStream(ctx, path)
		if err != nil {
			yield(none, err)
			return
		}
		defer body.Close()
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, maxLogLine)
		for lines.Scan() {
			var event T
			if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
				yield(none, fmt.Errorf("client: log stream: %w", err))
				return
			}
			if !yield(event, nil) {
				return
			}
		}
		if err := lines.Err(); err != nil && ctx.Err() == nil {
			yield(none, fmt.Errorf("client: log stream: %w", err))
		}
	}
}

// openStream opens a stream at the first gateway that has one for us. Only ctx
// bounds it.
func (c *Client) openStream(ctx context.Context, path string) (io.ReadCloser, error) {
	var failed error
	n := uint32(len(c.endpoints))
	first := c.preferred.Load()
	for i := range n {
		resp, _, err := c.open(ctx, c.endpoints[(first+i)%n], call{method: http.MethodGet, path: path})
		if err == nil && resp.StatusCode == http.StatusOK {
			return resp.Body, nil
		}
		if err == nil {
			err = api.ReadError(resp)
			resp.Body.Close()
		}
		failed = err
		if e, ok := errors.AsType[*api.Error](err); ok && !elsewhere(e.Status) || ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

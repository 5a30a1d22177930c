package soak_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/keygate/keygate/api"
)

// A door is a way in for one identity, over HTTP/1.1 or HTTP/2. Each request is
// sent once, whatever comes of it.
type door struct {
	http *http.Client
	base string
	took func(time.Duration) // if not nil, is told how long each answer took
}

// newDoor returns a door for a certificate; none: the handshake ends without one.
func (g *gateway) newDoor(certificate *tls.Certificate, http2 bool) *door {
	cfg := &tls.Config{RootCAs: program.roots, MinVersion: tls.VersionTLS13}
	if certificate != nil {
		cfg.Certificates = []tls.Certificate{*certificate}
	}
	tr := &http.Transport{TLSClientConfig: cfg, MaxIdleConnsPerHost: 4, IdleConnTimeout: 5 * time.Second, DisableCompression: true}
	tr.Protocols = new(http.Protocols)
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetHTTP2(http2)
	return &door{http: &http.Client{Transport: tr, Timeout: patience}, base: "https://" + g.addr}
}

// as returns a door for an identity that the policies know.
func (g *gateway) as(identity string, http2 bool) *door {
	certificate := program.clients[identity]
	return g.newDoor(&certificate, http2)
}

func (d *door) close() { d.http.CloseIdleConnections() }

// call sends in, as JSON or, if it is a string, as it is, and reads the answer into
// out: a *string gets it as it is, nil throws it away. What is not status 200 is
// an *api.Error.
func (d *door) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	switch in := in.(type) {
	case nil:
	case string:
		body = []byte(in)
	default:
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, d.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	begun := time.Now()
	resp, err := d.http.Do(req)
	if err != nil {
		return err
	}
	if d.took != nil {
		d.took(time.Since(begun))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return api.ReadError(resp)
	}
	if resp.Header.Get("X-Request-Id") == "" {
		return errors.New("an answer without an X-Request-Id")
	}
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	switch out := out.(type) {
	case nil:
	case *string:
		*out = string(answer)
	default:
		if err := json.Unmarshal(answer, out); err != nil {
			return fmt.Errorf("an answer that is no JSON of %T: %w", out, err)
		}
	}
	return nil
}

// status returns the status that an error of call stands for; 0: there was no
// answer.
func status(err error) int {
	if err == nil {
		return http.StatusOK
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e.Status
	}
	return 0
}

// answers returns an error unless err is the answer of a status.
func answers(err error, want int) error {
	if status(err) == want {
		return nil
	}
	if err == nil {
		return fmt.Errorf("was done, where %d was expected", want)
	}
	return err
}

// refused reports whether an answer says "try again": 503, or 429.
func refused(err error) bool {
	s := status(err)
	return s == http.StatusServiceUnavailable || s == http.StatusTooManyRequests
}

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// serve starts a real server that speaks both protocols.
func serve(t *testing.T, h http.HandlerFunc) target {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{NextProtos: []string{string(http2), string(http1)}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	id, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return target{addr: s.Listener.Addr().String(), ca: pool, as: certificatesOf(id)}
}

func open(t *testing.T, at target, p protocol) client {
	t.Helper()
	c, err := at.dial(t.Context(), p, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func TestBothProtocolsSendTheWholeRequestAndReadTheAnswer(t *testing.T) {
	at := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/key/generate/app-1" || string(body) != `{"context":"YQ=="}` ||
			r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("got %s %s %q, %v", r.Method, r.URL, body, err)
		}
		if r.Proto == "HTTP/2.0" {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, strings.Repeat("x", 100_000)) // in chunks over HTTP/1.1
	})
	r := newRequest("/v1/key/generate/app-1", []byte(`{"context":"YQ=="}`))
	for _, test := range []struct {
		p protocol
		a answer
	}{
		{http1, answer{status: 200}},
		{http2, answer{status: 503, retryAfter: true}},
	} {
		c := open(t, at, test.p)
		for range 3 {
			a, err := c.do(r, 0)
			if err != nil || a.status != test.a.status || a.retryAfter != test.a.retryAfter {
				t.Errorf("%s: %+v, %v", test.p, a, err)
			}
		}
	}
}

func TestHTTP2CarriesManyRequestsAtATimeAndMoreThanTheServersLimit(t *testing.T) {
	at := serve(t, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Millisecond)
		io.WriteString(w, strings.Repeat("x", 20_000))
	})
	c := open(t, at, http2)
	r := newRequest("/", []byte("{}"))
	var wg sync.WaitGroup
	for range 400 {
		wg.Go(func() {
			if a, err := c.do(r, 0); err != nil || a.status != 200 {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
	wg.Wait()
}

func TestHTTP2CancelsARequestAndGoesOn(t *testing.T) {
	gone := make(chan struct{}, 1)
	at := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
			gone <- struct{}{}
		}
	})
	c := open(t, at, http2)
	if _, err := c.do(newRequest("/slow", []byte("{}")), 5*time.Millisecond); !errors.Is(err, errCancelled) {
		t.Fatalf("error is %v", err)
	}
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Fatal("the server was not told")
	}
	if a, err := c.do(newGet("/fast"), 0); err != nil || a.status != 200 {
		t.Errorf("after it: %+v, %v", a, err)
	}
}

func TestHTTP2FailsWhatWaitsWhenTheConnectionEnds(t *testing.T) {
	arrived := make(chan struct{})
	at := serve(t, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	})
	c := open(t, at, http2)
	go func() {
		<-arrived
		c.close()
	}()
	if a, err := c.do(newGet("/"), 0); err == nil {
		t.Errorf("answered %+v", a)
	}
	if _, err := c.do(newGet("/"), 0); err == nil {
		t.Error("a dead connection takes requests")
	}
}

func TestDialRefusesAnotherProtocolAndAnotherAuthority(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler()) // HTTP/1.1 only
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	id, err := newIdentity()
	if err != nil {
		t.Fatal(err)
	}
	at := target{addr: s.Listener.Addr().String(), ca: pool, as: certificatesOf(id)}
	if c, err := at.dial(t.Context(), http2, 0); err == nil {
		c.close()
		t.Error("dialled HTTP/2")
	}
	at.ca = x509.NewCertPool()
	if c, err := at.dial(t.Context(), http1, 0); err == nil {
		c.close()
		t.Error("accepted a server of an unknown authority")
	}
}

func TestHTTP1RefusesWhatIsNoAnswer(t *testing.T) {
	for _, text := range []string{
		"", "HTTP/1.1\r\n", "SSH-2.0-OpenSSH_9.7\r\n\r\n", "HTTP/1.1 2x0 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
	} {
		mine, theirs := net.Pipe()
		go func() {
			theirs.SetDeadline(time.Now().Add(5 * time.Second))
			bufio.NewReader(theirs).ReadString('\n') // of the request
			io.WriteString(theirs, text)
			theirs.Close()
		}()
		c := newH1(mine)
		r := &request{h1: []byte("GET / HTTP/1.1\n")}
		if a, err := c.do(r, 5*time.Second); err == nil {
			t.Errorf("%q: %+v", text, a)
		}
		c.close()
	}
}

func TestALoadReconnectsAfterALostConnection(t *testing.T) {
	var mu sync.Mutex
	n := 0
	at := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if n++; n == 5 {
			panic(http.ErrAbortHandler)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := load{target: at, protocol: http1, conns: 2, streams: 1, next: once(repeat(newGet("/"), 20))}.start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	<-s.ended
	f := s.figures(0, time.Hour)
	if len(s.samples) != 20 || f.others != 1 || s.failed != 1 || s.first == nil {
		t.Errorf("%d samples, %d others, %d failed, first %v", len(s.samples), f.others, s.failed, s.first)
	}
}

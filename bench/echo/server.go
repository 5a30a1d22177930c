package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
)

// newServer returns a server whose settings are those of package gateway: what
// is compared is what the gateway does with a request, not how it is carried.
func newServer(addr, cert, key string, answers map[string][]byte) (*http.Server, error) {
	certificate, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	e := echo.New()
	for path, body := range answers {
		e.POST(path+"*", answer(body))
	}
	conf := &tls.Config{
		Certificates: []tls.Certificate{certificate},
		ClientAuth:   tls.RequireAnyClientCert,
		MinVersion:   tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos:             []string{"h2", "http/1.1"},
		SessionTicketsDisabled: true,
	}
	return &http.Server{
		Addr:        addr,
		Handler:     e,
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context { return ctx },
		TLSConfig: &tls.Config{
			NextProtos:         conf.NextProtos,
			MinVersion:         conf.MinVersion,
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return conf, nil },
			Certificates:       conf.Certificates, // ListenAndServeTLS wants them here
		},
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 250,
			SendPingTimeout:      30 * time.Second,
			PingTimeout:          15 * time.Second,
			WriteByteTimeout:     30 * time.Second,
		},
		ReadHeaderTimeout:            5 * time.Second,
		IdleTimeout:                  90 * time.Second,
		MaxHeaderBytes:               64 << 10,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0),
	}, nil
}

// maxBody is the gateway's limit of a body.
const maxBody = 1_000_000

// answer reads a request and answers it with body. The answer has the header
// fields that the gateway's has, of the same length.
func answer(body []byte) echo.HandlerFunc {
	id := hex.EncodeToString(random(8))
	return func(c echo.Context) error {
		if _, err := io.ReadAll(io.LimitReader(c.Request().Body, maxBody)); err != nil {
			return err
		}
		h := c.Response().Header()
		h.Set("X-Request-Id", id)
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		c.Response().WriteHeader(http.StatusOK)
		_, err := c.Response().Write(body)
		return err
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

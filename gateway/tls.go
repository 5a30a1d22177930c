package gateway

import (
	"crypto/tls"
	"log"
	"net/http"
	"strings"
	"time"
)

// cipherSuites are those of TLS 1.2 with forward secrecy and authenticated
// encryption. Those of 1.3 all have both.
var cipherSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// tlsConfig returns the TLS configuration of one state. It is not changed after.
func (s *Server) tlsConfig(st *state, skipsAuth bool) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{st.Certificate},
		ClientAuth:   clientAuth(st.ClientCAs != nil, skipsAuth),
		ClientCAs:    st.ClientCAs,
		MinVersion:   tls.VersionTLS12,
		CipherSuites: cipherSuites,
		NextProtos:   []string{"h2", "http/1.1"},
		Time:         s.cfg.Now, // nil is package tls's own
		// Each connection proves the client's key and checks its chain anew, so
		// that no ticket outlives a change of the authorities.
		SessionTicketsDisabled: true,
	}
}

// clientAuth says what a handshake asks of clients. If a route is open to those
// without a certificate, the other routes ask for it in their place.
func clientAuth(verify, optional bool) tls.ClientAuthType {
	switch {
	case verify && optional:
		return tls.VerifyClientCertIfGiven
	case verify:
		return tls.RequireAndVerifyClientCert
	case optional:
		return tls.RequestClientCert
	}
	return tls.RequireAnyClientCert
}

// Bounds of connections.
const (
	headerTimeout  = 5 * time.Second
	idleTimeout    = 90 * time.Second
	maxHeaderBytes = 64 << 10
)

// httpServer returns the HTTP server. Deadlines of bodies and answers are the
// routes' own: see deadlines.
func (s *Server) httpServer() *http.Server {
	return &http.Server{
		Handler:     s.Handler(),
		ConnContext: s.connections.begin,
		ConnState:   s.connections.changed,
		TLSConfig: &tls.Config{
			NextProtos: []string{"h2", "http/1.1"},
			MinVersion: tls.VersionTLS12,
			GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				if err := s.callers.handshakes.begin(hello); err != nil {
					return nil, err
				}
				st := s.state.Load()
				if raw := rawConn(hello.Conn); raw != nil {
					raw.authorities.Store(st.ClientCAs)
				}
				return st.tls, nil
			},
		},
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: s.callers.limits.Streams,
			SendPingTimeout:      30 * time.Second, // finds clients that are gone without a word
			PingTimeout:          15 * time.Second,
			WriteByteTimeout:     30 * time.Second,
		},
		ReadHeaderTimeout:            headerTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
		DisableGeneralOptionsHandler: true, // "OPTIONS *" is no route, either
		ErrorLog:                     log.New(serverLog{s}, "", 0),
	}
}

// A serverLog takes the lines that package http logs of its own accord.
type serverLog struct{ s *Server }

// Write counts what clients cause, and logs the rest.
func (l serverLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	switch {
	case strings.HasPrefix(text, "http: TLS handshake error"):
		l.s.metrics.handshakes.Inc()
	case strings.HasPrefix(text, "http2: "), strings.HasPrefix(text, "http: URL query contains semicolon"):
		l.s.metrics.protocol.Inc()
	default:
		l.s.logger.Error("gateway: " + text)
	}
	return len(line), nil
}

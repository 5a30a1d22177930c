package etcd

import (
	"context"
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keygate/keygate/keystore/remote"
)

// connection returns the client, which it makes if there is none. To make one with
// a password asks etcd for a token, and so fails while etcd is out of reach.
func (s *Store) connection() (*clientv3.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, unavailable("store is closed")
	}
	if s.client != nil {
		return s.client, nil
	}
	cfg, err := s.clientConfig()
	if err != nil {
		return nil, unavailable("%v", err)
	}
	client, err := clientv3.New(cfg)
	if err != nil {
		return nil, classify("connect", err)
	}
	s.client = client
	return client, nil
}

// dismiss has the next call make a new client.
func (s *Store) dismiss(client *clientv3.Client) {
	s.mu.Lock()
	current := s.client == client
	if current {
		s.client, s.silent = nil, time.Time{}
	}
	s.mu.Unlock()
	if current {
		client.Close()
	}
}

// heard learns from the outcome of a call whether its client is still of use. One
// whose password was refused is not: the file may hold another by now. Nor is one
// that has heard nothing for half of a call's time, over all its connections: gRPC
// would find out after silence and reply only.
func (s *Store) heard(client *clientv3.Client, err error) {
	late := errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
	s.mu.Lock()
	switch {
	case s.client != client:
		late = false // it has been dismissed
	case !late:
		s.silent = time.Time{}
	case s.silent.IsZero():
		s.silent = time.Now()
	}
	over := late && time.Since(s.silent) > s.timeout/2
	s.mu.Unlock()
	if over || s.cfg.PasswordFile != "" && denied(err) {
		s.dismiss(client)
	}
}

func (s *Store) clientConfig() (clientv3.Config, error) {
	cfg := clientv3.Config{
		Endpoints:            s.cfg.Endpoints,
		DialTimeout:          s.timeout / 4,
		DialKeepAliveTime:    silence,
		DialKeepAliveTimeout: reply,
		MaxUnaryRetries:      2, // for a token that is no longer valid; all else is tried again by remote.Try
		Logger:               zap.NewNop(),
	}
	// The name of the server is left to gRPC: that of each endpoint.
	tls, err := s.cfg.TLS.Config("")
	if err != nil {
		return cfg, err
	}
	cfg.TLS = tls
	if s.cfg.PasswordFile != "" {
		cfg.Username = s.cfg.Username
		if cfg.Password, err = remote.Secret(s.cfg.PasswordFile); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

// checkFiles returns an error if a file cannot be read that a client needs.
func (s *Store) checkFiles() error {
	_, err := s.clientConfig()
	return err
}

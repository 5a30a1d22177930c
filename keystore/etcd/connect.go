package etcd

import (
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

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

// dismiss has the next call make a new client, with the password that the file
// then holds: the one of this client was refused.
func (s *Store) dismiss(client *clientv3.Client) {
	s.mu.Lock()
	current := s.client == client && s.cfg.PasswordFile != ""
	if current {
		s.client = nil
	}
	s.mu.Unlock()
	if current {
		client.Close()
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

package gateway

import "time"

// TLSConfig is the tls section of the configuration file.
type TLSConfig struct {
	// Key is the file of the server's private key, in PEM.
	Key string `yaml:"key"`
	// Cert is the file of the server's certificate and of the intermediate
	// ones, in PEM.
	Cert string `yaml:"cert"`
	// Password decrypts Key, if that is encrypted in the way of RFC 1421.
	Password string `yaml:"password"`

	// Auth is "on" if client certificates have to lead to an authority of CA,
	// and "off", the default, if a client is known by its key alone.
	Auth string `yaml:"auth"`
	// CA is a file, or a directory of files, of the authorities of client
	// certificates, in PEM. Empty means those of the system.
	CA string `yaml:"ca"`

	// Clients says which client certificates are accepted.
	Clients ClientsConfig `yaml:"clients"`
}

// ClientsConfig says which client certificates are accepted. The zero value is
// the default.
type ClientsConfig struct {
	// AnyUsage accepts certificates that are not marked for the authentication
	// of TLS clients (extended key usage clientAuth). With TLSConfig.Auth "on",
	// those that are marked for other uses only are refused all the same.
	AnyUsage bool `yaml:"any_usage"`
	// RefuseExpired refuses also self-signed certificates outside their
	// validity. The default is to accept them with a warning, as KES API keys
	// make such and never renew them.
	RefuseExpired bool `yaml:"refuse_expired"`
}

// RouteConfig is an entry of the api section of the configuration file: settings
// of the route that its key, a path, names.
type RouteConfig struct {
	// SkipAuth opens the route to everyone, also without a client certificate.
	// Possible only for /version, /v1/ready, /v1/status, /v1/metrics, /metrics
	// and /v1/api.
	SkipAuth bool `yaml:"skip_auth"`
	// Timeout is how long a request may take. Zero means the route's default.
	Timeout time.Duration `yaml:"timeout"`
}

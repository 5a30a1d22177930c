package gateway

import "time"

// ClientsConfig says which client certificates are accepted. The zero value is
// the default.
type ClientsConfig struct {
	// AnyUsage accepts certificates that are not marked for the authentication
	// of TLS clients (extended key usage clientAuth). With State.ClientCAs, those
	// that are marked for other uses only are refused all the same.
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

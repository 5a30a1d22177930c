// Package vaultapi is the one way to a Vault or OpenBao server: connections,
// logins and their renewal, retries, and what an answer means. The root of
// trust (package vault) and the key store (package vaultkv) share it.
//
// It is the only package that imports the API client of Vault's makers. None of
// the environment variables that this library knows (VAULT_ADDR, VAULT_TOKEN and
// others) has an effect: a Config is all there is.
package vaultapi

import (
	"cmp"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// The defaults of Config.
const (
	DefaultTimeout         = 5 * time.Second
	DefaultAppRoleMount    = "approle"
	DefaultKubernetesMount = "kubernetes"
	DefaultCertMount       = "cert"
	DefaultJWTFile         = "/var/run/secrets/kubernetes.io/serviceaccount/token"
)

// Config says where a server is, and who this process is to it. It is part of a
// section of the configuration file.
type Config struct {
	// Address is the URL of the server: https and a host, with a port if it is
	// not 443. Required.
	Address string `yaml:"address"`
	// Namespace is the namespace of the mounts, and of the login. Default none.
	Namespace string `yaml:"namespace,omitempty"`
	// Timeout is how long a call may take, its retries and a login that it has
	// to wait for included. Default 5s.
	Timeout time.Duration `yaml:"timeout,omitempty"`
	// TLS says whom to trust.
	TLS TLS `yaml:"tls,omitempty"`
	// Auth says how to log in. Required.
	Auth Auth `yaml:"auth"`
}

// TLS is how the server is known, and this process to it. Files are PEM.
type TLS struct {
	// CA is a file of authorities. Default: those of the system.
	CA string `yaml:"ca,omitempty"`
	// ServerName is the name in the server's certificate, where it is not the
	// host of the address.
	ServerName string `yaml:"server_name,omitempty"`
	// Cert and Key are the client certificate and its key. They are read again
	// for each connection, so that they can be replaced without a restart.
	Cert string `yaml:"cert,omitempty"`
	Key  string `yaml:"key,omitempty"`
}

// Auth is how to log in: exactly one of its fields.
type Auth struct {
	// TokenFile is a file that holds a token. It is read again within a second
	// after it changed.
	TokenFile string `yaml:"token_file,omitempty"`
	// AppRole, Kubernetes and Cert are auth methods.
	AppRole    *AppRole    `yaml:"approle,omitempty"`
	Kubernetes *Kubernetes `yaml:"kubernetes,omitempty"`
	Cert       *Cert       `yaml:"cert,omitempty"`
}

// AppRole is a login with the id of a role and a secret.
type AppRole struct {
	// Mount is where the method is enabled. Default approle.
	Mount string `yaml:"mount,omitempty"`
	// RoleID names the role. Required.
	RoleID string `yaml:"role_id"`
	// SecretIDFile is a file that holds the secret, which is read for each
	// login. Empty: the role needs none.
	SecretIDFile string `yaml:"secret_id_file,omitempty"`
}

// Kubernetes is a login with the token of a service account.
type Kubernetes struct {
	// Mount is where the method is enabled. Default kubernetes.
	Mount string `yaml:"mount,omitempty"`
	// Role is the role to log in as. Required.
	Role string `yaml:"role"`
	// JWTFile holds the token of the service account; it is read for each login.
	// Default: where Kubernetes puts it.
	JWTFile string `yaml:"jwt_file,omitempty"`
}

// Cert is a login with the client certificate of TLS.
type Cert struct {
	// Mount is where the method is enabled. Default cert.
	Mount string `yaml:"mount,omitempty"`
	// Role is the role to log in as. Default: the first that fits.
	Role string `yaml:"role,omitempty"`
}

// Faults returns what is wrong with c, without connecting: errors of the form
// "vaultapi: field: text".
func (c Config) Faults() (faults []error) {
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf("vaultapi: "+format, args...))
		}
	}
	refuse(!validAddress(c.Address), "address: %q is no URL of the form https://host:port", c.Address)
	refuse(strings.Trim(c.Namespace, "/") != c.Namespace || !validPath(c.Namespace), "namespace: %q is no path", c.Namespace)
	refuse(c.Timeout != 0 && c.Timeout < 10*time.Millisecond, "timeout: %v is less than 10ms", c.Timeout)
	refuse((c.TLS.Cert == "") != (c.TLS.Key == ""), "tls: cert and key go together")
	refuse(c.Auth.methods() != 1, "auth: give exactly one of token_file, approle, kubernetes and cert")
	if a := c.Auth.AppRole; a != nil {
		refuse(a.RoleID == "", "auth.approle.role_id: it is missing")
		refuse(!ValidMount(cmp.Or(a.Mount, DefaultAppRoleMount)), "auth.approle.mount: %q is no mount path", a.Mount)
	}
	if k := c.Auth.Kubernetes; k != nil {
		refuse(k.Role == "", "auth.kubernetes.role: it is missing")
		refuse(!ValidMount(cmp.Or(k.Mount, DefaultKubernetesMount)), "auth.kubernetes.mount: %q is no mount path", k.Mount)
	}
	if a := c.Auth.Cert; a != nil {
		refuse(c.TLS.Cert == "", "auth.cert: it needs tls.cert and tls.key")
		refuse(!ValidMount(cmp.Or(a.Mount, DefaultCertMount)), "auth.cert.mount: %q is no mount path", a.Mount)
	}
	return faults
}

func (a Auth) methods() (n int) {
	for _, given := range []bool{a.TokenFile != "", a.AppRole != nil, a.Kubernetes != nil, a.Cert != nil} {
		if given {
			n++
		}
	}
	return n
}

func validAddress(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil && (u.Path == "" || u.Path == "/") && u.RawQuery == "" && u.Fragment == ""
}

// ValidMount reports whether path can be where an engine is mounted: names of
// letters, digits and _.- between slashes, with none at the ends.
func ValidMount(path string) bool { return path != "" && validPath(path) }

// validPath takes no name that a path would be cleaned of: "..", "." and "".
func validPath(path string) bool {
	if path == "" {
		return true
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." || name == ".." || strings.Trim(name, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_.-") != "" {
			return false
		}
	}
	return true
}

// Package awsapi is what the drivers for AWS have in common: where the service
// is, who asks, and how a call is tried again.
package awsapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"
)

// DefaultTimeout is that of Config.
const DefaultTimeout = 4 * time.Second

// Config says where a service of AWS is, and who asks.
type Config struct {
	Region      string        // "" means that of the environment or of ~/.aws/config
	Endpoint    string        // URL in the place of the region's; "" for none
	Credentials string        // a credentials file as the AWS command line has; "" means the default chain
	FIPS        bool          // use the region's FIPS 140 endpoint
	Timeout     time.Duration // of a call with all its tries; zero means DefaultTimeout
}

// Faults returns what is wrong with c, without reading a file: errors of the form
// "field: text", fields as the configuration file spells them.
func (c Config) Faults() (faults []error) {
	if err := checkEndpoint(c.Endpoint); err != nil {
		faults = append(faults, fmt.Errorf("endpoint: %w", err))
	}
	if c.Endpoint != "" && c.FIPS {
		faults = append(faults, errors.New("fips: an endpoint is given: it is the one that is used"))
	}
	if c.Timeout < 0 {
		faults = append(faults, fmt.Errorf("timeout: %v is negative", c.Timeout))
	}
	return faults
}

// checkEndpoint refuses plain HTTP, except to this machine: what is sent are keys.
func checkEndpoint(endpoint string) error {
	if endpoint == "" {
		return nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.User != nil {
		return errors.New("it is not a URL such as https://kms.eu-west-1.amazonaws.com") // without what was given: it may hold a password
	}
	switch {
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return errors.New("it is not https, and not on this machine")
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Load reads what the environment and the files of AWS say, where c does not. It
// connects to nothing.
func (c Config) Load(ctx context.Context) (aws.Config, error) {
	options := []func(*config.LoadOptions) error{
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),                    // Caller tries again
		config.WithLogger(logging.Nop{}),                                                      // it writes to standard error, and says nothing that an error does not
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(connections)), // takes AWS_CA_BUNDLE
	}
	if c.Region != "" {
		options = append(options, config.WithRegion(c.Region))
	}
	if c.Endpoint != "" {
		options = append(options, config.WithBaseEndpoint(c.Endpoint))
	}
	if c.FIPS {
		options = append(options, config.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled))
	}
	if c.Credentials != "" {
		file := credentialsFile(c.Credentials)
		if _, err := file.Retrieve(ctx); err != nil {
			return aws.Config{}, err
		}
		options = append(options, config.WithCredentialsProvider(aws.NewCredentialsCache(file)))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, err
	}
	if cfg.Region == "" {
		return aws.Config{}, errors.New("region: neither the configuration nor the environment (AWS_REGION) names one")
	}
	return cfg, nil
}

// connections keeps as many connections as a gateway has calls at a time, so that
// few requests pay for a TLS handshake.
func connections(t *http.Transport) {
	t.DialContext = (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	t.TLSHandshakeTimeout = 2 * time.Second
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 128, 128
}

// A credentialsFile is the path of a credentials file. It is read again every
// credentialsLife, so that keys can be changed without a restart.
type credentialsFile string

const credentialsLife = time.Minute

// Retrieve reads the profile "default" of the file, which no other user may read.
func (f credentialsFile) Retrieve(ctx context.Context) (aws.Credentials, error) {
	info, err := os.Stat(string(f))
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("credentials: %w", err)
	}
	if perm := info.Mode().Perm(); info.Mode().IsRegular() && perm&0o007 != 0 {
		return aws.Credentials{}, fmt.Errorf("credentials: every user of this machine may use %s (mode %04o): chmod 0400 it", f, perm)
	}
	profile, err := config.LoadSharedConfigProfile(ctx, "default", func(o *config.LoadSharedConfigOptions) {
		o.CredentialsFiles, o.ConfigFiles = []string{string(f)}, []string{}
	})
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("credentials: %s: it has no profile [default] with aws_access_key_id and aws_secret_access_key", f) // without the cause, which may quote it
	}
	c := profile.Credentials
	if !c.HasKeys() {
		return aws.Credentials{}, fmt.Errorf("credentials: %s: profile [default] has not both aws_access_key_id and aws_secret_access_key", f)
	}
	c.Source, c.CanExpire, c.Expires = string(f), true, time.Now().Add(credentialsLife)
	return c, nil
}

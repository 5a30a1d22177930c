package secretsmanager

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keygate/keygate/awsapi"
)

// The defaults of Config.
const (
	DefaultPrefix       = "keygate/"
	DefaultRecoveryDays = 30
)

// Config says where the store is. It is a section of the configuration file. The
// zero value of each field is its default.
type Config struct {
	// Region is the AWS region. Default: that of the environment or of
	// ~/.aws/config.
	Region string `yaml:"region,omitempty"`
	// Endpoint is a URL in the place of the region's, such as that of a VPC
	// endpoint: https, or http on this machine.
	Endpoint string `yaml:"endpoint,omitempty"`
	// CredentialsFile is a file with static credentials, in the form of
	// ~/.aws/credentials, profile default, that other users cannot read. It is
	// read again each minute. Default: the default chain of the AWS SDK.
	CredentialsFile string `yaml:"credentials_file,omitempty"`
	// FIPS says to use the region's FIPS 140 endpoint.
	FIPS bool `yaml:"fips,omitempty"`
	// Timeout is how long a call may take, with all its tries. Default 4s.
	Timeout time.Duration `yaml:"timeout,omitempty"`

	// Prefix is what the names of the secrets begin with. Default keygate/.
	Prefix string `yaml:"prefix,omitempty"`
	// KMSKey is the id, ARN or alias of the KMS key that Secrets Manager encrypts
	// the secrets with. Default: its own, aws/secretsmanager.
	KMSKey string `yaml:"kms_key,omitempty"`
	// RecoveryDays is for how many days the secret of a deleted record can be
	// restored, and its name is taken: 7 to 30. Default 30.
	RecoveryDays int `yaml:"recovery_days,omitempty"`
}

// Check reports what is wrong with c, without asking AWS.
func (c Config) Check() error {
	_, err := c.withDefaults()
	return err
}

// About describes c, in pairs for a log.
func (c Config) About() []any {
	c, _ = c.withDefaults() // Check has told what is wrong
	return []any{"prefix", c.Prefix, "region", c.Region, "endpoint", c.Endpoint}
}

func (c Config) access() awsapi.Config {
	return awsapi.Config{Region: c.Region, Endpoint: c.Endpoint, Credentials: c.CredentialsFile, FIPS: c.FIPS, Timeout: c.Timeout}
}

func (c Config) withDefaults() (Config, error) {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	if c.RecoveryDays == 0 {
		c.RecoveryDays = DefaultRecoveryDays
	}
	return c, errors.Join(c.faults()...)
}

// maxPrefix leaves room for a name in the 512 characters of a secret's.
const maxPrefix = 256

func (c Config) faults() (faults []error) {
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf("secretsmanager: "+format, args...))
		}
	}
	for _, fault := range c.access().Faults() {
		refuse(true, "%w", fault)
	}
	refuse(len(c.Prefix) > maxPrefix, "prefix: it has more than %d bytes", maxPrefix)
	refuse(strings.ContainsFunc(c.Prefix, notInName), "prefix: %q has other characters than A-Z, a-z, 0-9 and /_+=.@-", c.Prefix)
	refuse(c.RecoveryDays < 7 || c.RecoveryDays > 30, "recovery_days: %d is not from 7 to 30", c.RecoveryDays)
	return faults
}

// notInName is for the names of secrets (CreateSecret, Name).
func notInName(c rune) bool {
	return !('0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || strings.ContainsRune("/_+=.@-", c))
}

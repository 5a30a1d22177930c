package awskms

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keygate/keygate/awsapi"
)

// The defaults of Config.
const (
	DefaultKey          = "alias/keygate"
	DefaultRecordKey    = "alias/keygate-record"
	DefaultAliasPrefix  = "alias/keygate-key/"
	DefaultMACLifetime  = time.Hour
	DefaultMACKeys      = 10_000
	DefaultDeletionDays = 30
)

// Config says which KMS keys are the root of trust. It is a section of the
// configuration file. The zero value of each field is its default.
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

	// Key is the id, ARN or alias of the symmetric KMS key that encrypts for all
	// named keys, told apart by their encryption context, and that wraps MAC keys.
	// Default alias/keygate.
	Key string `yaml:"key,omitempty"`
	// RecordKey is the id, ARN or alias of the HMAC_256 KMS key from which the key
	// is derived that authenticates key records. Default alias/keygate-record.
	RecordKey string `yaml:"record_key,omitempty"`
	// PerKey says to make a KMS key for each version of each named key.
	PerKey bool `yaml:"per_key,omitempty"`
	// AliasPrefix is what the aliases of KMS keys of PerKey begin with. Default
	// alias/keygate-key/.
	AliasPrefix string `yaml:"alias_prefix,omitempty"`
	// DeletionDays is the waiting time of KMS keys of PerKey that are destroyed:
	// 7 to 30 days. Default 30.
	DeletionDays int `yaml:"deletion_days,omitempty"`
	// MACLifetime is how long a MAC key or the record key stays in the memory of
	// this process, at most 24h. Default 1h.
	MACLifetime time.Duration `yaml:"mac_lifetime,omitempty"`
	// MACKeys bounds the MAC keys in memory. Default 10000.
	MACKeys int `yaml:"mac_keys,omitempty"`
}

// Check reports what is wrong with c, without asking AWS.
func (c Config) Check() error {
	_, err := c.withDefaults()
	return err
}

// About describes c, in pairs for a log.
func (c Config) About() []any {
	c, _ = c.withDefaults() // Check has told what is wrong
	return []any{"key", c.Key, "record_key", c.RecordKey, "per_key", c.PerKey, "region", c.Region, "endpoint", c.Endpoint}
}

func (c Config) access() awsapi.Config {
	return awsapi.Config{Region: c.Region, Endpoint: c.Endpoint, Credentials: c.CredentialsFile, FIPS: c.FIPS, Timeout: c.Timeout}
}

func (c Config) withDefaults() (Config, error) {
	if c.Key == "" {
		c.Key = DefaultKey
	}
	if c.RecordKey == "" {
		c.RecordKey = DefaultRecordKey
	}
	if c.AliasPrefix == "" {
		c.AliasPrefix = DefaultAliasPrefix
	}
	if c.DeletionDays == 0 {
		c.DeletionDays = DefaultDeletionDays
	}
	if c.MACLifetime == 0 {
		c.MACLifetime = DefaultMACLifetime
	}
	if c.MACKeys == 0 {
		c.MACKeys = DefaultMACKeys
	}
	return c, errors.Join(c.faults()...)
}

func (c Config) faults() (faults []error) {
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf("awskms: "+format, args...))
		}
	}
	for _, fault := range c.access().Faults() {
		refuse(true, "%w", fault)
	}
	refuse(c.Key == c.RecordKey, "record_key: it is the key that encrypts: an HMAC_256 key is needed")
	refuse(!strings.HasPrefix(c.AliasPrefix, "alias/") || strings.HasPrefix(c.AliasPrefix, "alias/aws/"), "alias_prefix: %q does not begin with alias/, or is one of AWS", c.AliasPrefix)
	refuse(len(c.AliasPrefix) > 128, "alias_prefix: it has more than 128 bytes")
	refuse(c.DeletionDays < 7 || c.DeletionDays > 30, "deletion_days: %d is not from 7 to 30", c.DeletionDays)
	refuse(c.MACLifetime < 0 || c.MACLifetime > 24*time.Hour, "mac_lifetime: %v is not more than 0 and at most 24h", c.MACLifetime)
	refuse(c.MACKeys < 0, "mac_keys: %d is negative", c.MACKeys)
	return faults
}

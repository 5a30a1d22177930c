package vault

import (
	"errors"
	"fmt"
	"strings"

	"github.com/keygate/keygate/vault/vaultapi"
)

// The defaults of Config.
const (
	DefaultMount  = "transit"
	DefaultPrefix = "keygate-"
)

// Config says which transit engine is the root of trust. It is a section of the
// configuration file. The zero value of each field that is not required is its
// default.
type Config struct {
	vaultapi.Config `yaml:",inline"`
	// Mount is where the transit engine is mounted. Default transit.
	Mount string `yaml:"mount,omitempty"`
	// Prefix begins the name of each transit key that this root makes, uses and
	// destroys: 1 to 64 of [0-9A-Za-z_-], not starting with a hyphen. Two
	// clusters that share a mount need two. Default keygate-.
	Prefix string `yaml:"prefix,omitempty"`
}

// Check reports what is wrong with c, without asking the server.
func (c Config) Check() error {
	_, err := c.withDefaults()
	return err
}

func (c Config) withDefaults() (Config, error) {
	if c.Mount == "" {
		c.Mount = DefaultMount
	}
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	faults := c.Config.Faults()
	if !vaultapi.ValidMount(c.Mount) {
		faults = append(faults, fmt.Errorf("vault: mount: %q is no mount path", c.Mount))
	}
	if !validPrefix(c.Prefix) {
		faults = append(faults, fmt.Errorf("vault: prefix: %q is not 1 to 64 of 0-9, A-Z, a-z, _ and -, with no - at its start", c.Prefix))
	}
	return c, errors.Join(faults...)
}

const nameBytes = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-"

func validPrefix(prefix string) bool {
	return prefix != "" && len(prefix) <= maxPrefix && prefix[0] != '-' && strings.Trim(prefix, nameBytes) == ""
}

const maxPrefix = 64

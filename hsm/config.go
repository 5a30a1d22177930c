package hsm

import (
	"errors"
	"fmt"
	"time"
)

// The defaults of Config.
const (
	DefaultKEK       = "keygate-kek"
	DefaultRecordKey = "keygate-record"
	DefaultSessions  = 16
	DefaultTimeout   = 2 * time.Second
	DefaultKeys      = 10_000
	DefaultWait      = 250 * time.Millisecond
)

// Config says which token is the root of trust. It is a section of the
// configuration file. The zero value of each field that is not required is its
// default.
type Config struct {
	// Module is the path of the PKCS#11 module. Required.
	Module string `yaml:"module"`
	// Token is the label of the token. Required.
	Token string `yaml:"token"`
	// Serial is the serial number of the token. It is needed where two tokens
	// have the same label.
	Serial string `yaml:"serial,omitempty"`
	// PIN says where the PIN of the token's user is. Required.
	PIN PIN `yaml:"pin"`
	// KEK is the label of the AES key that wraps all master keys. Default
	// keygate-kek.
	KEK string `yaml:"kek,omitempty"`
	// RecordKey is the label of the key that authenticates key records. Default
	// keygate-record.
	RecordKey string `yaml:"record_key,omitempty"`
	// Sessions is how many calls the token works on at a time. Default 16. Up to
	// 18 more sessions are opened where keys are loaded at the same time.
	Sessions int `yaml:"sessions,omitempty"`
	// Timeout is how long a call may take. Default 2s.
	Timeout time.Duration `yaml:"timeout,omitempty"`
	// Keys bounds the master keys that are loaded in the token at a time.
	// Default 10000.
	Keys int `yaml:"keys,omitempty"`
	// Queue bounds the calls that wait for a session.
	Queue Queue `yaml:"queue,omitempty"`
	// InitArgs is a string that the module wants as pReserved of C_Initialize.
	// NSS does, most do not.
	InitArgs string `yaml:"init_args,omitempty"`
	// IV says who makes the initialisation vectors of AES-GCM. "host", the
	// default, is all there is: this process, with crypto/rand.
	IV string `yaml:"iv,omitempty"`
}

// Queue bounds calls that wait. The zero value is the default.
type Queue struct {
	// Calls is how many may wait, half of them of one client. Others are refused.
	// Default 64 for each session.
	Calls int `yaml:"calls,omitempty"`
	// Wait is how long a call may wait for a session. One that would wait for more
	// than half of that, by its place in the queue and the pace of late, is refused
	// at once. While all sessions are in calls of which none ends for so long, the
	// module counts as stalled: all calls but those that make keys are refused,
	// those that run too. Default 250ms, and no more than Timeout.
	Wait time.Duration `yaml:"wait,omitempty"`
}

// Check reports what is wrong with c, without asking the module.
func (c Config) Check() error {
	_, err := c.withDefaults()
	return err
}

func (c Config) withDefaults() (Config, error) {
	if c.KEK == "" {
		c.KEK = DefaultKEK
	}
	if c.RecordKey == "" {
		c.RecordKey = DefaultRecordKey
	}
	if c.Sessions == 0 {
		c.Sessions = DefaultSessions
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Keys == 0 {
		c.Keys = DefaultKeys
	}
	if c.Queue.Wait == 0 {
		c.Queue.Wait = min(DefaultWait, c.Timeout)
	}
	if c.IV == "" {
		c.IV = "host"
	}
	return c, errors.Join(c.faults()...)
}

func (c Config) faults() (faults []error) {
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf("hsm: "+format, args...))
		}
	}
	refuse(c.Module == "", "module: the path of the PKCS#11 module is missing")
	refuse(c.Token == "", "token: the label of the token is missing")
	refuse(len(c.Token) > 32, "token: a label has at most 32 bytes")
	refuse(c.KEK == c.RecordKey, "kek, record_key: two keys with the same label %q", c.KEK)
	refuse(c.Sessions < 0 || c.Sessions > 1024, "sessions: %d is not from 1 to 1024", c.Sessions)
	refuse(c.Timeout < time.Millisecond, "timeout: %v is less than 1ms", c.Timeout)
	refuse(c.Keys < 0, "keys: %d is negative", c.Keys)
	refuse(c.Queue.Calls < 0, "queue.calls: %d is negative", c.Queue.Calls)
	refuse(c.Timeout >= time.Millisecond && (c.Queue.Wait < time.Millisecond || c.Queue.Wait > c.Timeout), "queue.wait: %v is not from 1ms to the timeout, %v", c.Queue.Wait, c.Timeout)
	refuse(c.IV != "host", "iv: %q is not supported, only host", c.IV)
	if err := c.PIN.check(); err != nil {
		faults = append(faults, err)
	}
	return faults
}

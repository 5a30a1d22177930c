package hsm

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
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
	DefaultLifetime  = time.Hour
)

// Config says which token is the root of trust. It is a section of the
// configuration file. The zero value of each field that is not required is its
// default.
type Config struct {
	// Module is the path of the PKCS#11 module. Required.
	Module string `yaml:"module"`
	// Token is the label of the token. It, Slot or Tokens is required.
	Token string `yaml:"token,omitempty"`
	// Serial is the serial number of the token. It is needed where two tokens
	// have the same label.
	Serial string `yaml:"serial,omitempty"`
	// Slot is the id of the token's slot when it is connected to for the first time.
	// From then on it is known by its serial number: slots are renumbered.
	Slot *uint `yaml:"slot,omitempty"`
	// PIN says where the PIN of the token's user is. Required.
	PIN PIN `yaml:"pin"`
	// Tokens are tokens that hold the same root keys, in the place of Token, Serial
	// and Slot: ops are spread over those that work.
	Tokens []TokenConfig `yaml:"tokens,omitempty"`
	// KEK is the label of the AES key that wraps all master keys, or where two have one
	// label pkcs11:object=LABEL;id=%01%02... (RFC 7512), as all root keys here. Default
	// keygate-kek.
	KEK string `yaml:"kek,omitempty"`
	// OtherKEKs are labels of KEKs that wrap no new keys, but unwrap those that they
	// have wrapped: the one before a rotation and, until all gateways know it, the
	// one after.
	OtherKEKs []string `yaml:"other_keks,omitempty"`
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
	// SessionLifetime is how long a session is used for calls, give or take a fifth, so
	// that not all are opened anew at the same time. Sessions that hold loaded keys,
	// and so the login, last as long as the connection. Default 1h.
	SessionLifetime time.Duration `yaml:"session_lifetime,omitempty"`
	// Wrapping says how the KEK wraps new keys: aes-kw, aes-kwp or aes-gcm. It is
	// an error if the token does not have it. Empty, the default: the first of
	// these that it has. Keys that were wrapped in another way can be used as long
	// as the token has that, too.
	Wrapping string `yaml:"wrapping,omitempty"`
	// Residency says where new keys are: "wrapped", the default, by the KEK, in their
	// records, so that any token with the KEK can load them; or "token": each is an
	// object of the one token that it was made in, and never leaves it. Keys of
	// either kind can be used whatever it says.
	Residency string `yaml:"residency,omitempty"`
	// Accept names rules for the root keys that the token cannot keep: CKA_LOCAL,
	// CKA_UNWRAP_TEMPLATE or both. One that is broken is logged at each start.
	// Default none: such a token is refused.
	Accept []string `yaml:"accept,omitempty"`
	// Isolation says where the module runs: IsolationNone, the default, or
	// IsolationWorker.
	Isolation string `yaml:"isolation,omitempty"`
	// SigningKey is the label of the key pair that signs what the token says of its
	// keys (Attest). Empty: nothing is signed.
	SigningKey string `yaml:"signing_key,omitempty"`
	// Signs says that private keys of the token are used (Signer), also without a
	// SigningKey.
	Signs bool `yaml:"-"`
	// Copyable: "allowed" accepts root keys that were made to be copied to another
	// token, or were copied. Default: they are refused.
	Copyable string `yaml:"copyable,omitempty"`
}

// The values of Config.Isolation.
const (
	IsolationNone   = "in-process" // in this process
	IsolationWorker = "worker"     // in a process for each token, which is replaced when it ends or hangs
)

// signs reports whether private keys are used.
func (c Config) signs() bool { return c.Signs || c.SigningKey != "" }

// TokenConfig names one of several tokens. What it does not say, Config does.
type TokenConfig struct {
	// URI is a PKCS #11 URI (RFC 7512) in the place of other fields, with the
	// attributes token, serial, slot-id, module-path and pin-source.
	URI      string `yaml:"uri,omitempty"`
	Module   string `yaml:"module,omitempty"`
	Token    string `yaml:"token,omitempty"`
	Serial   string `yaml:"serial,omitempty"`
	Slot     *uint  `yaml:"slot,omitempty"`
	PIN      *PIN   `yaml:"pin,omitempty"`
	InitArgs string `yaml:"init_args,omitempty"`
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
	if c.SessionLifetime == 0 {
		c.SessionLifetime = DefaultLifetime
	}
	if c.Queue.Wait == 0 {
		c.Queue.Wait = min(DefaultWait, c.Timeout)
	}
	if c.IV == "" {
		c.IV = "host"
	}
	if c.Isolation == "" {
		c.Isolation = IsolationNone
	}
	return c, errors.Join(c.faults()...)
}

// EachToken returns a configuration for each token of c, with that one only.
func (c Config) EachToken() []Config {
	all, _ := c.eachToken()
	return all
}

func (c Config) eachToken() (all []Config, faults []error) {
	if len(c.Tokens) == 0 {
		return []Config{c}, nil
	}
	for i, t := range c.Tokens {
		one := c
		one.Tokens = nil
		one.Token, one.Serial, one.Slot = t.Token, t.Serial, t.Slot
		one.Module, one.InitArgs = cmp.Or(t.Module, c.Module), cmp.Or(t.InitArgs, c.InitArgs)
		if t.PIN != nil {
			one.PIN = *t.PIN
		}
		if t.URI != "" {
			if err := one.apply(t.URI); err != nil {
				faults = append(faults, fmt.Errorf("hsm: tokens.%d.uri: %w", i, err))
			}
		}
		all = append(all, one)
	}
	return all, faults
}

// Names says which tokens c is about, as they are named in the log.
func (c Config) Names() string {
	var all []string
	for _, t := range c.EachToken() {
		all = append(all, t.logName())
	}
	return strings.Join(all, ", ")
}

func (c Config) faults() (faults []error) {
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf("hsm: "+format, args...))
		}
	}
	refuse(c.KEK == c.RecordKey, "kek, record_key: two keys with the same label %q", c.KEK)
	refuse(c.SigningKey != "" && (c.SigningKey == c.KEK || c.SigningKey == c.RecordKey), "signing_key: it is the label %q of another key", c.SigningKey)
	for i, label := range c.OtherKEKs {
		refuse(label == "" || label == c.KEK || label == c.RecordKey || slices.Contains(c.OtherKEKs[:i], label), "other_keks: %q is empty, or the label of another key", label)
	}
	for _, name := range append([]string{c.KEK, c.RecordKey}, c.OtherKEKs...) {
		_, err := rootKeyName(name)
		refuse(err != nil, "kek, other_keks, record_key: %v", err)
	}
	refuse(c.Sessions < 0 || c.Sessions > 1024, "sessions: %d is not from 1 to 1024", c.Sessions)
	refuse(c.Timeout < time.Millisecond, "timeout: %v is less than 1ms", c.Timeout)
	refuse(c.SessionLifetime < 0, "session_lifetime: %v is negative", c.SessionLifetime)
	refuse(c.Keys < 0, "keys: %d is negative", c.Keys)
	refuse(c.Queue.Calls < 0, "queue.calls: %d is negative", c.Queue.Calls)
	refuse(c.Timeout >= time.Millisecond && (c.Queue.Wait < time.Millisecond || c.Queue.Wait > c.Timeout), "queue.wait: %v is not from 1ms to the timeout, %v", c.Queue.Wait, c.Timeout)
	refuse(c.IV != "host", "iv: %q is not supported, only host", c.IV)
	refuse(c.Wrapping != "" && !slices.Contains(wrappingNames(), c.Wrapping), "wrapping: %q is none of %s", c.Wrapping, strings.Join(wrappingNames(), ", "))
	refuse(c.Residency != "" && c.Residency != residencyWrapped && c.Residency != residencyToken, "residency: %q is neither %s nor %s", c.Residency, residencyWrapped, residencyToken)
	refuse(c.Residency == residencyToken && len(c.Tokens) > 1, "residency: keys of residency token are in the one token that made them, so the others of tokens could not use them")
	refuse(c.Copyable != "" && c.Copyable != copyableAllowed, "copyable: %q is not %s", c.Copyable, copyableAllowed)
	for _, rule := range c.Accept {
		refuse(!slices.Contains(acceptable, rule), "accept: %q is none of %s", rule, strings.Join(acceptable, ", "))
	}
	refuse(c.Isolation != IsolationNone && c.Isolation != IsolationWorker, "isolation: %q is neither %s nor %s", c.Isolation, IsolationNone, IsolationWorker)
	refuse(len(c.Tokens) > 0 && (c.Token != "" || c.Serial != "" || c.Slot != nil), "tokens: token, serial and slot belong into its entries")
	refuse(len(c.Tokens) > maxTokens, "tokens: %d are more than %d", len(c.Tokens), maxTokens)
	return append(faults, c.tokenFaults()...)
}

// maxTokens bounds the tokens of a group.
const maxTokens = 16

// tokenFaults returns what is wrong with what names a token.
func (c Config) tokenFaults() []error {
	all, faults := c.eachToken()
	seen := make(map[string]int)
	for i, t := range all {
		at := ""
		if len(c.Tokens) > 0 {
			at = fmt.Sprintf("tokens.%d.", i)
		}
		refuse := func(bad bool, format string, args ...any) {
			if bad {
				faults = append(faults, fmt.Errorf("hsm: "+at+format, args...))
			}
		}
		refuse(t.Module == "", "module: the path of the PKCS#11 module is missing")
		refuse(t.Token == "" && t.Slot == nil, "token: the label of the token is missing")
		refuse(len(t.Token) > 32, "token: a label has at most 32 bytes")
		refuse(len(t.Serial) > 16, "serial: a serial number has at most 16 bytes")
		if err := t.PIN.check(); err != nil {
			_, text, _ := strings.Cut(err.Error(), ": ")
			refuse(true, "%s", text)
		}
		same := fmt.Sprintf("%s\n%s", t.Module, t.tokenName())
		first, twice := seen[same]
		refuse(twice, "token: it is the same as that of tokens.%d", first)
		seen[same] = i
	}
	return faults
}

// tokenName says in messages which token c means, which is one.
func (c Config) tokenName() string {
	name := strconv.Quote(c.Token)
	if c.Serial != "" {
		name += fmt.Sprintf(" with the serial number %q", c.Serial)
	}
	if c.Slot != nil {
		name += fmt.Sprintf(" in slot %d", *c.Slot)
	}
	return name
}

// logName is tokenName for an attribute of a log line, without quotation marks around
// a label that is alone.
func (c Config) logName() string {
	if c.Serial == "" && c.Slot == nil {
		return c.Token
	}
	return c.tokenName()
}

// means reports whether t is a token that c names.
func (c Config) means(t slotToken) bool {
	return (c.Token == "" || t.info.Label == c.Token) && (c.Serial == "" || t.info.SerialNumber == c.Serial) && (c.Slot == nil || t.slot == *c.Slot)
}

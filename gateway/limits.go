package gateway

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/keygate/keygate/admission"
	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/policy"
)

// LimitsConfig bounds what clients can ask for at a time, so that what is begun is
// done in time, and one client's flood is no other's. It is a section of the
// configuration file. The zero value of each field is its default.
type LimitsConfig struct {
	// Running is how many requests are worked on at a time; half of them may be of
	// one identity. Those that wait for the root of trust, the key store or a body
	// for more than 2 ms do not count while others want their place. Default 16 for
	// each CPU.
	Running int `yaml:"running"`
	// Queue is how many requests of one identity wait to begin. Default 64 for each
	// CPU.
	Queue int `yaml:"queue"`
	// Wait is how long a request waits to begin. Then it is refused. Default 5ms.
	Wait time.Duration `yaml:"wait"`
	// Pending bounds the requests that have begun and wait for something; half of
	// them may be of one identity. Default 4096.
	Pending int `yaml:"pending"`
	// Bodies is how many bytes of the bodies of requests are in memory at a time; half
	// of them may be of one identity. Bodies of up to 4 KiB do not count. Default 256
	// MiB; at least 16 MiB, so that the largest batch can be read.
	Bodies int `yaml:"bodies"`
	// Connections is how many may be open. Others are closed at once. Default
	// 16384.
	Connections int `yaml:"connections"`
	// Source is how many of them may be from one IP address, or one /64 network of
	// IPv6. Default half of Connections.
	Source int `yaml:"connections_per_source"`
	// Handshakes is how many TLS handshakes are worked on at a time. Others wait.
	// Default 4 for each CPU.
	Handshakes int `yaml:"handshakes"`
	// Streams is how many requests an HTTP/2 connection may have open. Default 250.
	Streams int `yaml:"streams"`
	// Rate limits requests by number. Default: it does not.
	Rate RateConfig `yaml:"rate"`
}

// RateConfig limits the requests of each identity. Items of batches count as
// requests.
type RateConfig struct {
	// Requests is how many a second. Zero: no limit.
	Requests float64 `yaml:"requests"`
	// Burst is how many at once, after a pause. Default what Requests allows in a
	// second.
	Burst int `yaml:"burst"`
	// Identities have limits of their own. Those of zero have none.
	Identities map[policy.Identity]RateLimit `yaml:"identities"`
}

// A RateLimit is how much one identity may do, as in RateConfig.
type RateLimit struct {
	Requests float64 `yaml:"requests"`
	Burst    int     `yaml:"burst"`
}

func (c RateConfig) all() RateLimit { return RateLimit{Requests: c.Requests, Burst: c.Burst} }

func (l RateLimit) limit() admission.Limit {
	return admission.Limit{PerSecond: l.Requests, Burst: l.Burst}
}

func (l RateLimit) bad() bool {
	const most = 1e6 // requests a second
	return l.Requests < 0 || l.Requests > most || l.Requests > 0 && l.Requests < 1e-3 || l.Burst < 0
}

// Check returns what is wrong with c: errors, joined, of the form "gateway:
// limits.field: text".
func (c LimitsConfig) Check() error {
	var faults []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf("gateway: limits."+format, args...))
		}
	}
	for _, field := range []struct {
		name string
		n    int
		most int
	}{
		{"running", c.Running, 1 << 16}, {"queue", c.Queue, 1 << 16}, {"pending", c.Pending, 1 << 20}, {"connections", c.Connections, 1 << 20},
		{"connections_per_source", c.Source, 1 << 20}, {"handshakes", c.Handshakes, 1 << 16}, {"streams", c.Streams, 1 << 16},
	} {
		refuse(field.n < 0 || field.n > field.most, "%s: %d is not from 1 to %d, or 0 for the default", field.name, field.n, field.most)
	}
	const least = 2 * api.MaxBatch
	refuse(c.Bodies != 0 && (c.Bodies < least || c.Bodies > 1<<40), "bodies: %d is not from %d to %d, or 0 for the default", c.Bodies, least, 1<<40)
	refuse(c.Wait < 0 || c.Wait > time.Second, "wait: %v is not from 0 to 1s", c.Wait)
	refuse(c.Rate.all().bad(), "rate: requests is 0, or from 0.001 to 1000000 a second, and burst is 0 or more")
	for id, own := range c.Rate.Identities {
		refuse(own.bad(), "rate.identities: %s: requests is 0, or from 0.001 to 1000000 a second, and burst is 0 or more", id)
		_, err := policy.ParseIdentity(string(id))
		refuse(err != nil, "rate.identities: %q is not an identity", string(id))
	}
	return errors.Join(faults...)
}

// WithDefaults returns c with each default in the place of a zero.
func (c LimitsConfig) WithDefaults() LimitsConfig {
	cpus := runtime.GOMAXPROCS(0)
	for _, field := range []struct {
		n       *int
		usually int
	}{{&c.Running, 16 * cpus}, {&c.Queue, 64 * cpus}, {&c.Pending, 4096}, {&c.Bodies, 256 << 20}, {&c.Connections, 16384}, {&c.Handshakes, 4 * cpus}, {&c.Streams, 250}} {
		if *field.n == 0 {
			*field.n = field.usually
		}
	}
	if c.Source == 0 {
		c.Source = max(c.Connections/2, 1)
	}
	if c.Wait == 0 {
		c.Wait = 5 * time.Millisecond
	}
	return c
}

// limitOf returns how much an identity may do; empty: a stranger.
func (c LimitsConfig) limitOf(id policy.Identity) admission.Limit {
	if own, ok := c.Rate.Identities[id]; ok {
		return own.limit()
	}
	return c.Rate.all().limit()
}

package hsm_test

import (
	"testing"
	"time"

	"github.com/keygate/keygate/hsm"
)

func TestConfigIsChecked(t *testing.T) {
	good := hsm.Config{Module: "m", Token: "t", PIN: hsm.PIN{File: "f"}}
	ok(t, good.Check())
	for _, test := range []struct {
		says   string
		change func(*hsm.Config)
	}{
		{"module", func(c *hsm.Config) { c.Module = "" }},
		{"token", func(c *hsm.Config) { c.Token = "" }},
		{"token", func(c *hsm.Config) { c.Token = "a label of more than thirty-two bytes" }},
		{"record_key", func(c *hsm.Config) { c.RecordKey = hsm.DefaultKEK }},
		{"sessions", func(c *hsm.Config) { c.Sessions = -1 }},
		{"sessions", func(c *hsm.Config) { c.Sessions = 100_000 }},
		{"timeout", func(c *hsm.Config) { c.Timeout = -time.Second }},
		{"timeout", func(c *hsm.Config) { c.Timeout = time.Nanosecond }},
		{"session_lifetime", func(c *hsm.Config) { c.SessionLifetime = -time.Second }},
		{"keys", func(c *hsm.Config) { c.Keys = -1 }},
		{"queue.calls", func(c *hsm.Config) { c.Queue.Calls = -1 }},
		{"queue.wait", func(c *hsm.Config) { c.Queue.Wait = -time.Second }},
		{"queue.wait", func(c *hsm.Config) { c.Queue.Wait = c.Timeout + time.Hour }},
		{"iv", func(c *hsm.Config) { c.IV = "token" }},
		{`residency: "hsm" is neither wrapped nor token`, func(c *hsm.Config) { c.Residency = "hsm" }},
		{"residency: keys of residency token are in the one token", func(c *hsm.Config) {
			c.Residency, c.Token, c.Tokens = "token", "", []hsm.TokenConfig{{Token: "a"}, {Token: "b"}}
		}},
		{`"aes-cbc-pad" is none of aes-kw, aes-kwp, aes-gcm`, func(c *hsm.Config) { c.Wrapping = "aes-cbc-pad" }},
	} {
		c := good
		test.change(&c)
		says(t, c.Check(), test.says)
	}
}

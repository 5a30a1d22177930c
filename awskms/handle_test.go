package awskms

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	keygate "github.com/keygate/keygate/kms"
)

// golden are handles of version 1. What one release wrote, every later one reads.
var golden = map[string]keyHandle{
	"0101000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f000f61726e3a6177733a6b6d733a3a3a310000332627b8d6a69346d29bb800999b1188":       {kind: sharedKind, arn: "arn:aws:kms:::1"},
	"0102000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f000f61726e3a6177733a6b6d733a3a3a31000055d7c750c72013fcba00e6f98296b1d9":       {kind: ownKind, arn: "arn:aws:kms:::1"},
	"0103000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f000f61726e3a6177733a6b6d733a3a3a310003010203769858d6e0e0f68116a5dd6919d0db72": {kind: macKind, arn: "arn:aws:kms:::1", wrapped: []byte{1, 2, 3}},
}

func fill(h keyHandle) keyHandle {
	for i := range 16 {
		h.id[i], h.instance[i] = byte(i), byte(16+i)
	}
	return h
}

func TestGoldenHandles(t *testing.T) {
	for text, h := range golden {
		h = fill(h)
		if got := hex.EncodeToString(h.marshal()); got != text {
			t.Errorf("kind %d is %s, not %s", h.kind, got, text)
		}
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseHandle(b)
		if err != nil || got.kind != h.kind || got.id != h.id || got.instance != h.instance || got.arn != h.arn || !bytes.Equal(got.wrapped, h.wrapped) {
			t.Errorf("%s is %+v, %v", text, got, err)
		}
	}
}

// A handle that is read is written as it was, and what is not read is ErrCorrupt.
// The checksum is set right, so that what is behind it is reached.
func FuzzHandle(f *testing.F) {
	seeds := 0
	for _, h := range golden {
		f.Add(fill(h).marshal())
		seeds++
	}
	if seeds == 0 {
		f.Fatal("no seeds")
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(b) - checksumSize; n >= 0 {
			copy(b[n:], checksum(b[:n]))
		}
		h, err := parseHandle(b)
		if err != nil {
			if !errors.Is(err, keygate.ErrCorrupt) {
				t.Fatalf("error is %v", err)
			}
			return
		}
		if !bytes.Equal(h.marshal(), b) {
			t.Fatalf("%x is read as %x", b, h.marshal())
		}
	})
}

func TestMultiRegionKeysAreThoseOfTheRegion(t *testing.T) {
	for arn, want := range map[string]string{
		"arn:aws:kms:us-east-1:123456789012:key/mrk-12ab":  "arn:aws:kms:eu-west-1:123456789012:key/mrk-12ab",
		"arn:aws:kms:us-east-1:123456789012:key/12ab":      "arn:aws:kms:us-east-1:123456789012:key/12ab",
		"arn:aws:kms:us-east-1:123456789012:alias/mrk-one": "arn:aws:kms:us-east-1:123456789012:alias/mrk-one",
		"mrk-12ab": "mrk-12ab",
	} {
		if got := inRegion(arn, "eu-west-1"); got != want {
			t.Errorf("%s is %s, want %s", arn, got, want)
		}
	}
}

func TestConfig(t *testing.T) {
	if err := (Config{}).Check(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for want, cfg := range map[string]Config{
		"awskms: endpoint: it is not https, and not on this machine":                              {Endpoint: "http://example.net"},
		"awskms: record_key: it is the key that encrypts: an HMAC_256 key is needed":              {RecordKey: DefaultKey},
		`awskms: alias_prefix: "keygate/" does not begin with alias/, or is one of AWS`:           {AliasPrefix: "keygate/"},
		`awskms: alias_prefix: "alias/aws/keygate/" does not begin with alias/, or is one of AWS`: {AliasPrefix: "alias/aws/keygate/"},
		"awskms: deletion_days: 6 is not from 7 to 30":                                            {DeletionDays: 6},
		"awskms: mac_lifetime: 25h0m0s is not more than 0 and at most 24h":                        {MACLifetime: 25 * 60 * 60 * 1e9},
		"awskms: mac_keys: -1 is negative":                                                        {MACKeys: -1},
	} {
		if err := cfg.Check(); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

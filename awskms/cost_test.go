package awskms_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/keygate/keygate/awskms"
	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
)

// perCall is the list price of a call of KMS in US dollars: $0.03 for 10,000.
const perCall = 0.03 / 10_000

// What requests cost in calls of KMS. docs/root-aws.md has these figures.
func TestCallsOfKMSForRequests(t *testing.T) {
	p := localKMS(t)
	const requests = 1000
	for _, c := range []struct {
		mode                       envelope.Mode
		perKey                     bool
		create, generate, decrypts int // calls of KMS: for a key, and for requests of each
	}{
		{envelope.Branch, false, 7, 3, 0},
		{envelope.Direct, false, 7, requests, requests},
		{envelope.Branch, true, 10, 3, 0},
		{envelope.Direct, true, 10, requests, requests},
	} {
		r, _, _ := behind(t, p, func(cfg *awskms.Config) { cfg.PerKey = c.perKey })
		k, err := kms.New(kms.Config{Cluster: kms.ClusterID{1}, Mode: c.mode, Logger: quiet()}, r, memory.New())
		ok(t, err)
		p.Counts()
		_, err = k.CreateKey(t.Context(), "app", "test")
		ok(t, err)
		create := p.Counts()
		var ciphertexts [][]byte
		for range requests {
			_, ciphertext, _, err := k.GenerateDataKey(t.Context(), "app", nil)
			ok(t, err)
			ciphertexts = append(ciphertexts, ciphertext)
		}
		generate := p.Counts()
		for _, ciphertext := range ciphertexts {
			_, _, err := k.Decrypt(t.Context(), "app", ciphertext, nil)
			ok(t, err)
		}
		decrypt := p.Counts()
		for range requests {
			_, _, err := k.MAC(t.Context(), "app", []byte("message"))
			ok(t, err)
		}
		mac := p.Counts()
		t.Logf("%v, per key %t: create %v; %d generate %v; %d decrypt %v; %d hmac %v", c.mode, c.perKey, create, requests, generate, requests, decrypt, requests, mac)
		if sum(create) != c.create || sum(generate) != c.generate || sum(decrypt) != c.decrypts || sum(mac) > 1 {
			t.Errorf("%v, per key %t: %d, %d, %d and %d calls, want %d, %d, %d and up to 1", c.mode, c.perKey,
				sum(create), sum(generate), sum(decrypt), sum(mac), c.create, c.generate, c.decrypts)
		}
		t.Logf("a million DEKs cost $%.6f", perCall*float64(sum(generate))*map[envelope.Mode]float64{envelope.Branch: 1, envelope.Direct: 1e6 / requests}[c.mode])
	}
}

func sum(calls map[string]int) (n int) {
	for _, operation := range slices.Sorted(maps.Keys(calls)) {
		n += calls[operation]
	}
	return n
}

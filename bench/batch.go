package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// batchSize is how many DEKs are asked for at once.
const batchSize = 1000

// batch measures DEKs in batches, for each core that the server uses.
func (b *bench) batch(ctx context.Context) error {
	const title = "Batches of 1,000 DEKs"
	g, err := b.gateway(ctx, "batch", config{})
	if err != nil {
		return err
	}
	defer g.stop()
	if err := g.createKey(ctx, floorKey); err != nil {
		return err
	}
	r := newRequest("/v1/key/batch/generate/"+floorKey, fmt.Appendf(nil, `{"count":%d}`, batchSize))
	body, err := g.call(ctx, g.state.admin, r)
	if e, ok := errors.AsType[*statusError](err); ok && (e.status == http.StatusNotImplemented || e.status == http.StatusNotFound) {
		b.report.skip(title, "this gateway does not make batches (status %d)", e.status)
		return nil
	}
	if err == nil {
		err = checkBatch(body)
	}
	if err != nil {
		return err
	}
	return b.measureBatch(ctx, b.report.table(title, "", "rate", "DEKs", "CPU a request", "DEKs for a core", "p50", "p99", "RSS"), g, r, len(body))
}

func (b *bench) measureBatch(ctx context.Context, t *table, g *gateway, r *request, size int) error {
	for _, p := range []protocol{http1, http2} {
		l := b.load(g.target(g.state.admin), p, always(r))
		m, err := b.duel(ctx, side{"batch", l, g.process})
		if err != nil {
			return err
		}
		f := m[0]
		deks := f.rate * batchSize
		core := 0.0
		if f.cpu > 0 {
			core = batchSize / f.cpu.Seconds()
		}
		t.row(string(p), perSecond(f.rate), perSecond(deks), micros(f.cpu), perSecond(core), millis(f.p50), millis(f.p99), mebi(f.rss))
		b.report.verdict(core >= 500_000, "batch generate, 1,000 a request, "+string(p)+": DEKs for a core of server CPU", ">= 500,000 /s", "%.0f /s", core)
	}
	t.note("An answer has %d bytes.", size)
	return nil
}

// checkBatch returns an error unless body holds as many different DEKs as were
// asked for.
func checkBatch(body []byte) error {
	var items []struct {
		Plaintext, Ciphertext []byte
	}
	if err := json.Unmarshal(body, &items); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for _, item := range items {
		if len(item.Plaintext) != 32 || len(item.Ciphertext) == 0 {
			return errors.New("a batch has an item without a DEK")
		}
		seen[string(item.Plaintext)] = true
		clear(item.Plaintext)
	}
	if len(seen) != batchSize {
		return fmt.Errorf("a batch of %d has %d different DEKs", batchSize, len(seen))
	}
	return nil
}

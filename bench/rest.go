package main

import (
	"context"
	"time"
)

// settleTime is how long a server is left alone before its memory is looked at.
const settleTime = 3 * time.Second

// rest looks at the memory of a gateway that has one key and nothing to do.
func (b *bench) rest(ctx context.Context) error {
	g, err := b.gateway(ctx, "rest", config{})
	if err != nil {
		return err
	}
	defer g.stop()
	if err := g.createKey(ctx, floorKey); err != nil {
		return err
	}
	if _, err := g.call(ctx, g.state.app, generate(floorKey)); err != nil {
		return err
	}
	sleep(ctx, settleTime)
	kib := g.rss()
	b.report.table("Memory at rest", "", "RSS").row("1 key, after 1 generate", mebi(kib))
	b.report.verdict(kib > 0 && kib <= 64<<10, "RSS at rest with one key", "<= 64 MiB", "%s", mebi(kib))
	return ctx.Err()
}

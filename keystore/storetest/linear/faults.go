package linear

import (
	"math/rand/v2"
	"time"

	"github.com/keygate/keygate/keystore/storetest/netfault"
)

// faultBegins is how long, at most, all is well before a fault.
const faultBegins = 80 * time.Millisecond

// Fail has the network between a node and its servers fail up to three times, each for
// less than longest, and leaves it well. Without proxies there is no network.
func Fail(rng *rand.Rand, proxies []*netfault.Proxy, longest time.Duration) {
	if len(proxies) == 0 {
		return
	}
	for range rng.IntN(4) {
		time.Sleep(time.Duration(rng.Int64N(int64(faultBegins))))
		heal := fault(rng, some(rng, proxies))
		time.Sleep(time.Duration(rng.Int64N(int64(longest))))
		heal()
	}
}

// some returns one of proxies, or all.
func some(rng *rand.Rand, proxies []*netfault.Proxy) []*netfault.Proxy {
	if i := rng.IntN(2 * len(proxies)); i < len(proxies) {
		return proxies[i : i+1]
	}
	return proxies
}

// fault begins a fault and returns what ends it.
func fault(rng *rand.Rand, proxies []*netfault.Proxy) (heal func()) {
	each := func(f func(p *netfault.Proxy)) {
		for _, p := range proxies {
			f(p)
		}
	}
	cut := func() { each(func(p *netfault.Proxy) { p.Cut() }) }
	set := func(m netfault.Mode) { each(func(p *netfault.Proxy) { p.Set(m) }) }
	well := func() { set(netfault.Pass) }
	switch rng.IntN(6) {
	case 0: // connections end, of which some are in the middle of a call
		cut()
		return func() {}
	case 1: // nobody is there
		set(netfault.Refuse)
		cut()
		return well
	case 2: // what is asked is done, and the answers are lost
		set(netfault.Half)
		return func() { well(); cut() }
	case 3: // the same, and those who wait see no end
		set(netfault.Half)
		return well
	case 4: // neither is heard of the other
		set(netfault.Silent)
		return func() { well(); cut() }
	}
	delay := time.Duration(1+rng.Int64N(300)) * time.Millisecond
	each(func(p *netfault.Proxy) { p.Delay(delay) })
	return func() { each(func(p *netfault.Proxy) { p.Delay(0) }) }
}

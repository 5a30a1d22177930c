package envelope

import "encoding/binary"

// A messagePack takes values from the front of b. Once one was of another kind
// or too long, bad is set and every value is nil.
type messagePack struct {
	b   []byte
	bad bool
}

func (p *messagePack) take(n int) []byte {
	if p.bad || n < 0 || n > len(p.b) {
		p.bad = true
		return nil
	}
	v := p.b[:n:n]
	p.b = p.b[n:]
	return v
}

// length reads a length of size bytes.
func (p *messagePack) length(size int) int {
	v := p.take(size)
	switch {
	case p.bad:
		return -1
	case size == 1:
		return int(v[0])
	case size == 2:
		return int(binary.BigEndian.Uint16(v))
	}
	return int(binary.BigEndian.Uint32(v))
}

// str reads a fixstr, str 8, str 16 or str 32.
func (p *messagePack) str() []byte {
	kind := p.take(1)
	switch {
	case p.bad:
		return nil
	case kind[0]&0xe0 == 0xa0:
		return p.take(int(kind[0] & 0x1f))
	case 0xd9 <= kind[0] && kind[0] <= 0xdb:
		return p.take(p.length(1 << (kind[0] - 0xd9)))
	}
	p.bad = true
	return nil
}

// bin reads a bin 8, bin 16 or bin 32.
func (p *messagePack) bin() []byte {
	kind := p.take(1)
	if !p.bad && 0xc4 <= kind[0] && kind[0] <= 0xc6 {
		return p.take(p.length(1 << (kind[0] - 0xc4)))
	}
	p.bad = true
	return nil
}

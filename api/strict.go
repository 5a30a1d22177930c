package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
)

// A strict reads one JSON document (RFC 8259) of which every field is known: one
// that is not, one that comes twice and one in another case are errors, as is
// what follows the document. After an error, failed is set and all is empty.
//
// It reads in place. What it returns are parts of the document, which is changed:
// binary fields are decoded where they stand.
type strict struct {
	b      []byte
	failed bool
}

func (s *strict) fail() { s.b, s.failed = nil, true }

// end reports whether the document was read without an error and to its end.
func (s *strict) end() bool {
	s.space()
	return !s.failed && len(s.b) == 0
}

func (s *strict) space() {
	i := 0
	for i < len(s.b) && (s.b[i] == ' ' || s.b[i] == '\t' || s.b[i] == '\n' || s.b[i] == '\r') {
		i++
	}
	s.b = s.b[i:]
}

// peek returns the first byte of the next token, 0 at the end.
func (s *strict) peek() byte {
	s.space()
	if len(s.b) == 0 {
		return 0
	}
	return s.b[0]
}

// skip reads c if it comes next.
func (s *strict) skip(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.b = s.b[1:]
	return true
}

func (s *strict) expect(c byte) {
	if !s.skip(c) {
		s.fail()
	}
}

// array calls element for each element, which it reads.
func (s *strict) array(element func()) {
	s.expect('[')
	if s.skip(']') {
		return
	}
	for !s.failed {
		element()
		if s.skip(']') {
			return
		}
		s.expect(',')
	}
}

// object calls field with the place of each field among names, and field reads
// its value. The fields may come in any order. It returns which were there, a bit
// for each.
func (s *strict) object(names []string, field func(i int)) (there uint) {
	s.expect('{')
	if s.skip('}') {
		return 0
	}
	for !s.failed {
		i := s.name(names)
		if i < 0 || there&(1<<i) != 0 {
			s.fail()
			return there
		}
		there |= 1 << i
		s.expect(':')
		field(i)
		if s.skip('}') {
			return there
		}
		s.expect(',')
	}
	return there
}

func (s *strict) name(names []string) int {
	got := s.text()
	for i, name := range names {
		if string(got) == name {
			return i
		}
	}
	return -1
}

// text reads a string.
func (s *strict) text() []byte {
	if s.peek() != '"' {
		s.fail()
		return nil
	}
	b := s.b[1:]
	n := bytes.IndexByte(b, '"')
	if n < 0 {
		s.fail()
		return nil
	}
	if bytes.IndexByte(b[:n], '\\') < 0 {
		s.b = b[n+1:]
		return b[:n]
	}
	return s.escaped(b)
}

// escaped reads a string with escapes, such as "\/", that some encoders write in
// base64. b is what follows its first quote.
func (s *strict) escaped(b []byte) []byte {
	n := 0
	for ; n < len(b) && b[n] != '"'; n++ {
		if b[n] == '\\' {
			n++
		}
	}
	if n >= len(b) {
		s.fail()
		return nil
	}
	var text string
	if json.Unmarshal(s.b[:n+2], &text) != nil || len(text) > n {
		s.fail()
		return nil
	}
	s.b = b[n+1:]
	return b[:copy(b, text)]
}

// optionalBinary is binary for a field that may be null, which is empty.
func (s *strict) optionalBinary() []byte {
	if s.peek() == 'n' {
		s.literal("null")
		return nil
	}
	return s.binary()
}

// binary reads a string of standard base64 and decodes it where it stands.
func (s *strict) binary() []byte {
	text := s.text()
	if len(text)%4 != 0 {
		s.fail()
		return nil
	}
	var chunk [768]byte
	n := 0
	for rest := text; len(rest) > 0; {
		part := rest[:min(len(rest), len(chunk)/3*4)]
		rest = rest[len(part):]
		got, err := base64.StdEncoding.Decode(chunk[:], part)
		// The decoder passes over line breaks, which JSON has not in strings, and
		// padding ends the text.
		short := len(part)/4*3 - got
		if err != nil || short > 2 || short > 0 && (len(rest) > 0 || part[len(part)-short] != '=') {
			s.fail()
			return nil
		}
		n += copy(text[n:], chunk[:got])
	}
	return text[:n:n]
}

// count reads a number without sign, point and exponent, of at most nine digits.
func (s *strict) count() int {
	s.space()
	n := 0
	for n < len(s.b) && '0' <= s.b[n] && s.b[n] <= '9' {
		n++
	}
	if n == 0 || n > 9 || n > 1 && s.b[0] == '0' {
		s.fail()
		return 0
	}
	v, err := strconv.Atoi(string(s.b[:n]))
	if err != nil {
		s.fail()
		return 0
	}
	s.b = s.b[n:]
	return v
}

// boolean reads true or false.
func (s *strict) boolean() bool {
	if s.peek() == 't' {
		s.literal("true")
		return !s.failed
	}
	s.literal("false")
	return false
}

func (s *strict) literal(text string) {
	if !bytes.HasPrefix(s.b, []byte(text)) {
		s.fail()
		return
	}
	s.b = s.b[len(text):]
}

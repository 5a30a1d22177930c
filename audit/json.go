package audit

import (
	"strconv"
	"sync/atomic"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

func appendOptional(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	return appendField(dst, name, value)
}

// appendField appends `,"name":"value"`. The name is ours and needs no escape.
func appendField(dst []byte, name, value string) []byte {
	dst = append(dst, `,"`...)
	dst = append(dst, name...)
	dst = append(dst, `":"`...)
	dst = appendEscaped(dst, value)
	return append(dst, '"')
}

// appendEscaped appends s as the inside of a JSON string (RFC 8259, 7). What is
// not printable is escaped, so that a line holds no control sequence of a
// terminal and no character that reverses the direction of text; what is not
// UTF-8 becomes U+FFFD.
func appendEscaped(dst []byte, s string) []byte {
	for i := 0; i < len(s); {
		if n := plain(s[i:]); n > 0 {
			dst = append(dst, s[i:i+n]...)
			i += n
			continue
		}
		if c := s[i]; c < utf8.RuneSelf {
			dst = appendASCII(dst, c)
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r != utf8.RuneError && strconv.IsPrint(r) {
			dst = append(dst, s[i:i+n]...)
		} else {
			dst = appendRune(dst, r)
		}
		i += n
	}
	return dst
}

// plain returns how many bytes at the beginning of s need no escape.
func plain(s string) int {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return i
		}
	}
	return len(s)
}

func appendASCII(dst []byte, c byte) []byte {
	switch {
	case c == '"' || c == '\\':
		return append(dst, '\\', c)
	case c < ' ' || c == 0x7f:
		return appendUnit(dst, uint16(c))
	}
	return append(dst, c)
}

func appendRune(dst []byte, r rune) []byte {
	if r <= 0xffff {
		return appendUnit(dst, uint16(r))
	}
	high, low := utf16.EncodeRune(r)
	return appendUnit(appendUnit(dst, uint16(high)), uint16(low))
}

func appendUnit(dst []byte, u uint16) []byte {
	const digits = "0123456789abcdef"
	return append(dst, '\\', 'u', digits[u>>12], digits[u>>8&15], digits[u>>4&15], digits[u&15])
}

// A second is one of the clock's, and its text up to there.
type second struct {
	unix int64
	text string
}

// thisSecond is the last second that a time was written of.
var thisSecond atomic.Pointer[second]

// appendTime appends t in UTC as RFC 3339 with all nine digits of the second, so that
// lines sort by time. Most lines are of the same second as the one before.
func appendTime(dst []byte, t time.Time) []byte {
	s := thisSecond.Load()
	if s == nil || s.unix != t.Unix() {
		s = &second{t.Unix(), t.UTC().Format("2006-01-02T15:04:05.")}
		thisSecond.Store(s)
	}
	dst = append(dst, s.text...)
	nanoseconds := t.Nanosecond()
	var digits [9]byte
	for i := len(digits) - 1; i >= 0; i-- {
		digits[i] = byte('0' + nanoseconds%10)
		nanoseconds /= 10
	}
	return append(append(dst, digits[:]...), 'Z')
}

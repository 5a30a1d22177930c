package gateway_test

import (
	"strings"
	"unicode/utf16"
)

// badBodies are no bodies of any key operation.
var badBodies = []string{
	"x", "{", "}", `{"context"}`, `{"context":}`, `{"context":1}`, `{"context":"e30"}`, `{"context":"*"}`, `{"context":"-_-_"}`, `{"context":{}}`, `{"context":true}`,
	`[]`, `"text"`, `1`, `true`, " ", "\n", "\ufeff{}", "\x00", "\xff\xfe", utf16LE(`{"context":"e30="}`), `{'context':'e30='}`, `{"context":"e30=",}`,
	"{\"context\":\"e30=\x00\"}", strings.Repeat("[", 100_000), strings.Repeat(`{"a":`, 100_000), `{"context":[` + strings.Repeat("[", 50_000) + `]}`,
	strings.Repeat(" ", 1_000_001), `{"context":"` + strings.Repeat("A", 1_000_000) + `"}`, "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\xabV\x02\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00",
}

func utf16LE(s string) string {
	var b strings.Builder
	for _, u := range utf16.Encode([]rune(s)) {
		b.WriteByte(byte(u))
		b.WriteByte(byte(u >> 8))
	}
	return b.String()
}

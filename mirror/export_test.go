package mirror

import (
	"context"
	"log/slog"
	"time"
)

// OpenQuick is Open of roots whose watches look often.
func OpenQuick(ctx context.Context, cfg Config, members [2]Member, log *slog.Logger) (*Root, error) {
	return open(ctx, cfg, members, log, times{
		patience: 20 * time.Millisecond, look: 300 * time.Millisecond, here: 50 * time.Millisecond, away: 10 * time.Millisecond,
		reopen: 20 * time.Millisecond, gap: 5 * time.Millisecond, start: 2 * time.Second,
	})
}

// The parts of a ciphertext or a handle, for tests that put others together.

func SplitCiphertext(b []byte) (halves [2][]byte, body []byte) {
	m, err := parseMessage(b)
	if err != nil {
		panic(err)
	}
	return m.halves, m.body
}

func JoinCiphertext(halves [2][]byte, body []byte) []byte {
	m := message{halves: halves}
	m.newHead()
	return appendSum(append(m.head, body...))
}

func SplitHandle(b []byte) [2][]byte {
	h, err := parseHandle(b)
	if err != nil {
		panic(err)
	}
	return h.halves
}

func JoinHandle(purpose byte, halves [2][]byte) []byte {
	b := []byte{handleFormat, purpose}
	for _, half := range halves {
		b = appendSized(b, half)
	}
	return appendSum(b)
}

// Resum puts the right hash at the end of b.
func Resum(b []byte) []byte { return appendSum(b[: len(b)-sumSize : len(b)-sumSize]) }

const SumSize = sumSize

package gateway

import (
	"testing"
	"time"
)

// hold takes all turns of an identity but n.
func hold(t *testing.T, of *turns, n int) []*turning {
	t.Helper()
	var all []*turning
	for range cap(*of) - n {
		one := new(turning)
		one.belong(of)
		one.take()
		all = append(all, one)
	}
	return all
}

func TestConnectionsOfOneIdentityTakeTurns(t *testing.T) {
	busy, other := newTurns(), newTurns()
	held := hold(t, &busy, 0)
	server, client, _ := pair(t)
	turn := &server.(*conn).turning
	read := make(chan error, 1)
	b := make([]byte, 8)
	next := func() {
		client.Write([]byte("request"))
		go func() { _, err := server.Read(b); read <- err }()
	}
	comes := func(what string, want bool) {
		t.Helper()
		select {
		case err := <-read:
			if !want || err != nil {
				t.Errorf("%s: the read is over, %v", what, err)
			}
		case <-time.After(100 * time.Millisecond):
			if want {
				t.Errorf("%s: the read waits", what)
			}
		}
	}
	next()
	comes("a connection of nobody yet", true)
	turn.belong(&other)
	next()
	comes("another identity", true)
	if len(other) != 1 {
		t.Errorf("%d turns are held while a request is handled", len(other))
	}
	turn.belong(&busy)
	next()
	comes("one turn too many", false)
	if len(other) != 0 {
		t.Errorf("%d turns are held while the next request is waited for", len(other))
	}
	held[0].give()
	comes("when another reads again", true)
	if len(busy) != cap(busy) {
		t.Errorf("%d of %d turns are held", len(busy), cap(busy))
	}
	server.Close()
	server.Close()
	if len(busy) != cap(busy)-1 {
		t.Errorf("%d of %d turns are held after the end of a connection", len(busy), cap(busy))
	}
	turn.take() // a read that ended as the connection was closed
	if len(busy) != cap(busy)-1 {
		t.Error("a closed connection holds a turn")
	}
}

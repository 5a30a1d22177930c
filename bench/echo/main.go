// Command echo is the floor that the gateway is measured against: the same web
// framework behind the same TLS and client certificates, which answers each path
// with the bytes of a file, and the same header fields, after reading the
// request's body.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:7474", "listen on `HOST:PORT`")
	cert := flag.String("cert", "", "certificate `FILE` (PEM)")
	key := flag.String("key", "", "private key `FILE` (PEM)")
	answers := make(map[string][]byte)
	flag.Func("answer", "`PATH=FILE`: answer requests whose path begins with PATH with the bytes of FILE; may be repeated", func(s string) error {
		path, file, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("not of the form PATH=FILE")
		}
		body, err := os.ReadFile(file)
		answers[path] = body
		return err
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *cert, *key, answers); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, cert, key string, answers map[string][]byte) error {
	if len(answers) == 0 {
		return errors.New("no -answer")
	}
	s, err := newServer(addr, cert, key, answers)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { s.Close() })
	if err := s.ListenAndServeTLS("", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

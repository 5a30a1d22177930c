// Command echo is the floor that the gateway is measured against: the same web
// framework behind the same TLS and client certificates, answering a fixed body
// to every request, after reading the request's.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"

	"github.com/labstack/echo/v4"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:7474", "address to listen on")
	cert := flag.String("cert", "", "server certificate (PEM)")
	key := flag.String("key", "", "server private key (PEM)")
	ca := flag.String("ca", "", "CA of client certificates (PEM)")
	body := flag.String("body", "", "file with the answer")
	flag.Parse()
	if err := run(*addr, *cert, *key, *ca, *body); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func run(addr, cert, key, ca, body string) error {
	answer, err := os.ReadFile(body)
	if err != nil {
		return err
	}
	if !json.Valid(answer) {
		return errors.New("the answer is not JSON")
	}
	roots, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(roots) {
		return errors.New("no certificate in -ca")
	}
	e := echo.New()
	e.Any("/*", func(c echo.Context) error {
		if _, err := io.ReadAll(io.LimitReader(c.Request().Body, 1_000_000)); err != nil {
			return err
		}
		return c.Blob(http.StatusOK, "application/json", answer)
	})
	s := http.Server{Addr: addr, Handler: e, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
		SessionTicketsDisabled: true, NextProtos: []string{"h2", "http/1.1"},
	}}
	return s.ListenAndServeTLS(cert, key)
}

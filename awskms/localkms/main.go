// Command localkms serves github.com/nsmithuk/local-kms on a loopback address, for
// tests: a fake of AWS KMS that enforces the states of keys and imports material.
// It is a module of its own, so that the product depends on nothing of it.
//
// It prints its URL and ends with its standard input.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/nsmithuk/local-kms/src"
	"github.com/nsmithuk/local-kms/src/config"
	"github.com/sirupsen/logrus"
)

func main() {
	address := flag.String("addr", "127.0.0.1:0", "listen on `HOST:PORT`")
	flag.StringVar(&config.AWSRegion, "region", "eu-west-1", "region of the keys")
	flag.Parse()
	if err := serve(*address); err != nil {
		log.Fatal("localkms: ", err)
	}
}

func serve(address string) error {
	dir, err := os.MkdirTemp("", "localkms-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	config.AWSAccountId, config.DatabasePath = "123456789012", dir
	logrus.SetOutput(io.Discard)
	handle()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Printf("http://%s\n", ln.Addr())
	go http.Serve(ln, http.DefaultServeMux)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// handle has local-kms register its handler. Its own Run would then listen on all
// interfaces: a port that is none lets that fail, and the exit that it wants to make
// of it waits instead, as it would close the database.
func handle() {
	logrus.StandardLogger().ExitFunc = func(int) { select {} }
	go src.Run("-1", "")
	root, _ := http.NewRequest(http.MethodPost, "/", nil)
	for {
		if _, pattern := http.DefaultServeMux.Handler(root); pattern != "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

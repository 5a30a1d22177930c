package client_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/keygate/keygate/client"
	"github.com/keygate/keygate/kms"
)

// A storage server gets a data key for an object, keeps the ciphertext beside
// the object, and has it decrypted to read the object again.
func Example() {
	key, err := client.ParseAPIKey(os.Getenv("KEYGATE_API_KEY"))
	if err != nil {
		log.Fatal(err)
	}
	ca, err := os.ReadFile("ca.crt")
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	c, err := client.New(client.Config{
		Endpoints:      []string{"kms-1.example.net", "kms-2.example.net"},
		GetCertificate: key.Certificate,
		RootCAs:        roots,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx, object := context.Background(), []byte("bucket/object")
	dek, ciphertext, err := c.GenerateKey(ctx, "app-1", object)
	if errors.Is(err, kms.ErrKeyNotFound) {
		log.Fatal("create the key first: keygate key create app-1")
	}
	if err != nil {
		log.Fatal(err)
	}
	// Encrypt the object with dek, then forget it.
	clear(dek)

	dek, err = c.Decrypt(ctx, "app-1", ciphertext, object)
	if err != nil {
		log.Fatal(err)
	}
	defer clear(dek)
	fmt.Println(len(dek))
}

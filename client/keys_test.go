package client_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/kms"
)

// What a gateway answers is the error that it had inside.
func TestErrorsKeepTheirMeaning(t *testing.T) {
	for _, want := range []error{
		kms.ErrKeyNotFound, kms.ErrKeyExists, kms.ErrPendingDeletion, kms.ErrCiphertext, kms.ErrNoMAC,
		kms.ErrCorrupt, kms.ErrUnsupported, kms.ErrDenied, kms.ErrUnavailable, api.ErrNotAllowed,
	} {
		e := api.ErrorOf(want)
		s := newServer(t, answer(e.Status, string(e.AppendBody(nil))))
		err := newClient(t, nil, s).CreateKey(t.Context(), "k")
		if !errors.Is(err, want) {
			t.Errorf("the answer to %v is read as %v", want, err)
		}
		for _, other := range []error{kms.ErrKeyNotFound, kms.ErrKeyExists} {
			if other != want && errors.Is(err, other) {
				t.Errorf("the answer to %v is read as %v too", want, other)
			}
		}
	}
}

// A list that is taken for whole and is not loses keys.
func TestPartOfAListIsAnError(t *testing.T) {
	s := newServer(t, answer(200, `{"names":["a","b"],"continue_at":"c"}`))
	if names, err := newClient(t, nil, s).ListKeys(t.Context(), ""); err == nil || names != nil {
		t.Errorf("names %v, error %v", names, err)
	}
}

func TestAnswerThatIsNotJSONIsNotQuoted(t *testing.T) {
	s := newServer(t, answer(200, `{"plaintext":"c2VjcmV0", nonsense`))
	_, _, err := newClient(t, nil, s).GenerateKey(t.Context(), "k", nil)
	if err == nil || strings.Contains(err.Error(), "c2VjcmV0") || strings.Contains(err.Error(), "nonsense") {
		t.Errorf("error %v", err)
	}
}

// The gateway is to see the name that the caller gave, and refuse it.
func TestNamesAreEscaped(t *testing.T) {
	got := make(chan string, 1)
	s := newServer(t, func(_ http.ResponseWriter, r *http.Request) { got <- r.URL.Path })
	c := newClient(t, nil, s)
	for _, name := range []string{"k", "a/b", "../../version", "a?b#c", "a b", "100%", "ключ", ""} {
		if err := c.CreateKey(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if path := <-got; path != "/v1/key/create/"+name {
			t.Errorf("name %q is sent as %q", name, path)
		}
	}
}

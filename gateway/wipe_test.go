package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/audit"
	"github.com/keygate/keygate/policy"
)

// A keeper keeps what the server writes where the server wrote it.
type keeper struct {
	*httptest.ResponseRecorder
	written [][]byte
}

func (k *keeper) Write(p []byte) (int, error) {
	k.written = append(k.written, p)
	return k.ResponseRecorder.Write(p)
}

// stays returns what was not overwritten of what was written.
func (k *keeper) stays() []byte {
	return bytes.Trim(slices.Concat(k.written...), "\x00")
}

func TestSecretsAreWipedWhenTheyAreAnswered(t *testing.T) {
	log, err := audit.Open(audit.Config{File: filepath.Join(t.TempDir(), "audit.log")})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s := &Server{cfg: Config{Audit: log, ErrorLog: NewErrorLog(io.Discard, slog.LevelInfo), Now: time.Now}, ids: newRequestIDs(), routes: routes(), callers: newCallers(LimitsConfig{})}
	s.metrics = newMetrics(s)
	s.state.Store(&state{settings: map[policy.Action]setting{policy.Encrypt: {open: true, timeout: time.Minute}}})
	const text = "a secret of the body"
	for name, reply := range map[string]secret{
		"data key":  &api.GenerateKeyResponse{Plaintext: []byte(text)},
		"plaintext": &api.DecryptResponse{Plaintext: []byte(text)},
		"HMAC":      &api.HMACResponse{HMAC: []byte(text)},
	} {
		for _, fails := range []bool{false, true} {
			var body []byte
			rt := &route{action: policy.Encrypt, method: http.MethodPut, maxBody: 1000, public: true, run: func(_ *Server, r *request) (any, error) {
				err := r.read()
				if body = r.body; string(body) != text {
					t.Errorf("%s: body %q, %v", name, body, err)
				}
				if fails {
					return reply, api.ErrBody
				}
				return reply, nil
			}}
			if fails {
				reply = &api.GenerateKeyResponse{Plaintext: []byte(text)}
			}
			w := &keeper{ResponseRecorder: httptest.NewRecorder()}
			s.serve(w, httptest.NewRequest(http.MethodPut, "/v1/key/encrypt/k", strings.NewReader(text)), rt, "k")
			told := strings.Contains(w.Body.String(), base64.StdEncoding.EncodeToString([]byte(text)))
			if told == fails {
				t.Errorf("%s: answered %s", name, w.Body)
			}
			if b := w.stays(); !fails && len(b) > 0 {
				t.Errorf("%s: of the encoded answer stays %q", name, b)
			}
			if !bytes.Equal(body, make([]byte, len(text))) {
				t.Errorf("%s: the body stays: %q", name, body)
			}
			if b := reply.AppendJSON(nil); !bytes.Contains(b, []byte(base64.StdEncoding.EncodeToString(make([]byte, len(text))))) {
				t.Errorf("%s: it stays: %s", name, b)
			}
		}
	}
}

func TestEncodedSecretsAreWiped(t *testing.T) {
	reply := &api.GenerateKeyResponse{Plaintext: []byte("a secret")}
	if _, err := encode(nil, reply, nil); err != nil || !bytes.Equal(reply.Plaintext, make([]byte, 8)) {
		t.Errorf("it stays, or error %v", err)
	}
}

func TestListsOfSecretsAreWiped(t *testing.T) {
	small, large := []byte("a secret"), bytes.Repeat([]byte("a large secret"), listBuffer/10)
	for name, list := range map[string]openedKeys{
		"one buffer":                {{Plaintext: small}, {Plaintext: small}},
		"more than a buffer's room": {{Plaintext: small}, {Plaintext: large}, {Plaintext: small}},
		"many buffers":              slices.Repeat(openedKeys{{Plaintext: small}}, 10_000),
	} {
		w := &keeper{ResponseRecorder: httptest.NewRecorder()}
		list.stream(w, nil)
		var items []api.BatchDecryptItem
		if err := json.Unmarshal(w.Body.Bytes(), &items); err != nil || len(items) != len(list) || !bytes.Equal(items[1].Plaintext, list[1].Plaintext) {
			t.Errorf("%s: %d items are answered: %v", name, len(items), err)
		}
		if b := w.stays(); len(b) > 0 {
			t.Errorf("%s: %d bytes stay of what was written", name, len(b))
		}
		list.Wipe()
		for i, one := range list {
			if len(bytes.Trim(one.Plaintext, "\x00")) > 0 {
				t.Fatalf("%s: item %d stays", name, i)
			}
		}
		copy(small, "a secret")
		copy(large, bytes.Repeat([]byte("a large secret"), listBuffer/10))
	}
}

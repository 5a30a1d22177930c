package gateway

import (
	"bytes"
	"encoding/base64"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
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
	written []byte
}

func (k *keeper) Write(p []byte) (int, error) {
	k.written = p
	return k.ResponseRecorder.Write(p)
}

func TestSecretsAreWipedWhenTheyAreAnswered(t *testing.T) {
	log, err := audit.Open(audit.Config{File: filepath.Join(t.TempDir(), "audit.log")})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s := &Server{cfg: Config{Audit: log, ErrorLog: NewErrorLog(io.Discard, slog.LevelInfo), Now: time.Now}}
	s.metrics = newMetrics(s)
	s.state.Store(&state{settings: map[policy.Action]setting{policy.Encrypt: {open: true, timeout: time.Minute}}})
	const secret = "a secret of the body"
	for name, reply := range map[string]interface {
		AppendJSON([]byte) []byte
		Wipe()
	}{
		"data key":  &api.GenerateKeyResponse{Plaintext: []byte(secret)},
		"plaintext": &api.DecryptResponse{Plaintext: []byte(secret)},
		"HMAC":      &api.HMACResponse{HMAC: []byte(secret)},
	} {
		for _, fails := range []bool{false, true} {
			var body []byte
			rt := &route{action: policy.Encrypt, method: http.MethodPut, maxBody: 1000, public: true, run: func(_ *Server, r *request) (any, error) {
				err := r.read()
				if body = r.body; string(body) != secret {
					t.Errorf("%s: body %q, %v", name, body, err)
				}
				if fails {
					return reply, api.ErrBody
				}
				return reply, nil
			}}
			if fails {
				reply = &api.GenerateKeyResponse{Plaintext: []byte(secret)}
			}
			w := &keeper{ResponseRecorder: httptest.NewRecorder()}
			s.serve(w, httptest.NewRequest(http.MethodPut, "/v1/key/encrypt/k", strings.NewReader(secret)), rt, "k")
			told := strings.Contains(w.Body.String(), base64.StdEncoding.EncodeToString([]byte(secret)))
			if told == fails {
				t.Errorf("%s: answered %s", name, w.Body)
			}
			if !fails && !bytes.Equal(w.written, make([]byte, len(w.written))) {
				t.Errorf("%s: the encoded answer stays: %q", name, w.written)
			}
			if !bytes.Equal(body, make([]byte, len(secret))) {
				t.Errorf("%s: the body stays: %q", name, body)
			}
			if b := reply.AppendJSON(nil); !bytes.Contains(b, []byte(base64.StdEncoding.EncodeToString(make([]byte, len(secret))))) {
				t.Errorf("%s: it stays: %s", name, b)
			}
		}
	}
}

func TestEncodedSecretsAreWiped(t *testing.T) {
	reply := &api.GenerateKeyResponse{Plaintext: []byte("a secret")}
	if _, err := encode(reply, nil); err != nil || !bytes.Equal(reply.Plaintext, make([]byte, 8)) {
		t.Errorf("it stays, or error %v", err)
	}
}

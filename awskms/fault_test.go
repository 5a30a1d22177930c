package awskms_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awskmsapi "github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/keygate/keygate/awsapi"
	"github.com/keygate/keygate/awsapi/awstest"
	"github.com/keygate/keygate/awskms"
	"github.com/keygate/keygate/kms"
)

// behind returns a root whose KMS is behind the proxy, and a key of it.
func behind(t *testing.T, p *awstest.Proxy, change func(*awskms.Config)) (r *awskms.Root, handle, ciphertext []byte) {
	t.Helper()
	cfg := atLocalKMS(t, p)
	if change != nil {
		change(&cfg)
	}
	r = open(t, cfg)
	handle = newKey(t, r, kms.Encryption)
	return r, handle, encrypt(t, r, handle)
}

func TestFaultsThatPassAreTriedAgain(t *testing.T) {
	p := localKMS(t)
	r, handle, ciphertext := behind(t, p, nil)
	half := func(w http.ResponseWriter, q awstest.Request) bool {
		if q.Count > 1 {
			return false
		}
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, `{"Plaintext":`)
		return true
	}
	for name, c := range map[string]struct {
		fault awstest.Fault
		calls int
	}{
		"throttled, which is a 400": {awstest.Fails("Decrypt", 3, 400, "ThrottlingException"), 4},
		"internal error":            {awstest.Fails("Decrypt", 2, 500, "KMSInternalException"), 3},
		"timeout within KMS":        {awstest.Fails("Decrypt", 2, 503, "DependencyTimeoutException"), 3},
		"key unavailable":           {awstest.Fails("Decrypt", 1, 500, "KeyUnavailableException"), 2},
		"connection cut":            {awstest.Cuts(2), 3},
		"answer cut":                {half, 2},
		"a proxy's 502":             {awstest.Fails("Decrypt", 1, 502, ""), 2},
	} {
		p.Break(c.fault)
		plaintext, err := r.Decrypt(t.Context(), handle, ciphertext, []byte("data"))
		if err != nil || string(plaintext) != "plaintext" {
			t.Errorf("%s: %q, %v", name, plaintext, err)
		}
		if n := p.Counts()["Decrypt"]; n != c.calls {
			t.Errorf("%s: %d calls, want %d", name, n, c.calls)
		}
	}
}

// What KMS answers is told apart, and nothing is taken for the absence of a key.
func TestAnswersOfKMS(t *testing.T) {
	p := localKMS(t)
	r, handle, ciphertext := behind(t, p, func(c *awskms.Config) { c.Timeout = time.Second })
	for code, want := range map[string]error{
		"InvalidCiphertextException":  kms.ErrCiphertext,
		"IncorrectKeyException":       kms.ErrCiphertext,
		"AccessDeniedException":       kms.ErrDenied,
		"UnrecognizedClientException": kms.ErrDenied,
		"ExpiredTokenException":       kms.ErrDenied,
		"InvalidSignatureException":   kms.ErrDenied,
		"DisabledException":           kms.ErrDenied,
		"KMSInvalidStateException":    kms.ErrUnavailable,
		"NotFoundException":           kms.ErrUnavailable,
		"InvalidKeyUsageException":    kms.ErrUnavailable,
		"ValidationException":         kms.ErrUnavailable,
		"SomethingNew":                kms.ErrUnavailable,
	} {
		p.Break(awstest.Fails("Decrypt", 9, 400, code))
		_, err := r.Decrypt(t.Context(), handle, ciphertext, []byte("data"))
		is(t, code, err, want)
		if n := p.Counts()["Decrypt"]; n != 1 {
			t.Errorf("%s: %d calls", code, n)
		}
		if !strings.Contains(err.Error(), "awskms: Decrypt: "+code) {
			t.Errorf("the error is %v", err)
		}
	}
	p.Break(func(w http.ResponseWriter, _ awstest.Request) bool {
		awstest.Answer(w, 400, "KMSInvalidStateException", "arn:aws:kms:eu-west-1:1:key/2 is pending deletion.")
		return true
	})
	_, err := r.Decrypt(t.Context(), handle, ciphertext, []byte("data"))
	is(t, "pending deletion", err, kms.ErrDenied)
}

func TestAKMSThatStaysAwayIsUnavailableWithinTheDeadline(t *testing.T) {
	p := localKMS(t)
	r, handle, ciphertext := behind(t, p, func(c *awskms.Config) { c.Timeout = 600 * time.Millisecond })
	gone := make(chan struct{})
	defer close(gone)
	hang := func(_ http.ResponseWriter, q awstest.Request) bool { <-gone; return true }
	for name, fault := range map[string]awstest.Fault{
		"throttled": awstest.Fails("", 1e9, 400, "ThrottlingException"),
		"failing":   awstest.Fails("", 1e9, 500, "KMSInternalException"),
		"cut":       awstest.Cuts(1e9),
		"hanging":   hang,
	} {
		p.Break(fault)
		calls := map[string]func(context.Context) error{
			"encrypt": func(ctx context.Context) error {
				_, err := r.Encrypt(ctx, handle, []byte("plaintext"), nil)
				return err
			},
			"decrypt": func(ctx context.Context) error {
				_, err := r.Decrypt(ctx, handle, ciphertext, []byte("data"))
				return err
			},
			"new key": func(ctx context.Context) error {
				_, err := r.NewKey(ctx, kms.KeyID{}, kms.Authentication)
				return err
			},
			"random": func(ctx context.Context) error { return r.Random(ctx, make([]byte, 32)) },
			"status": r.Status,
		}
		for call, f := range calls {
			start := time.Now()
			is(t, name+", "+call, f(t.Context()), kms.ErrUnavailable)
			if took := time.Since(start); took > patience {
				t.Errorf("%s, %s: took %v", name, call, took)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			start = time.Now()
			err := f(ctx)
			cancel()
			is(t, name+", "+call, err, kms.ErrUnavailable)
			if took := time.Since(start); took > 500*time.Millisecond {
				t.Errorf("%s, %s with a deadline of 50ms: took %v", name, call, took)
			}
		}
	}
	p.Break(nil) // it heals by itself
	heals := func(f func() error) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; {
			err := f()
			if err == nil {
				return
			}
			if time.Now().After(end) { // a busy machine may need more than one patience
				t.Fatal(err)
			}
		}
	}
	heals(func() error { return r.Status(t.Context()) })
	heals(func() error {
		_, err := r.Decrypt(t.Context(), handle, ciphertext, []byte("data"))
		return err
	})
}

// client returns a client of the KMS behind p, for what an administrator does.
func client(t *testing.T, endpoint string) *awskmsapi.Client {
	t.Helper()
	cfg, err := awsapi.Config{Region: awstest.Region, Endpoint: endpoint, Credentials: awstest.Credentials(t, endpoint)}.Load(t.Context())
	ok(t, err)
	return awskmsapi.NewFromConfig(cfg)
}

func TestStatesOfTheKMSKey(t *testing.T) {
	p := localKMS(t)
	cfg := atLocalKMS(t, p)
	cfg.Key = "alias/keygate-states" // a key of its own
	makeKey(t, cfg)
	r := open(t, cfg)
	handle := newKey(t, r, kms.Encryption)
	ciphertext := encrypt(t, r, handle)
	api, ctx := client(t, p.URL), t.Context()
	describe, err := api.DescribeKey(ctx, &awskmsapi.DescribeKeyInput{KeyId: aws.String("alias/keygate-states")})
	ok(t, err)
	id := describe.KeyMetadata.KeyId
	refused := func(state string) {
		t.Helper()
		_, err := r.Encrypt(ctx, handle, []byte("x"), nil)
		is(t, state+": encrypt", err, kms.ErrDenied)
		_, err = r.Decrypt(ctx, handle, ciphertext, []byte("data"))
		is(t, state+": decrypt", err, kms.ErrDenied)
		_, err = r.NewKey(ctx, kms.KeyID{}, kms.Encryption)
		is(t, state+": new key", err, kms.ErrDenied)
		is(t, state+": status", r.Status(ctx), kms.ErrDenied)
	}
	ok(t, r.Status(ctx))
	_, err = api.DisableKey(ctx, &awskmsapi.DisableKeyInput{KeyId: id})
	ok(t, err)
	refused("disabled")
	_, err = api.EnableKey(ctx, &awskmsapi.EnableKeyInput{KeyId: id})
	ok(t, err)
	ok(t, r.Status(ctx))
	_, err = api.ScheduleKeyDeletion(ctx, &awskmsapi.ScheduleKeyDeletionInput{KeyId: id, PendingWindowInDays: aws.Int32(7)})
	ok(t, err)
	refused("pending deletion")
	_, err = api.CancelKeyDeletion(ctx, &awskmsapi.CancelKeyDeletionInput{KeyId: id})
	ok(t, err)
	_, err = api.EnableKey(ctx, &awskmsapi.EnableKeyInput{KeyId: id})
	ok(t, err)
	plaintext, err := r.Decrypt(ctx, handle, ciphertext, []byte("data"))
	if err != nil || string(plaintext) != "plaintext" {
		t.Errorf("enabled again: %q, %v", plaintext, err)
	}
}

func TestPerKeyDestroySchedulesTheKMSKeyForDeletion(t *testing.T) {
	p := localKMS(t)
	r, handle, ciphertext := behind(t, p, func(c *awskms.Config) { c.PerKey = true })
	p.Counts()
	ok(t, r.DestroyKey(t.Context(), handle))
	if n := p.Counts()["ScheduleKeyDeletion"]; n != 1 {
		t.Errorf("%d calls", n)
	}
	_, err := r.Decrypt(t.Context(), handle, ciphertext, []byte("data"))
	is(t, "decrypt", err, kms.ErrDenied)
	ok(t, r.DestroyKey(t.Context(), handle))
}

// A KMS key that no handle names would cost a dollar a month for ever.
func TestPerKeyLeavesNoKMSKeyBehind(t *testing.T) {
	p := localKMS(t)
	r, _, _ := behind(t, p, func(c *awskms.Config) { c.PerKey = true })
	for operation, code := range map[string]string{
		"CreateAlias":            "AlreadyExistsException",
		"Encrypt":                "AccessDeniedException",
		"Decrypt":                "AccessDeniedException",
		"GetParametersForImport": "AccessDeniedException",
		"ImportKeyMaterial":      "InvalidImportTokenException",
	} {
		var window []byte
		fails := awstest.Fails(operation, 1e9, 400, code)
		p.Break(func(w http.ResponseWriter, q awstest.Request) bool {
			if q.Operation == "ScheduleKeyDeletion" {
				window = q.Body
			}
			return fails(w, q)
		})
		_, err := r.ImportKey(t.Context(), kms.KeyID{9}, kms.Encryption, bytes.Repeat([]byte{7}, kms.KeySize))
		if err == nil {
			t.Fatalf("%s fails, and the key is made", operation)
		}
		if n := p.Counts(); n["CreateKey"] != 1 || n["ScheduleKeyDeletion"] != 1 || !bytes.Contains(window, []byte(`"PendingWindowInDays":7`)) {
			t.Errorf("%s fails: calls %v, deletion %s", operation, n, window)
		}
	}
	p.Break(awstest.Fails("CreateKey", 1, 500, "KMSInternalException"))
	_, err := r.NewKey(t.Context(), kms.KeyID{}, kms.Encryption)
	is(t, "a key that may have been made", err, kms.ErrUnavailable)
	if n := p.Counts()["CreateKey"]; n != 1 {
		t.Errorf("%d keys may have been made", n)
	}
}

// The encryption context is in CloudTrail, and errors are in logs.
func TestNothingSecretIsInContextsAndErrors(t *testing.T) {
	p := localKMS(t)
	var log bytes.Buffer
	cfg := atLocalKMS(t, p)
	r, err := awskms.Open(t.Context(), cfg, slog.New(slog.NewTextHandler(&log, nil)))
	ok(t, err)
	t.Cleanup(func() { r.Close() })
	plaintext, key := []byte("the plaintext is secret, too"), bytes.Repeat([]byte("secret k"), 4)
	var contexts []string
	p.Break(func(_ http.ResponseWriter, q awstest.Request) bool {
		var body struct{ EncryptionContext map[string]string }
		if json.Unmarshal(q.Body, &body) == nil {
			contexts = append(contexts, fmt.Sprint(body.EncryptionContext))
		}
		return false
	})
	handle := newKey(t, r, kms.Encryption)
	ciphertext, err := r.Encrypt(t.Context(), handle, plaintext, []byte("data"))
	ok(t, err)
	_, err = r.Decrypt(t.Context(), handle, ciphertext, []byte("data"))
	ok(t, err)
	mac, err := r.ImportKey(t.Context(), kms.KeyID{}, kms.Authentication, key)
	ok(t, err)
	_, err = r.MAC(t.Context(), mac, plaintext)
	ok(t, err)
	all := strings.Join(contexts, "\n")
	p.Break(func(w http.ResponseWriter, q awstest.Request) bool {
		awstest.Answer(w, 400, "AccessDeniedException", "no")
		return true
	})
	_, e1 := r.Encrypt(t.Context(), handle, plaintext, nil)
	_, e2 := r.ImportKey(t.Context(), kms.KeyID{}, kms.Authentication, key)
	all += errors.Join(e1, e2).Error() + log.String() + fmt.Sprintf("%v %+v %#v", r, r, r)
	for _, secret := range []string{string(plaintext), string(key), base64.StdEncoding.EncodeToString(plaintext), base64.StdEncoding.EncodeToString(key), fmt.Sprintf("%x", key)} {
		if strings.Contains(all, secret) {
			t.Errorf("%q is told in:\n%s", secret, all)
		}
	}
	if !strings.Contains(all, "keygate-data:"+base64.StdEncoding.EncodeToString([]byte("data"))) || len(contexts) < 6 {
		t.Errorf("the contexts are not those that were expected:\n%s", all)
	}
}

// MAC keys are in memory for a bounded time, and no more than a bounded number.
func TestMACKeysAreAskedForOnceInTheirLife(t *testing.T) {
	p := localKMS(t)
	r, _, _ := behind(t, p, func(c *awskms.Config) { c.MACLifetime, c.MACKeys = 300*time.Millisecond, 2 })
	handle := newKey(t, r, kms.Authentication)
	sum := func(handle []byte) [kms.MACSize]byte {
		t.Helper()
		sum, err := r.MAC(t.Context(), handle, []byte("message"))
		ok(t, err)
		return sum
	}
	first := sum(handle)
	p.Counts()
	for range 100 {
		if sum(handle) != first {
			t.Fatal("another MAC")
		}
		sum(nil)
	}
	if n := p.Counts(); n["Decrypt"] > 1 || n["GenerateMac"] > 1 {
		t.Errorf("100 MACs of two keys: %v", n)
	}
	time.Sleep(400 * time.Millisecond)
	if sum(handle) != first {
		t.Error("another MAC after the key's life in memory")
	}
	if n := p.Counts(); n["Decrypt"] != 1 {
		t.Errorf("after the key's life in memory: %v", n)
	}
	for range 3 { // three keys, room for two
		sum(newKey(t, r, kms.Authentication))
	}
	if sum(handle) != first {
		t.Error("another MAC after it had to make room")
	}
}

// Two processes have one record key, whatever each has in memory.
func TestTheRecordKeyIsThatOfAllNodes(t *testing.T) {
	endpoint := awstest.Endpoint(t, awstest.KMS)
	cfg := at(t, endpoint)
	one, two := open(t, cfg), open(t, cfg)
	a, err := one.MAC(t.Context(), nil, []byte("record"))
	ok(t, err)
	b, err := two.MAC(t.Context(), nil, []byte("record"))
	ok(t, err)
	if a != b {
		t.Error("two nodes have two record keys")
	}
	handle := newKey(t, one, kms.Encryption)
	ciphertext := encrypt(t, one, handle)
	if p, err := two.Decrypt(t.Context(), handle, ciphertext, []byte("data")); err != nil || string(p) != "plaintext" {
		t.Errorf("%q, %v", p, err)
	}
}

func TestInitChangesNothingThatIsThere(t *testing.T) {
	endpoint := awstest.Endpoint(t, awstest.KMS)
	cfg := at(t, endpoint) // made at the first time
	made, err := awskms.Init(t.Context(), cfg, quiet())
	if err != nil || made.Key || made.RecordKey {
		t.Errorf("%+v, %v", made, err)
	}
	cfg.Key, cfg.RecordKey = cfg.RecordKey, cfg.Key
	_, err = awskms.Init(t.Context(), cfg, quiet())
	if err == nil || !strings.Contains(err.Error(), "is a key of HMAC_256") {
		t.Errorf("keys of the wrong kind: %v", err)
	}
}

func TestAClosedRootIsUnavailable(t *testing.T) {
	p := localKMS(t)
	r, handle, ciphertext := behind(t, p, nil)
	mac := newKey(t, r, kms.Authentication)
	ok(t, r.Close())
	ok(t, r.Close())
	_, err := r.Decrypt(t.Context(), handle, ciphertext, []byte("data"))
	is(t, "decrypt", err, kms.ErrUnavailable)
	_, err = r.MAC(t.Context(), mac, nil)
	is(t, "mac", err, kms.ErrUnavailable)
	_, err = r.MAC(t.Context(), nil, nil)
	is(t, "mac", err, kms.ErrUnavailable)
	is(t, "status", r.Status(t.Context()), kms.ErrUnavailable)
}

// KMS may not know a key at once that it has made (eventual consistency).
func TestInitAndNewKeyWaitForWhatTheyMade(t *testing.T) {
	p := localKMS(t)
	cfg := atLocalKMS(t, p)
	cfg.PerKey = true
	r := open(t, cfg)
	p.Break(awstest.Fails("Encrypt", 3, 400, "NotFoundException"))
	handle := newKey(t, r, kms.Encryption)
	p.Break(nil)
	encrypt(t, r, handle)

	endpoint := awstest.Endpoint(t, awstest.KMS)
	at(t, endpoint)
	other := awstest.NewProxy(t, endpoint)
	cfg = awskms.Config{Endpoint: other.URL, Region: awstest.Region, CredentialsFile: awstest.Credentials(t, endpoint), Key: "alias/keygate-test", RecordKey: "alias/keygate-test-record"}
	other.Break(awstest.Fails("Encrypt", 2, 400, "NotFoundException"))
	_, err := awskms.Init(t.Context(), cfg, quiet())
	ok(t, err)
	if n := other.Counts()["Encrypt"]; n != 3 {
		t.Errorf("%d calls", n)
	}
}

// Readiness is asked for by many, with deadlines: one asks KMS for all, and none
// waits for longer than it wants to.
func TestStatusIsAskedOnceForAllAndKeepsDeadlines(t *testing.T) {
	p := localKMS(t)
	r, _, _ := behind(t, p, nil)
	p.Counts()
	all := func(timeout time.Duration) (errs [20]error) {
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				errs[i] = r.Status(ctx)
			})
		}
		wg.Wait()
		return errs
	}
	for _, err := range all(patience) {
		ok(t, err)
	}
	for _, err := range all(patience) { // 5 s are not over
		ok(t, err)
	}
	if n := p.Counts(); n["Encrypt"] != 1 || n["Decrypt"] != 1 || n["GenerateMac"] != 1 {
		t.Errorf("40 at once: %v", n)
	}
	gone := make(chan struct{})
	p.Break(func(http.ResponseWriter, awstest.Request) bool { <-gone; return true })
	defer close(gone)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	is(t, "random", r.Random(ctx, make([]byte, 8)), kms.ErrUnavailable) // a failure: the good answer is forgotten
	start := time.Now()
	for _, err := range all(100 * time.Millisecond) {
		is(t, "status", err, kms.ErrUnavailable)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("they took %v", took)
	}
}

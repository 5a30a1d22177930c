// Package awskms is the root of trust over AWS KMS.
//
// By default one KMS key encrypts for all named keys. What tells them apart is the
// encryption context, which KMS authenticates: the id of the key, a random number
// of its handle, and the additional data. With Config.PerKey each version of a
// named key has a KMS key of its own. Either way the keys that encrypt never leave
// KMS.
//
// MAC keys do. GenerateMac takes messages of up to 4,096 bytes and costs a call
// each, and a MAC has to be computed for each key record that is read. So a MAC
// key is 32 bytes that the KMS key wraps, and the record key is derived from an
// HMAC key of KMS; both are in the memory of this process for Config.MACLifetime.
package awskms

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"golang.org/x/sync/singleflight"

	"github.com/keygate/keygate/awsapi"
	keygate "github.com/keygate/keygate/kms"
)

// A Root is a kms.Root in AWS KMS. Make one with Open.
type Root struct {
	cfg    Config
	log    *slog.Logger
	api    *kms.Client
	caller *awsapi.Caller
	region string
	macs   macKeys
	health health

	mu     sync.Mutex
	closed bool
}

var _ keygate.Root = (*Root)(nil)

// Format writes which key r uses, whatever the verb, and not what it holds.
func (r *Root) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "awskms.Root(%q)", r.cfg.Key) }

// Open returns the root that cfg names. It reads the configuration of AWS in the
// environment and in files, and connects to nothing: a KMS that cannot be reached,
// and keys that are not there, show in Status. A nil logger means slog.Default.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Root, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.Default()
	}
	account, err := cfg.access().Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("awskms: open: %w", err)
	}
	return &Root{
		cfg: cfg, log: log, api: kms.NewFromConfig(account), caller: awsapi.NewCaller(cfg.Timeout), region: account.Region,
		macs: macKeys{life: cfg.MACLifetime, limit: cfg.MACKeys},
	}, nil
}

// Close wipes the keys in memory. Calls after it return kms.ErrUnavailable.
func (r *Root) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.macs.close()
	return nil
}

// begin is what each operation does first.
func (r *Root) begin(ctx context.Context, operation string) error {
	r.mu.Lock()
	closed := r.closed
	r.mu.Unlock()
	if closed {
		return fmt.Errorf("awskms: %s: %w: the root is closed", operation, keygate.ErrUnavailable)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("awskms: %s: %w: %w", operation, keygate.ErrUnavailable, err)
	}
	return nil
}

// do makes one call of the API, again where that helps.
func (r *Root) do(ctx context.Context, operation string, f func(context.Context) error) error {
	return r.doIf(ctx, operation, awsapi.Transient, f)
}

func (r *Root) doIf(ctx context.Context, operation string, again func(error) bool, f func(context.Context) error) error {
	err := r.caller.Do(ctx, again, f)
	if err == nil {
		return nil
	}
	answer := &Error{Operation: operation, Cause: err}
	if !errors.Is(answer, keygate.ErrCiphertext) {
		r.health.forget()
	}
	return answer
}

// Random fills b from the random source of KMS; see kms.Root.
func (r *Root) Random(ctx context.Context, b []byte) error {
	if len(b) > keygate.MaxRandom {
		return fmt.Errorf("awskms: %d random bytes at once: %w", len(b), keygate.ErrUnsupported)
	}
	if err := r.begin(ctx, "random"); err != nil || len(b) == 0 {
		return err
	}
	return r.do(ctx, "GenerateRandom", func(ctx context.Context) error {
		out, err := r.api.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(int32(len(b)))})
		if err != nil {
			return err
		}
		defer clear(out.Plaintext)
		if len(out.Plaintext) != len(b) {
			return fmt.Errorf("%d bytes, not %d", len(out.Plaintext), len(b))
		}
		copy(b, out.Plaintext)
		return nil
	})
}

// The keys of an encryption context. CloudTrail logs all of it in clear.
const (
	contextUse  = "keygate-use"  // one of the uses below
	contextKey  = "keygate-key"  // the id of the named key and the random number of the handle, in hex
	contextData = "keygate-data" // the additional data, in base64; left out if there is none
)

// The uses: what is encrypted for one opens for no other.
const (
	useData   = "data"    // what Root.Encrypt encrypts
	useEmpty  = "empty"   // the same, of no bytes, which KMS does not encrypt
	useMACKey = "mac-key" // a wrapped MAC key
	useCheck  = "check"   // tries and states
)

func encryptionContext(use, key string, additionalData []byte) map[string]string {
	c := map[string]string{contextUse: use, contextKey: key}
	if len(additionalData) > 0 {
		c[contextData] = base64.StdEncoding.EncodeToString(additionalData)
	}
	return c
}

// encrypt returns what KMS encrypts under key, and the ARN of the key that did.
func (r *Root) encrypt(ctx context.Context, key string, plaintext []byte, ec map[string]string) (ciphertext []byte, arn string, err error) {
	err = r.do(ctx, "Encrypt", func(ctx context.Context) error {
		out, err := r.api.Encrypt(ctx, &kms.EncryptInput{KeyId: &key, Plaintext: plaintext, EncryptionContext: ec})
		if err != nil {
			return err
		}
		ciphertext, arn = out.CiphertextBlob, aws.ToString(out.KeyId)
		if len(ciphertext) == 0 || len(ciphertext) > maxBlob || arn == "" {
			return errors.New("an answer without a ciphertext or key")
		}
		return nil
	})
	return ciphertext, arn, err
}

// decrypt opens a ciphertext of key and of no other. The caller wipes the result.
func (r *Root) decrypt(ctx context.Context, key string, ciphertext []byte, ec map[string]string) (plaintext []byte, err error) {
	err = r.do(ctx, "Decrypt", func(ctx context.Context) error {
		out, err := r.api.Decrypt(ctx, &kms.DecryptInput{KeyId: &key, CiphertextBlob: ciphertext, EncryptionContext: ec})
		if err != nil {
			return err
		}
		plaintext = out.Plaintext
		return nil
	})
	return plaintext, err
}

// try encrypts and decrypts once with key, and returns its ARN.
func (r *Root) try(ctx context.Context, key, owner string) (arn string, err error) {
	want, ec := []byte("keygate key check"), encryptionContext(useCheck, owner, nil)
	ciphertext, arn, err := r.encrypt(ctx, key, want, ec)
	if err != nil {
		return "", err
	}
	got, err := r.decrypt(ctx, arn, ciphertext, ec)
	if err != nil {
		return "", unavailableCiphertext(err)
	}
	if !bytes.Equal(got, want) {
		return "", fmt.Errorf("awskms: %w: %s decrypts to something else", keygate.ErrUnavailable, arn)
	}
	return arn, nil
}

// unavailableCiphertext is for what this process has just encrypted itself: that it
// does not open is no fault of a client's.
func unavailableCiphertext(err error) error {
	if errors.Is(err, keygate.ErrCiphertext) {
		return fmt.Errorf("%w: %v", keygate.ErrUnavailable, err)
	}
	return err
}

// statusLife is how long a good answer of Status stands: readiness is asked for
// each few seconds, by many, and each call of KMS costs money.
const statusLife = 5 * time.Second

// A health remembers the last good status.
type health struct {
	asks singleflight.Group // one asks KMS for many

	mu   sync.Mutex
	good time.Time
}

// forget has the next status ask KMS.
func (h *health) forget() { h.set(time.Time{}) }

func (h *health) set(good time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.good = good
}

func (h *health) fresh() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.good) < statusLife
}

// Status encrypts and decrypts with the KMS key and derives the record key anew,
// in three calls. A good answer stands for 5 s, or until a call fails; a bad one is
// not kept.
func (r *Root) Status(ctx context.Context) error {
	if err := r.begin(ctx, "status"); err != nil || r.health.fresh() {
		return err
	}
	asked := r.health.asks.DoChan("", func() (any, error) {
		_, err := loadSafely(context.WithoutCancel(ctx), r.ask)
		return nil, err
	})
	select {
	case <-ctx.Done():
		return fmt.Errorf("awskms: status: %w: %w", keygate.ErrUnavailable, ctx.Err())
	case answer := <-asked:
		return answer.Err
	}
}

// ask is Status without a memory. It returns no bytes.
func (r *Root) ask(ctx context.Context) ([]byte, error) {
	if _, err := r.try(ctx, r.cfg.Key, "status"); err != nil {
		return nil, err
	}
	key, err := r.deriveRecordKey(ctx)
	if err != nil {
		return nil, err
	}
	clear(key)
	r.health.set(time.Now())
	return nil, nil
}

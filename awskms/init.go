package awskms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// Made says which keys Init has made; the others were there.
type Made struct {
	Key       bool
	RecordKey bool
}

// Init makes the two KMS keys of cfg, where it names them by aliases that do not
// exist, and checks that each can be used as it must. It changes nothing that is
// there.
func Init(ctx context.Context, cfg Config, log *slog.Logger) (made Made, err error) {
	r, err := Open(ctx, cfg, log)
	if err != nil {
		return made, err
	}
	defer r.Close()
	if made.Key, err = r.ensure(ctx, r.cfg.Key, symmetricKey); err != nil {
		return made, err
	}
	if made.RecordKey, err = r.ensure(ctx, r.cfg.RecordKey, recordKey); err != nil {
		return made, err
	}
	return made, r.settled(ctx)
}

// settleTime is how long Init waits for keys that it has made to be known to all of
// KMS: "in most cases a few seconds" (AWS KMS developer guide, eventual consistency).
const (
	settleTime = 20 * time.Second
	settlePoll = 500 * time.Millisecond
)

// settled returns the status, once the keys are known.
func (r *Root) settled(ctx context.Context) error {
	for end := time.Now().Add(settleTime); ; {
		err := r.Status(ctx)
		if !code(err, "NotFoundException") || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(settlePoll):
		}
	}
}

// A rootKey is what one of the two KMS keys has to be.
type rootKey struct {
	spec  types.KeySpec
	usage types.KeyUsageType
	about string
}

var (
	symmetricKey = rootKey{types.KeySpecSymmetricDefault, types.KeyUsageTypeEncryptDecrypt, "keygate: encrypts for all named keys"}
	recordKey    = rootKey{types.KeySpecHmac256, types.KeyUsageTypeGenerateVerifyMac, "keygate: authenticates key records"}
)

// ensure makes the KMS key that has an alias, unless it is there.
func (r *Root) ensure(ctx context.Context, name string, want rootKey) (made bool, err error) {
	err = r.examine(ctx, name, want)
	if !code(err, "NotFoundException") || !strings.HasPrefix(name, "alias/") {
		return false, err
	}
	arn, err := r.createKMSKey(ctx, &kms.CreateKeyInput{KeySpec: want.spec, KeyUsage: want.usage, Description: &want.about})
	if err != nil {
		return false, err
	}
	err = r.createAlias(ctx, name, arn)
	if err == nil {
		return true, nil
	}
	// The alias is another's, or nobody knows.
	r.abandon(ctx, arn)
	if code(err, "AlreadyExistsException") {
		return false, r.examine(ctx, name, want)
	}
	return false, err
}

// examine checks that a KMS key is there and is what it has to be.
func (r *Root) examine(ctx context.Context, name string, want rootKey) error {
	return r.do(ctx, "DescribeKey", func(ctx context.Context) error {
		out, err := r.api.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &name})
		if err != nil {
			return err
		}
		switch m := out.KeyMetadata; {
		case m == nil:
			return errors.New("an answer without a key")
		case m.KeySpec != want.spec || m.KeyUsage != want.usage:
			return fmt.Errorf("%s is a key of %s for %s, not of %s for %s", name, m.KeySpec, m.KeyUsage, want.spec, want.usage)
		case m.KeyState != types.KeyStateEnabled:
			return fmt.Errorf("%s is %s", name, m.KeyState)
		}
		return nil
	})
}

package awskms

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/keygate/keygate/awsapi"
	keygate "github.com/keygate/keygate/kms"
)

// NewKey makes a key; see kms.Root. An encryption key of the KMS key of all is a
// new encryption context, and nothing is stored in KMS.
func (r *Root) NewKey(ctx context.Context, id keygate.KeyID, purpose keygate.Purpose) ([]byte, error) {
	if err := r.begin(ctx, "new key"); err != nil {
		return nil, err
	}
	switch {
	case purpose == keygate.Authentication:
		return r.newMACKey(ctx, id)
	case purpose == keygate.Encryption && r.cfg.PerKey:
		return r.ownKey(ctx, newHandle(ownKind, id), nil)
	case purpose == keygate.Encryption:
		return r.sharedKey(ctx, newHandle(sharedKind, id))
	}
	return nil, fmt.Errorf("awskms: purpose %d: %w", purpose, keygate.ErrUnsupported)
}

// ImportKey brings a key into KMS; see kms.Root. An encryption key becomes a KMS
// key of its own, and without PerKey is ErrUnsupported.
func (r *Root) ImportKey(ctx context.Context, id keygate.KeyID, purpose keygate.Purpose, key []byte) ([]byte, error) {
	if len(key) != keygate.KeySize {
		return nil, fmt.Errorf("awskms: import a key of %d bytes: %w", len(key), keygate.ErrKeySize)
	}
	if err := r.begin(ctx, "import key"); err != nil {
		return nil, err
	}
	switch {
	case purpose == keygate.Authentication:
		return r.wrapMACKey(ctx, newHandle(macKind, id), key)
	case purpose == keygate.Encryption && r.cfg.PerKey:
		return r.ownKey(ctx, newHandle(ownKind, id), key)
	case purpose == keygate.Encryption:
		return nil, fmt.Errorf("awskms: one KMS key encrypts for all named keys: importing needs root.awskms.per_key: %w", keygate.ErrUnsupported)
	}
	return nil, fmt.Errorf("awskms: purpose %d: %w", purpose, keygate.ErrUnsupported)
}

func (r *Root) sharedKey(ctx context.Context, h keyHandle) (_ []byte, err error) {
	if h.arn, err = r.try(ctx, r.cfg.Key, h.owner()); err != nil {
		return nil, err
	}
	return h.marshal(), nil
}

// newMACKey has KMS make and wrap a MAC key, and unwraps it once.
func (r *Root) newMACKey(ctx context.Context, id keygate.KeyID) ([]byte, error) {
	h := newHandle(macKind, id)
	err := r.do(ctx, "GenerateDataKeyWithoutPlaintext", func(ctx context.Context) error {
		out, err := r.api.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{
			KeyId: &r.cfg.Key, NumberOfBytes: aws.Int32(keygate.KeySize), EncryptionContext: encryptionContext(useMACKey, h.owner(), nil),
		})
		if err != nil {
			return err
		}
		h.arn, h.wrapped = aws.ToString(out.KeyId), out.CiphertextBlob
		return checkWrapped(h)
	})
	if err != nil {
		return nil, err
	}
	key, err := r.unwrap(ctx, h)
	if err != nil {
		return nil, unusable(err)
	}
	clear(key)
	return h.marshal(), nil
}

func (r *Root) wrapMACKey(ctx context.Context, h keyHandle, key []byte) (_ []byte, err error) {
	if h.wrapped, h.arn, err = r.encrypt(ctx, r.cfg.Key, key, encryptionContext(useMACKey, h.owner(), nil)); err != nil {
		return nil, err
	}
	if err := checkWrapped(h); err != nil {
		return nil, fmt.Errorf("awskms: import key: %w: %w", keygate.ErrUnavailable, err)
	}
	back, err := r.unwrap(ctx, h)
	if err != nil {
		return nil, unusable(err)
	}
	defer clear(back)
	if !bytes.Equal(back, key) {
		return nil, fmt.Errorf("awskms: import key: %w: it unwraps to another", keygate.ErrUnavailable)
	}
	return h.marshal(), nil
}

// checkWrapped refuses an answer that a handle could not hold.
func checkWrapped(h keyHandle) error {
	if len(h.wrapped) == 0 || len(h.wrapped) > maxWrapped || h.arn == "" || len(h.arn) > maxARN {
		return fmt.Errorf("a wrapped key of %d bytes, under a key whose ARN has %d", len(h.wrapped), len(h.arn))
	}
	return nil
}

// unusable is for a key that was just made: that it does not unwrap is no alarm.
func unusable(err error) error {
	if errors.Is(err, keygate.ErrCorrupt) {
		return fmt.Errorf("%w: a new key cannot be used: %v", keygate.ErrUnavailable, err)
	}
	return err
}

// ownKey makes a KMS key, of imported bytes if there are any, names it, and tries
// it. If anything fails, the KMS key is scheduled for deletion: nothing names it.
func (r *Root) ownKey(ctx context.Context, h keyHandle, imported []byte) (_ []byte, err error) {
	if h.arn, err = r.createKey(ctx, h, imported != nil); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.abandon(ctx, h.arn)
		}
	}()
	if imported != nil {
		if err := r.importMaterial(ctx, h.arn, imported); err != nil {
			return nil, err
		}
	}
	if err := r.createAlias(ctx, r.alias(h), h.arn); err != nil {
		return nil, err
	}
	if err := r.tryNew(ctx, h.arn, h.owner()); err != nil {
		return nil, err
	}
	return h.marshal(), nil
}

// alias is the name by which an operator finds the KMS key of a handle.
func (r *Root) alias(h keyHandle) string {
	return r.cfg.AliasPrefix + h.id.String() + "-" + hex.EncodeToString(h.instance[:8])
}

// createKey makes the KMS key of a handle, without material if it is external.
func (r *Root) createKey(ctx context.Context, h keyHandle, external bool) (string, error) {
	in := &kms.CreateKeyInput{
		Description: aws.String("keygate master key " + h.id.String()),
		Tags:        []types.Tag{{TagKey: aws.String("keygate-key"), TagValue: aws.String(h.id.String())}},
	}
	if external {
		in.Origin = types.OriginTypeExternal
	}
	return r.createKMSKey(ctx, in)
}

// createKMSKey is tried again only if KMS has refused to do it: else there would be
// two.
func (r *Root) createKMSKey(ctx context.Context, in *kms.CreateKeyInput) (arn string, err error) {
	err = r.doIf(ctx, "CreateKey", awsapi.Throttled, func(ctx context.Context) error {
		out, err := r.api.CreateKey(ctx, in)
		if err != nil {
			return err
		}
		if out.KeyMetadata == nil || aws.ToString(out.KeyMetadata.Arn) == "" {
			return errors.New("an answer without an ARN")
		}
		arn = *out.KeyMetadata.Arn
		return nil
	})
	return arn, err
}

func (r *Root) createAlias(ctx context.Context, alias, arn string) error {
	// Not tried again where it may have been done: a name that is taken is a conflict.
	again := func(err error) bool { return awsapi.Throttled(err) || code(err, "NotFoundException") }
	return r.doIf(ctx, "CreateAlias", again, func(ctx context.Context) error {
		_, err := r.api.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &arn})
		return err
	})
}

// newKeyTransient: a key that was just made may not be known everywhere yet (AWS
// KMS developer guide, eventual consistency).
func newKeyTransient(err error) bool {
	return awsapi.Transient(err) || code(err, "NotFoundException")
}

// tryNew is try for a key that was just made, once KMS knows it.
func (r *Root) tryNew(ctx context.Context, arn, owner string) error {
	err := r.doIf(ctx, "Encrypt", newKeyTransient, func(ctx context.Context) error {
		_, err := r.api.Encrypt(ctx, &kms.EncryptInput{KeyId: &arn, Plaintext: []byte{0}, EncryptionContext: encryptionContext(useCheck, owner, nil)})
		return err
	})
	if err == nil {
		_, err = r.try(ctx, arn, owner)
	}
	return err
}

// importMaterial imports a key under a public key of KMS
// (RSAES_OAEP_SHA_256 with RSA-2048, which leaves room for 190 bytes).
func (r *Root) importMaterial(ctx context.Context, arn string, key []byte) error {
	var out *kms.GetParametersForImportOutput
	err := r.doIf(ctx, "GetParametersForImport", newKeyTransient, func(ctx context.Context) (err error) {
		out, err = r.api.GetParametersForImport(ctx, &kms.GetParametersForImportInput{
			KeyId: &arn, WrappingAlgorithm: types.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: types.WrappingKeySpecRsa2048,
		})
		return err
	})
	if err != nil {
		return err
	}
	wrapped, err := wrapForImport(out.PublicKey, key)
	if err != nil {
		return fmt.Errorf("awskms: import key: %w: %w", keygate.ErrUnavailable, err)
	}
	return r.do(ctx, "ImportKeyMaterial", func(ctx context.Context) error {
		_, err := r.api.ImportKeyMaterial(ctx, &kms.ImportKeyMaterialInput{
			KeyId: &arn, ImportToken: out.ImportToken, EncryptedKeyMaterial: wrapped,
			ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire,
		})
		return err
	})
}

func wrapForImport(spki, key []byte) ([]byte, error) {
	public, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, err
	}
	to, ok := public.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the public key is a %T", public)
	}
	return rsa.EncryptOAEP(sha256.New(), rand.Reader, to, key, nil)
}

// abandon schedules a KMS key that nothing names for deletion. It is best effort,
// also after the end of ctx: what stays costs money and harms nobody.
func (r *Root) abandon(ctx context.Context, arn string) {
	if err := r.scheduleDeletion(context.WithoutCancel(ctx), arn); err != nil {
		r.log.WarnContext(ctx, "awskms: a KMS key that nothing uses stays", "arn", arn, "error", err)
	}
}

func (r *Root) scheduleDeletion(ctx context.Context, arn string) error {
	return r.do(ctx, "ScheduleKeyDeletion", func(ctx context.Context) error {
		_, err := r.api.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &arn, PendingWindowInDays: aws.Int32(int32(r.cfg.DeletionDays))})
		if pendingDeletion(err) || code(err, "NotFoundException") {
			return nil
		}
		return err
	})
}

// DestroyKey schedules a KMS key of its own for deletion, after
// Config.DeletionDays, and forgets a MAC key. A key of the KMS key of all is a
// context: KMS has nothing of it to destroy; see kms.Root.
func (r *Root) DestroyKey(ctx context.Context, handle []byte) error {
	h, err := parseHandle(handle)
	if err != nil {
		return err
	}
	switch h.kind {
	case macKind:
		r.macs.drop(sha256.Sum256(handle), nil)
	case ownKind:
		if err := r.begin(ctx, "destroy key"); err != nil {
			return err
		}
		return r.scheduleDeletion(ctx, inRegion(h.arn, r.region))
	}
	return nil
}

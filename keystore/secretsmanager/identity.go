package secretsmanager

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	api "github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/keygate/keygate/awsapi"
)

// The identity secret says whose store the secrets of a prefix are, so that another
// account, region or prefix is never taken for an empty store. No record has its
// name, as the name of a record has no dot.
const (
	identityName = ".identity"
	identityHead = "keygate key store 1\n"
	maxIdentity  = 128
)

// identify checks that the identity is the store's, now.
func (s *Store) identify(ctx context.Context) error {
	var out *api.GetSecretValueOutput
	err := s.do(ctx, "GetSecretValue", awsapi.Transient, func(ctx context.Context) (err error) {
		out, err = s.api.GetSecretValue(ctx, &api.GetSecretValueInput{SecretId: s.secret(identityName), VersionStage: aws.String(current)})
		return err
	})
	switch code(err) {
	case "ResourceNotFoundException":
		return unavailable("there is no secret %s: not a key store, or another account, region or prefix; keygate store init makes one", *s.secret(identityName))
	case "InvalidRequestException":
		return unavailable("the secret %s was deleted: restore it", *s.secret(identityName))
	}
	if err != nil {
		return err
	}
	identity, ok := strings.CutPrefix(aws.ToString(out.SecretString), identityHead)
	identity, ended := strings.CutSuffix(identity, "\n")
	if !ok || !ended {
		return unavailable("the secret %s is not one of keygate", *s.secret(identityName))
	}
	if identity != s.identity {
		return unavailable("the store is that of cluster %.64q, not of %s", identity, s.identity)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.identified = true
	return nil
}

// Init makes the store of a cluster: its identity secret. To init the store of the
// same identity again changes nothing; another's is an error.
func Init(ctx context.Context, cfg Config, identity string) error {
	s, err := Open(ctx, cfg, identity)
	if err != nil {
		return err
	}
	token := newToken()
	in := &api.CreateSecretInput{
		Name: s.secret(identityName), Description: aws.String("keygate: whose key store this is"),
		SecretString: aws.String(identityHead + identity + "\n"), ClientRequestToken: &token,
	}
	if s.cfg.KMSKey != "" {
		in.KmsKeyId = &s.cfg.KMSKey
	}
	err = s.do(ctx, "CreateSecret", awsapi.Transient, func(ctx context.Context) error {
		_, err := s.api.CreateSecret(ctx, in)
		return err
	})
	if err != nil && code(err) != "ResourceExistsException" {
		return fmt.Errorf("secretsmanager: init: %w", err)
	}
	if err := s.identify(ctx); err != nil {
		return fmt.Errorf("secretsmanager: init: %w", err)
	}
	return nil
}

package secretsmanager

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	api "github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/keygate/keygate/awsapi"
	"github.com/keygate/keygate/keystore"
)

// Update replaces the record if its revision is rev.
func (s *Store) Update(ctx context.Context, name string, record []byte, rev keystore.Revision) error {
	err := checkWrite(ctx, name, record)
	if err == nil {
		err = s.begin(ctx)
	}
	if err == nil {
		err = s.replace(ctx, name, s.encode(magicRecord, name, record), pending, rev)
	}
	return wrap("update", err)
}

// Delete puts a tombstone in the place of the record, if its revision is rev, and
// schedules the secret for deletion.
func (s *Store) Delete(ctx context.Context, name string, rev keystore.Revision) error {
	err := keystore.Check(ctx, name)
	if err == nil {
		err = s.begin(ctx)
	}
	if err != nil {
		return wrap("delete", err)
	}
	err = s.replace(ctx, name, s.encode(magicTombstone, name, nil), deleted, rev)
	if err == nil {
		return wrap("delete", s.schedule(ctx, name))
	}
	if errors.Is(err, errTombstone) {
		// A delete that was cut short: its end is ours to make, its success is not.
		err = errors.Join(err, s.schedule(ctx, name))
	}
	return wrap("delete", err)
}

// schedule has the secret of a tombstone deleted, after the recovery window.
func (s *Store) schedule(ctx context.Context, name string) error {
	err := s.do(ctx, "DeleteSecret", awsapi.Transient, func(ctx context.Context) error {
		_, err := s.api.DeleteSecret(ctx, &api.DeleteSecretInput{SecretId: s.secret(name), RecoveryWindowInDays: aws.Int64(int64(s.cfg.RecoveryDays))})
		return err
	})
	switch code(err) {
	case "InvalidRequestException", "ResourceNotFoundException": // it is scheduled already
		return nil
	}
	return err
}

// replaceTries is how often a value is put anew whose version another writer has
// taken the label pending from, if Secrets Manager then does not take it any more.
const replaceTries = 3

// replace makes value the current version of name if rev is it, else ErrConflict.
func (s *Store) replace(ctx context.Context, name string, value []byte, label string, rev keystore.Revision) error {
	for range replaceTries {
		// Asked first, as each version that is put counts, also of those who lose.
		v, err := s.read(ctx, name)
		if err != nil {
			return err
		}
		if v.rev != rev {
			return keystore.ErrConflict
		}
		token := newToken()
		switch err := s.put(ctx, name, value, label, token); code(err) {
		case "InvalidRequestException", "ResourceNotFoundException":
			continue // it was deleted meanwhile: read tells
		default:
			if err != nil {
				return err
			}
		}
		if done, err := s.move(ctx, name, rev, token); done || err != nil {
			return err
		}
	}
	return unavailable("%d versions in a row could not be made %s", replaceTries, current)
}

// put stores value as a version that is not current. It can be tried again: a
// version with this id and value is this one.
func (s *Store) put(ctx context.Context, name string, value []byte, label, token string) error {
	return s.do(ctx, "PutSecretValue", awsapi.Transient, func(ctx context.Context) error {
		_, err := s.api.PutSecretValue(ctx, &api.PutSecretValueInput{
			SecretId: s.secret(name), SecretBinary: value, ClientRequestToken: &token, VersionStages: []string{label},
		})
		return err
	})
}

// move takes the label AWSCURRENT from the version rev to token, if rev has it. It
// is not tried again where it may have been done: what the second try would be told
// is what a loser is told. done is false, without an error, if it was refused though
// rev is current still.
func (s *Store) move(ctx context.Context, name string, rev keystore.Revision, token string) (done bool, err error) {
	err = s.do(ctx, "UpdateSecretVersionStage", awsapi.Throttled, func(ctx context.Context) error {
		_, err := s.api.UpdateSecretVersionStage(ctx, &api.UpdateSecretVersionStageInput{
			SecretId: s.secret(name), VersionStage: aws.String(current), RemoveFromVersionId: aws.String(string(rev)), MoveToVersionId: &token,
		})
		return err
	})
	if err == nil {
		return true, nil
	}
	refused := false
	switch code(err) {
	case "InvalidParameterException", "InvalidRequestException", "ResourceNotFoundException":
		refused = true
	}
	now, readErr := s.currentVersion(ctx, name)
	switch {
	case readErr != nil:
		return false, unavailable("%v; read it back: %v", err, readErr)
	case now == token:
		return true, nil
	case !refused:
		return false, err
	case now == string(rev):
		return false, nil
	}
	return false, fmt.Errorf("%w: %v", keystore.ErrConflict, err)
}

// currentVersion returns the id of the version that is current, whatever it holds.
func (s *Store) currentVersion(ctx context.Context, name string) (id string, err error) {
	d, err := s.describe(ctx, name)
	if err != nil {
		return "", err
	}
	for id, labels := range d.VersionIdsToStages {
		for _, label := range labels {
			if label == current {
				return id, nil
			}
		}
	}
	return "", errors.New("none")
}

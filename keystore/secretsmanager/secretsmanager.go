// Package secretsmanager keeps key records as secrets of AWS Secrets Manager.
//
// The revision of a record is the id of the version of its secret that has the
// label AWSCURRENT. Secrets Manager changes no value conditionally, but it moves a
// label conditionally: UpdateSecretVersionStage takes AWSCURRENT from the version
// that it is told, and fails if another one has it. So an update first puts the new
// value as a version without AWSCURRENT, and then moves the label from the version
// that it expects.
//
// A record that is deleted gets a last version that says so, in the same way; then
// its secret is scheduled for deletion. Until that happens, 7 to 30 days later, it
// can be restored, and its name is taken. It is never deleted at once.
package secretsmanager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	api "github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/keygate/keygate/awsapi"
	"github.com/keygate/keygate/keystore"
)

// The labels of versions.
const (
	current = "AWSCURRENT"
	// pending is where an update puts its value first. It is one label for all
	// writers, who take it from each other: a secret has 20 labels at most.
	pending = "KEYGATEPENDING"
	// deleted is the label of a version that says that the record was deleted.
	deleted = "KEYGATEDELETED"
)

// A Store is a keystore.Store in AWS Secrets Manager. Make one with Open.
type Store struct {
	cfg      Config
	identity string
	api      *api.Client
	caller   *awsapi.Caller

	mu         sync.Mutex
	identified bool // the identity was seen once
	closed     bool
}

var _ keystore.Store = (*Store)(nil)

// Open returns the store that Init has made with the same identity. It reads the
// configuration of AWS in the environment and in files, and connects to nothing:
// that the store is not there each call tells, with keystore.ErrUnavailable.
func Open(ctx context.Context, cfg Config, identity string) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if identity == "" || len(identity) > maxIdentity {
		return nil, fmt.Errorf("secretsmanager: open: the identity is not of 1 to %d characters", maxIdentity)
	}
	account, err := cfg.access().Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("secretsmanager: open: %w", err)
	}
	return &Store{cfg: cfg, identity: identity, api: api.NewFromConfig(account), caller: awsapi.NewCaller(cfg.Timeout)}, nil
}

func (s *Store) secret(name string) *string { return aws.String(s.cfg.Prefix + name) }

// begin is what each call does first: the store must be open, and be this
// cluster's. That was seen once, or is asked now.
func (s *Store) begin(ctx context.Context) error {
	s.mu.Lock()
	closed, identified := s.closed, s.identified
	s.mu.Unlock()
	if closed {
		return fmt.Errorf("%w: the store is closed", keystore.ErrUnavailable)
	}
	if identified {
		return nil
	}
	return s.identify(ctx)
}

// Create stores a new record.
func (s *Store) Create(ctx context.Context, name string, record []byte) error {
	err := checkWrite(ctx, name, record)
	if err == nil {
		err = s.begin(ctx)
	}
	if err == nil {
		err = s.create(ctx, name, s.encode(magicRecord, name, record))
	}
	return wrap("create", err)
}

// checkWrite refuses what does not fit into a secret as what is too long for any
// store.
func checkWrite(ctx context.Context, name string, record []byte) error {
	if err := keystore.CheckWrite(ctx, name, record); err != nil {
		return err
	}
	if len(record) > MaxRecord {
		return fmt.Errorf("%w: record has %d bytes, more than the %d that a secret of AWS has room for", keystore.ErrCorrupt, len(record), MaxRecord)
	}
	return nil
}

// create can be tried again: a secret that has a version with this id and value is
// no other's.
func (s *Store) create(ctx context.Context, name string, value []byte) error {
	token := newToken()
	in := &api.CreateSecretInput{Name: s.secret(name), SecretBinary: value, ClientRequestToken: &token}
	if s.cfg.KMSKey != "" {
		in.KmsKeyId = &s.cfg.KMSKey
	}
	err := s.do(ctx, "CreateSecret", awsapi.Transient, func(ctx context.Context) error {
		_, err := s.api.CreateSecret(ctx, in)
		return err
	})
	switch code(err) {
	case "ResourceExistsException", "InvalidRequestException": // the second: it is scheduled for deletion
		return s.whose(ctx, name, token, err)
	}
	return err
}

// whose tells whether the secret that is in the way of a create is the one that the
// create has made, in a try whose answer was lost. Package kms destroys the root's
// keys of a record that is ErrExists, so this is not guessed.
func (s *Store) whose(ctx context.Context, name, token string, err error) error {
	d, describeErr := s.describe(ctx, name)
	switch {
	case describeErr != nil:
		return unavailable("%v; describe it: %v", err, describeErr)
	case len(d.VersionIdsToStages[token]) > 0:
		return nil
	case d.DeletedDate != nil:
		return fmt.Errorf("%w: its secret was deleted, and can be restored until %s", keystore.ErrExists, d.DeletedDate.UTC().Format("2006-01-02"))
	case code(err) == "ResourceExistsException":
		return keystore.ErrExists
	}
	return err
}

func (s *Store) describe(ctx context.Context, name string) (out *api.DescribeSecretOutput, err error) {
	err = s.do(ctx, "DescribeSecret", awsapi.Transient, func(ctx context.Context) (err error) {
		out, err = s.api.DescribeSecret(ctx, &api.DescribeSecretInput{SecretId: s.secret(name)})
		return err
	})
	return out, err
}

// Get returns the record.
func (s *Store) Get(ctx context.Context, name string) ([]byte, keystore.Revision, error) {
	err := keystore.Check(ctx, name)
	if err == nil {
		err = s.begin(ctx)
	}
	if err != nil {
		return nil, "", wrap("get", err)
	}
	v, err := s.read(ctx, name)
	if err != nil {
		return nil, "", wrap("get", err)
	}
	return v.record, v.rev, nil
}

// A version is what has the label AWSCURRENT.
type version struct {
	record []byte
	rev    keystore.Revision
}

// errTombstone is wrapped with ErrNotFound: the record was deleted, and its secret
// may not be scheduled for deletion.
var errTombstone = errors.New("the record was deleted")

// reads is how often read looks for a label that is being moved.
const reads = 3

// read returns the current version of a record, or ErrNotFound, if that is sure.
func (s *Store) read(ctx context.Context, name string) (version, error) {
	for range reads {
		v, err := s.value(ctx, name)
		switch code(err) {
		case "ResourceNotFoundException", "InvalidRequestException":
			// Of the secret, or of the label; or the secret is scheduled for deletion.
			if err := s.absent(ctx, name); err != nil {
				return version{}, err
			}
		default:
			return v, err
		}
	}
	return version{}, fmt.Errorf("%w: the secret has no version that is %s", keystore.ErrCorrupt, current)
}

func (s *Store) value(ctx context.Context, name string) (v version, err error) {
	var out *api.GetSecretValueOutput
	err = s.do(ctx, "GetSecretValue", awsapi.Transient, func(ctx context.Context) (err error) {
		// With the label named: Secrets Manager says what that is the default, and
		// not all that speak its language agree.
		out, err = s.api.GetSecretValue(ctx, &api.GetSecretValueInput{SecretId: s.secret(name), VersionStage: aws.String(current)})
		return err
	})
	if err != nil {
		return v, err
	}
	record, gone, err := s.decode(name, out.SecretBinary)
	if err != nil {
		return v, err
	}
	if gone {
		return v, fmt.Errorf("%w: %w", keystore.ErrNotFound, errTombstone)
	}
	return version{record, keystore.Revision(aws.ToString(out.VersionId))}, nil
}

// absent returns ErrNotFound if there is no secret of that name, or one that is
// scheduled for deletion, in a store that is, at this moment, this cluster's. It
// returns nil if there is one.
func (s *Store) absent(ctx context.Context, name string) error {
	d, err := s.describe(ctx, name)
	if code(err) != "ResourceNotFoundException" && (err != nil || d.DeletedDate == nil) {
		return err
	}
	if err := s.identify(ctx); err != nil {
		return err
	}
	return keystore.ErrNotFound
}

// List reads all names that start with prefix: its cost is that of all, at 100 a
// call, so ask for many at a time. Secrets Manager may list what is a few minutes
// old (ListSecrets, "eventually consistent").
func (s *Store) List(ctx context.Context, prefix, after string, n int) ([]string, error) {
	err := keystore.CheckList(ctx, prefix, after)
	if err == nil {
		err = s.begin(ctx)
	}
	if err != nil {
		return nil, wrap("list", err)
	}
	names := []string{}
	err = s.each(ctx, prefix, func(name string) {
		if name > after && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	})
	if err == nil {
		err = s.identify(ctx) // an account or prefix that is not ours has no names, too
	}
	if err != nil {
		return nil, wrap("list", err)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return slices.Clip(names[:min(max(n, 0), len(names))]), nil
}

// each calls f with the name of each record that is not deleted, and maybe with
// some that do not start with prefix.
func (s *Store) each(ctx context.Context, prefix string, f func(name string)) error {
	in := &api.ListSecretsInput{MaxResults: aws.Int32(100)}
	if start := s.cfg.Prefix + prefix; start != "" {
		in.Filters = []types.Filter{{Key: types.FilterNameStringTypeName, Values: []string{start}}}
	}
	for {
		var out *api.ListSecretsOutput
		err := s.do(ctx, "ListSecrets", awsapi.Transient, func(ctx context.Context) (err error) {
			out, err = s.api.ListSecrets(ctx, in)
			return err
		})
		if err != nil {
			return err
		}
		for _, secret := range out.SecretList {
			name, ours := strings.CutPrefix(aws.ToString(secret.Name), s.cfg.Prefix)
			if ours && keystore.ValidName(name) && secret.DeletedDate == nil && !isTombstone(secret.SecretVersionsToStages) {
				f(name)
			}
		}
		if aws.ToString(out.NextToken) == "" {
			return nil
		}
		in.NextToken = out.NextToken
	}
}

func isTombstone(versions map[string][]string) bool {
	for _, labels := range versions {
		if slices.Contains(labels, current) && slices.Contains(labels, deleted) {
			return true
		}
	}
	return false
}

// Watch returns keystore.ErrNoWatch: nodes poll.
func (s *Store) Watch(context.Context, func(name string)) error {
	return fmt.Errorf("secretsmanager: %w", keystore.ErrNoWatch)
}

// Status reads the identity of the store. That it can be written is not tried: each
// write is a version, of which a secret has about a hundred a day.
func (s *Store) Status(ctx context.Context) error {
	err := keystore.CheckAlive(ctx)
	if err == nil {
		err = s.begin(ctx)
	}
	if err == nil {
		err = s.identify(ctx)
	}
	return wrap("status", err)
}

// Close ends the use of the store. Calls after it return keystore.ErrUnavailable.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

package secretsmanager_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	api "github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/keygate/keygate/awsapi"
	"github.com/keygate/keygate/awsapi/awstest"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/secretsmanager"
)

// client returns a client of Secrets Manager, for what an administrator does.
func client(t *testing.T, cfg secretsmanager.Config) *api.Client {
	t.Helper()
	account, err := awsapi.Config{Region: cfg.Region, Endpoint: cfg.Endpoint, Credentials: cfg.CredentialsFile}.Load(t.Context())
	ok(t, err)
	return api.NewFromConfig(account)
}

// behind returns a store that is behind a proxy.
func behind(t *testing.T) (*awstest.Proxy, secretsmanager.Config, *secretsmanager.Store) {
	t.Helper()
	p := awstest.NewProxy(t, awstest.Endpoint(t, awstest.Secrets))
	cfg := newStore(t, p.URL)
	return p, cfg, open(t, cfg)
}

func create(t *testing.T, s keystore.Store, name, record string) keystore.Revision {
	t.Helper()
	ok(t, s.Create(t.Context(), name, []byte(record)))
	return holds(t, s, name, record)
}

func holds(t *testing.T, s keystore.Store, name, record string) keystore.Revision {
	t.Helper()
	got, rev, err := s.Get(t.Context(), name)
	ok(t, err)
	if string(got) != record {
		t.Fatalf("%s is %q, want %q", name, got, record)
	}
	return rev
}

// calls are all the calls of a store.
func calls(ctx context.Context, s keystore.Store, name string, rev keystore.Revision) map[string]error {
	_, _, get := s.Get(ctx, name)
	_, list := s.List(ctx, "", "", 9)
	return map[string]error{
		"create": s.Create(ctx, name+"-new", []byte("x")), "get": get, "list": list, "status": s.Status(ctx),
		"update": s.Update(ctx, name, []byte("x"), rev), "delete": s.Delete(ctx, name, rev),
	}
}

// What the store is built on: the label moves from the version that is named, and
// from no other.
func TestSecretsManagerMovesALabelConditionally(t *testing.T) {
	cfg := newStore(t, awstest.Endpoint(t, awstest.Secrets))
	s, c, ctx := open(t, cfg), client(t, cfg), t.Context()
	one := string(create(t, s, "app", "one"))
	ok(t, s.Update(ctx, "app", []byte("two"), keystore.Revision(one)))
	two := string(holds(t, s, "app", "two"))
	three, err := c.PutSecretValue(ctx, &api.PutSecretValueInput{SecretId: aws.String(cfg.Prefix + "app"), SecretBinary: []byte("x"), VersionStages: []string{"OTHER"}})
	ok(t, err)
	for what, from := range map[string]*string{"another version": &one, "none": nil, "itself": three.VersionId} {
		_, err := c.UpdateSecretVersionStage(ctx, &api.UpdateSecretVersionStageInput{
			SecretId: aws.String(cfg.Prefix + "app"), VersionStage: aws.String("AWSCURRENT"), RemoveFromVersionId: from, MoveToVersionId: three.VersionId,
		})
		if code := awsapi.Code(err); code != "InvalidParameterException" {
			t.Errorf("from %s: %v", what, err)
		}
	}
	if rev := holds(t, s, "app", "two"); string(rev) != two {
		t.Errorf("the current version is %s, not %s", rev, two)
	}
}

// Another account, region or prefix is no empty store: no name is free in it.
func TestWhatIsNotTheStoreIsUnavailable(t *testing.T) {
	endpoint := awstest.Endpoint(t, awstest.Secrets)
	cfg := newStore(t, endpoint)
	rev := create(t, open(t, cfg), "app", "one")
	elsewhere := cfg
	elsewhere.Prefix = "keygate-test-nowhere/"
	for call, err := range calls(t.Context(), open(t, elsewhere), "app", rev) {
		is(t, "no store: "+call, err, keystore.ErrUnavailable)
		if !strings.Contains(err.Error(), "keygate store init makes one") {
			t.Errorf("%s: %v", call, err)
		}
	}
	other, err := secretsmanager.Open(t.Context(), cfg, strings.Repeat("f", 32))
	ok(t, err)
	for call, err := range calls(t.Context(), other, "app", rev) {
		is(t, "another cluster's: "+call, err, keystore.ErrUnavailable)
	}
	if err := secretsmanager.Init(t.Context(), cfg, strings.Repeat("f", 32)); err == nil {
		t.Error("the store of one cluster is made that of another")
	}
	ok(t, secretsmanager.Init(t.Context(), cfg, cluster)) // changes nothing
	holds(t, open(t, cfg), "app", "one")
}

// A node that runs notices that the store has gone before it says that a name is
// free.
func TestAnIdentityThatGoesAwayIsUnavailable(t *testing.T) {
	cfg := newStore(t, awstest.Endpoint(t, awstest.Secrets))
	s, c, ctx := open(t, cfg), client(t, cfg), t.Context()
	create(t, s, "app", "one")
	_, _, err := s.Get(ctx, "none")
	is(t, "a name that is not there", err, keystore.ErrNotFound)
	_, err = c.DeleteSecret(ctx, &api.DeleteSecretInput{SecretId: aws.String(cfg.Prefix + ".identity"), RecoveryWindowInDays: aws.Int64(7)})
	ok(t, err)
	_, _, err = s.Get(ctx, "none")
	is(t, "a name that is not there", err, keystore.ErrUnavailable)
	_, err = s.List(ctx, "", "", 9)
	is(t, "list", err, keystore.ErrUnavailable)
	is(t, "status", s.Status(ctx), keystore.ErrUnavailable)
	_, err = c.RestoreSecret(ctx, &api.RestoreSecretInput{SecretId: aws.String(cfg.Prefix + ".identity")})
	ok(t, err)
	ok(t, s.Status(ctx))
}

func TestAnswersOfSecretsManager(t *testing.T) {
	p, _, s := behind(t)
	rev := create(t, s, "app", "one")
	for code, want := range map[string]error{
		"AccessDeniedException":       keystore.ErrDenied,
		"UnrecognizedClientException": keystore.ErrDenied,
		"ExpiredTokenException":       keystore.ErrDenied,
		"DecryptionFailure":           keystore.ErrUnavailable,
		"EncryptionFailure":           keystore.ErrUnavailable,
		"LimitExceededException":      keystore.ErrUnavailable,
		"SomethingNew":                keystore.ErrUnavailable,
	} {
		p.Break(awstest.Fails("", 1e9, 400, code))
		for call, err := range calls(t.Context(), s, "app", rev) {
			is(t, code+": "+call, err, want)
		}
	}
	p.Break(nil)
	if now := holds(t, s, "app", "one"); now != rev {
		t.Errorf("revision went from %s to %s", rev, now)
	}
}

// What passes is tried again; each change is made once.
func TestFaultsThatPass(t *testing.T) {
	p, _, s := behind(t)
	for i, fault := range []awstest.Fault{
		awstest.Fails("CreateSecret", 2, 400, "ThrottlingException"),
		awstest.Fails("PutSecretValue", 2, 400, "ThrottlingException"),
		awstest.Fails("UpdateSecretVersionStage", 2, 400, "ThrottlingException"),
		awstest.Fails("GetSecretValue", 1, 500, "InternalServiceError"),
		awstest.Loses("CreateSecret", 1),
		awstest.Loses("PutSecretValue", 1),
		awstest.Loses("UpdateSecretVersionStage", 1),
	} {
		name := fmt.Sprintf("app-%d", i)
		p.Break(fault)
		ok(t, s.Create(t.Context(), name, []byte("one")))
		rev := holds(t, s, name, "one")
		ok(t, s.Update(t.Context(), name, []byte("two"), rev))
		holds(t, s, name, "two")
		if n := p.Counts(); n["UpdateSecretVersionStage"] > 3 || n["CreateSecret"] > 3 {
			t.Errorf("fault %d: calls %v", i, n)
		}
	}
}

// Package kms destroys the root's keys of a record that exists already: a create
// whose answer was lost is not told that.
func TestACreateWhoseAnswerWasLostIsNotErrExists(t *testing.T) {
	p, _, s := behind(t)
	p.Break(func(w http.ResponseWriter, r awstest.Request) bool {
		if r.Operation != "CreateSecret" {
			return false
		}
		if r.Count == 1 {
			r.Done()
			panic(http.ErrAbortHandler)
		}
		awstest.Answer(w, 400, "ResourceExistsException", "it exists")
		return true
	})
	ok(t, s.Create(t.Context(), "app", []byte("one")))
	p.Break(nil)
	holds(t, s, "app", "one")
	is(t, "another create", s.Create(t.Context(), "app", []byte("two")), keystore.ErrExists)
	// That it exists is not believed if it cannot be looked at.
	p.Break(awstest.Fails("DescribeSecret", 1e9, 400, "AccessDeniedException"))
	is(t, "a create that cannot be looked into", s.Create(t.Context(), "app", []byte("two")), keystore.ErrUnavailable)
}

// An update whose answer was lost, after which another writer came, may have
// happened or not: it is not called a conflict.
func TestAnUpdateWhoseAnswerWasLostIsUnavailable(t *testing.T) {
	p, cfg, s := behind(t)
	direct := cfg
	direct.Endpoint = awstest.Endpoint(t, awstest.Secrets)
	other := open(t, direct)
	rev := create(t, s, "app", "one")
	p.Break(func(_ http.ResponseWriter, r awstest.Request) bool {
		if r.Operation != "UpdateSecretVersionStage" {
			return false
		}
		r.Done()
		if err := other.Update(context.Background(), "app", []byte("three"), holds(t, other, "app", "two")); err != nil {
			t.Error(err)
		}
		panic(http.ErrAbortHandler)
	})
	is(t, "update", s.Update(t.Context(), "app", []byte("two"), rev), keystore.ErrUnavailable)
	p.Break(nil)
	holds(t, s, "app", "three")
}

func TestWhatIsNoRecordIsCorrupt(t *testing.T) {
	endpoint := awstest.Endpoint(t, awstest.Secrets)
	cfg := newStore(t, endpoint)
	s, c, ctx := open(t, cfg), client(t, cfg), t.Context()
	create(t, s, "app", "one")
	value, err := c.GetSecretValue(ctx, &api.GetSecretValueInput{SecretId: aws.String(cfg.Prefix + "app")})
	ok(t, err)
	flipped := bytes.Clone(value.SecretBinary)
	flipped[len(flipped)-1] ^= 1
	for name, in := range map[string]*api.CreateSecretInput{
		"text":         {SecretString: aws.String("a password")},
		"short":        {SecretBinary: []byte("keygate\x01")},
		"other":        {SecretBinary: bytes.Repeat([]byte{1}, 100)},
		"damaged":      {SecretBinary: flipped},
		"other-record": {SecretBinary: value.SecretBinary},
	} {
		in.Name = aws.String(cfg.Prefix + name)
		_, err := c.CreateSecret(ctx, in)
		ok(t, err)
		_, _, err = s.Get(ctx, name)
		is(t, name, err, keystore.ErrCorrupt)
		is(t, name+": create", s.Create(ctx, name, []byte("x")), keystore.ErrExists)
		is(t, name+": update", s.Update(ctx, name, []byte("x"), "x"), keystore.ErrCorrupt)
	}
	if endpoint == "" {
		return // AWS takes AWSCURRENT from no secret
	}
	_, err = c.UpdateSecretVersionStage(ctx, &api.UpdateSecretVersionStageInput{
		SecretId: aws.String(cfg.Prefix + "app"), VersionStage: aws.String("AWSCURRENT"), RemoveFromVersionId: value.VersionId,
	})
	ok(t, err)
	_, _, err = s.Get(ctx, "app")
	is(t, "no current version", err, keystore.ErrCorrupt)
}

// A deleted record can be restored for as long as AWS keeps it: by an administrator,
// in the two steps of docs/keystore-aws.md.
func TestADeletedRecordCanBeRestored(t *testing.T) {
	cfg := newStore(t, awstest.Endpoint(t, awstest.Secrets))
	s, c, ctx := open(t, cfg), client(t, cfg), t.Context()
	rev := create(t, s, "app", "one")
	id := aws.String(cfg.Prefix + "app")
	ok(t, s.Delete(ctx, "app", rev))
	gone := func(when string) {
		t.Helper()
		_, _, err := s.Get(ctx, "app")
		is(t, when+": get", err, keystore.ErrNotFound)
		is(t, when+": create", s.Create(ctx, "app", []byte("x")), keystore.ErrExists)
		if names, err := s.List(ctx, "", "", 9); err != nil || len(names) != 0 {
			t.Errorf("%s: list %v, %v", when, names, err)
		}
	}
	gone("deleted")
	_, err := c.RestoreSecret(ctx, &api.RestoreSecretInput{SecretId: id})
	ok(t, err)
	gone("half restored")
	d, err := c.DescribeSecret(ctx, &api.DescribeSecretInput{SecretId: id})
	ok(t, err)
	version := func(label string) *string {
		for id, labels := range d.VersionIdsToStages {
			if strings.Contains(strings.Join(labels, " "), label) {
				return &id
			}
		}
		t.Fatalf("no version is %s", label)
		return nil
	}
	_, err = c.UpdateSecretVersionStage(ctx, &api.UpdateSecretVersionStageInput{
		SecretId: id, VersionStage: aws.String("AWSCURRENT"), RemoveFromVersionId: version("AWSCURRENT"), MoveToVersionId: version("AWSPREVIOUS"),
	})
	ok(t, err)
	if now := holds(t, s, "app", "one"); now != rev {
		t.Errorf("revision is %s, was %s", now, rev)
	}
	ok(t, s.Update(ctx, "app", []byte("two"), rev))
}

func TestADeleteThatIsCutShortIsDoneAtTheNext(t *testing.T) {
	p, cfg, s := behind(t)
	rev := create(t, s, "app", "one")
	var bodies []string
	fails := awstest.Fails("DeleteSecret", 1, 400, "AccessDeniedException")
	p.Break(func(w http.ResponseWriter, r awstest.Request) bool {
		if r.Operation == "DeleteSecret" {
			bodies = append(bodies, string(r.Body))
		}
		return fails(w, r)
	})
	is(t, "delete", s.Delete(t.Context(), "app", rev), keystore.ErrDenied)
	_, _, err := s.Get(t.Context(), "app")
	is(t, "get", err, keystore.ErrNotFound)
	if names, err := s.List(t.Context(), "", "", 9); err != nil || len(names) != 0 {
		t.Errorf("list: %v, %v", names, err)
	}
	is(t, "delete again", s.Delete(t.Context(), "app", rev), keystore.ErrNotFound)
	d, err := client(t, cfg).DescribeSecret(t.Context(), &api.DescribeSecretInput{SecretId: aws.String(cfg.Prefix + "app")})
	ok(t, err)
	if d.DeletedDate == nil {
		t.Error("it is not scheduled for deletion")
	}
	for _, body := range bodies {
		if !strings.Contains(body, `"RecoveryWindowInDays":7`) || strings.Contains(body, "Force") {
			t.Errorf("it is deleted by %s", body)
		}
	}
	if len(bodies) != 2 {
		t.Errorf("%d calls", len(bodies))
	}
}

func TestSecretsAreMadeWithTheKMSKey(t *testing.T) {
	p, cfg, _ := behind(t)
	cfg.KMSKey = "alias/keygate-store"
	s := open(t, cfg)
	var body string
	p.Break(func(_ http.ResponseWriter, r awstest.Request) bool {
		if r.Operation == "CreateSecret" {
			body = string(r.Body)
		}
		return false
	})
	create(t, s, "app", "one")
	if !strings.Contains(body, `"KmsKeyId":"alias/keygate-store"`) {
		t.Errorf("created by %s", body)
	}
}

func TestAServiceThatHangsIsUnavailableWithinTheDeadline(t *testing.T) {
	p, cfg, s := behind(t)
	rev := create(t, s, "app", "one")
	cfg.Timeout = 400 * time.Millisecond
	s = open(t, cfg)
	holds(t, s, "app", "one")
	gone := make(chan struct{})
	defer close(gone)
	p.Break(func(http.ResponseWriter, awstest.Request) bool { <-gone; return true })
	start := time.Now()
	for call, err := range calls(t.Context(), s, "app", rev) {
		is(t, call, err, keystore.ErrUnavailable)
	}
	if took := time.Since(start); took > 6*time.Second {
		t.Errorf("six calls took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start = time.Now()
	_, _, err := s.Get(ctx, "app")
	is(t, "get", err, keystore.ErrUnavailable)
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("a call with a deadline of 50ms took %v", took)
	}
}

func TestConfig(t *testing.T) {
	ok(t, secretsmanager.Config{}.Check())
	for want, cfg := range map[string]secretsmanager.Config{
		"secretsmanager: endpoint: it is not https, and not on this machine":                {Endpoint: "http://example.net"},
		`secretsmanager: prefix: "a b" has other characters than A-Z, a-z, 0-9 and /_+=.@-`: {Prefix: "a b"},
		"secretsmanager: prefix: it has more than 256 bytes":                                {Prefix: strings.Repeat("a", 257)},
		"secretsmanager: recovery_days: 31 is not from 7 to 30":                             {RecoveryDays: 31},
	} {
		if err := cfg.Check(); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

// What each operation costs in calls. docs/keystore-aws.md has these figures.
func TestCallsOfEachOperation(t *testing.T) {
	p, _, s := behind(t)
	ok(t, s.Status(t.Context()))
	var rev keystore.Revision
	for _, c := range []struct {
		what  string
		calls int
		run   func(ctx context.Context) error
	}{
		{"create", 1, func(ctx context.Context) error { return s.Create(ctx, "app", []byte("one")) }},
		{"get", 1, func(ctx context.Context) (err error) { _, rev, err = s.Get(ctx, "app"); return err }},
		{"update", 3, func(ctx context.Context) error { return s.Update(ctx, "app", []byte("two"), rev) }},
		{"get", 1, func(ctx context.Context) (err error) { _, rev, err = s.Get(ctx, "app"); return err }},
		{"list", 2, func(ctx context.Context) error { _, err := s.List(ctx, "", "", 9); return err }},
		{"delete", 4, func(ctx context.Context) error { return s.Delete(ctx, "app", rev) }},
		{"status", 1, s.Status},
		{"get what is not there", 3, func(ctx context.Context) error {
			_, _, err := s.Get(ctx, "none")
			is(t, "get", err, keystore.ErrNotFound)
			return nil
		}},
	} {
		p.Counts()
		ok(t, c.run(t.Context()))
		n := 0
		for _, count := range p.Counts() {
			n += count
		}
		if n != c.calls {
			t.Errorf("%s: %d calls, want %d", c.what, n, c.calls)
		}
	}
}

package vault_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/vault"
	"github.com/keygate/keygate/vault/vaulttest"
)

var id = kms.KeyID{1, 2, 3}

func newKey(t *testing.T, r *vault.Root, purpose kms.Purpose) []byte {
	t.Helper()
	handle, err := r.NewKey(t.Context(), id, purpose)
	check(t, err)
	return handle
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// is checks that err is want, and no other of the errors of package kms.
func is(t *testing.T, what string, err, want error) {
	t.Helper()
	for _, sentinel := range []error{kms.ErrUnavailable, kms.ErrDenied, kms.ErrCorrupt, kms.ErrCiphertext, kms.ErrUnsupported} {
		if errors.Is(err, sentinel) != (sentinel == want) {
			t.Fatalf("%s: error is %v, not %v alone", what, err, want)
		}
	}
}

// everyCall calls r in each way that asks the server, and checks the error.
func everyCall(t *testing.T, r *vault.Root, encryption, authentication, ciphertext []byte, want error) {
	t.Helper()
	ctx := t.Context()
	_, err := r.NewKey(ctx, id, kms.Encryption)
	is(t, "new key", err, want)
	_, err = r.ImportKey(ctx, id, kms.Encryption, make([]byte, kms.KeySize))
	is(t, "import key", err, want)
	_, err = r.Encrypt(ctx, encryption, []byte("plaintext"), nil)
	is(t, "encrypt", err, want)
	_, err = r.Decrypt(ctx, encryption, ciphertext, nil)
	is(t, "decrypt", err, want)
	_, err = r.Decrypt(ctx, encryption, ciphertext, []byte("other"))
	is(t, "decrypt what is not authentic", err, want)
	_, err = r.MAC(ctx, authentication, []byte("message"))
	is(t, "mac", err, want)
	_, err = r.MAC(ctx, nil, []byte("message"))
	is(t, "mac of a record", err, want)
	is(t, "random", r.Random(ctx, make([]byte, 32)), want)
	is(t, "destroy", r.DestroyKey(ctx, encryption), want)
	time.Sleep(time.Second) // Status believes for as long that all is well
	is(t, "status", r.Status(ctx), want)
}

func TestFaultsOfTheServer(t *testing.T) {
	for _, broken := range vaulttest.AllBroken() {
		t.Run(broken.Name, func(t *testing.T) {
			t.Parallel()
			f := vaulttest.NewFake(t)
			r := initialised(t, tokenConfig(t, f.Server, f.Root))
			encryption, authentication := newKey(t, r, kms.Encryption), newKey(t, r, kms.Authentication)
			ciphertext, err := r.Encrypt(t.Context(), encryption, []byte("plaintext"), nil)
			check(t, err)
			f.Break("transit", broken)
			want := kms.ErrUnavailable
			if broken.Denied {
				want = kms.ErrDenied
			}
			everyCall(t, r, encryption, authentication, ciphertext, want)
			f.SetFault(nil)
			got, err := r.Decrypt(t.Context(), encryption, ciphertext, nil)
			if err != nil || string(got) != "plaintext" {
				t.Errorf("when it has passed: %q, %v", got, err)
			}
			check(t, r.Status(t.Context()))
		})
	}
}

func TestAServerThatGoesAwayAndComesBackSealed(t *testing.T) {
	core := vaulttest.Real(t)
	cfg := tokenConfig(t, core.Server, core.Root)
	cfg.Timeout = time.Second
	r := initialised(t, cfg)
	encryption, authentication := newKey(t, r, kms.Encryption), newKey(t, r, kms.Authentication)
	ciphertext, err := r.Encrypt(t.Context(), encryption, []byte("plaintext"), nil)
	check(t, err)
	core.Seal(t)
	everyCall(t, r, encryption, authentication, ciphertext, kms.ErrUnavailable)
	other := open(t, cfg) // a gateway that starts now
	is(t, "status of one that starts", other.Status(t.Context()), kms.ErrUnavailable)
	core.Unseal(t)
	start := time.Now()
	for r.Status(t.Context()) != nil || other.Status(t.Context()) != nil {
		time.Sleep(20 * time.Millisecond)
		if time.Since(start) > 20*time.Second {
			t.Fatal("not usable 20 s after it was unsealed")
		}
	}
	got, err := other.Decrypt(t.Context(), encryption, ciphertext, nil)
	if err != nil || string(got) != "plaintext" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestDeniedByVault(t *testing.T) {
	core := vaulttest.Real(t)
	r := initialised(t, tokenConfig(t, core.Server, core.Root))
	encryption, authentication := newKey(t, r, kms.Encryption), newKey(t, r, kms.Authentication)
	ciphertext, err := r.Encrypt(t.Context(), encryption, nil, nil)
	check(t, err)
	core.Policy(t, "keygate", documented(t, "gateway"))
	token := core.Token(t, time.Hour, "keygate")
	less := open(t, tokenConfig(t, core.Server, token))
	check(t, less.Status(t.Context()))
	theirs := core.As(token)
	for _, name := range transitKeys(t, core) {
		for path, body := range map[string]any{
			"config": map[string]any{"exportable": true}, "config ": map[string]any{"min_decryption_version": 2}, "trim": map[string]any{"min_available_version": 1},
		} {
			if status, _ := theirs.Try(t, "POST", "transit/keys/"+name+"/"+strings.TrimSpace(path), body); status != 403 {
				t.Errorf("with the rights of a gateway: %v of %s: status %d", body, name, status)
			}
		}
		for _, path := range []string{"transit/export/encryption-key/" + name, "transit/backup/" + name, "transit/keys?list=true", "sys/mounts", "secret/data/x"} {
			if status, _ := theirs.Try(t, "GET", path, nil); status != 403 {
				t.Errorf("with the rights of a gateway: GET %s: status %d", path, status)
			}
		}
	}
	for _, name := range []string{"keygate-record", "keygate-status"} {
		for method, path := range map[string]string{"DELETE": "", "POST": "/config", "PUT": "/rotate"} {
			if status, _ := theirs.Try(t, method, "transit/keys/"+name+path, map[string]any{}); status != 403 {
				t.Errorf("with the rights of a gateway: %s %s%s: status %d", method, name, path, status)
			}
		}
	}
	core.Policy(t, "keygate", `path "none" { capabilities = ["read"] }`)
	everyCall(t, less, encryption, authentication, ciphertext, kms.ErrDenied)
	if _, err := vault.Open(t.Context(), tokenConfig(t, core.Server, "hvs.none"), slog.New(slog.DiscardHandler)); !errors.Is(err, kms.ErrDenied) {
		t.Errorf("with a token that does not exist: %v", err)
	}
}

// transitKeys returns the names of the keys; what ends with a slash is the
// engine's own.
func transitKeys(t *testing.T, core *vaulttest.Core) (names []string) {
	t.Helper()
	for _, name := range vaulttest.Data(core.Do(t, "LIST", "transit/keys", nil))["keys"].([]any) {
		if name := name.(string); !strings.HasSuffix(name, "/") {
			names = append(names, name)
		}
	}
	return names
}

// An answer that lacks what was asked for is never taken for one of nothing.
func TestAnswersOfNothing(t *testing.T) {
	f := vaulttest.NewFake(t)
	r := initialised(t, tokenConfig(t, f.Server, f.Root))
	encryption, authentication := newKey(t, r, kms.Encryption), newKey(t, r, kms.Authentication)
	ciphertext, err := r.Encrypt(t.Context(), encryption, nil, nil)
	check(t, err)
	for _, body := range []string{
		`{"data":{}}`, `{"data":{"plaintext":null,"ciphertext":null,"batch_results":null,"random_bytes":null}}`,
		`{"data":{"plaintext":"%","ciphertext":"vault:v1:","batch_results":[],"random_bytes":"AA=="}}`,
		`{"data":{"plaintext":7,"ciphertext":"plaintext","batch_results":[{"hmac":"vault:v2:AA=="},{}],"random_bytes":[]}}`,
	} {
		f.SetFault(func(w http.ResponseWriter, q *http.Request) bool {
			vaulttest.Answer(w, 200, body)
			return true
		})
		_, err := r.Encrypt(t.Context(), encryption, nil, nil)
		is(t, "encrypt", err, kms.ErrUnavailable)
		_, err = r.Decrypt(t.Context(), encryption, ciphertext, nil)
		is(t, "decrypt", err, kms.ErrUnavailable)
		_, err = r.MAC(t.Context(), authentication, nil)
		is(t, "mac", err, kms.ErrUnavailable)
		_, err = r.MAC(t.Context(), nil, nil)
		is(t, "mac of a record", err, kms.ErrUnavailable)
		_, err = r.NewKey(t.Context(), id, kms.Encryption)
		is(t, "new key", err, kms.ErrUnavailable)
		_, err = r.ImportKey(t.Context(), id, kms.Authentication, make([]byte, kms.KeySize))
		is(t, "import key", err, kms.ErrUnavailable)
		is(t, "random", r.Random(t.Context(), make([]byte, 32)), kms.ErrUnavailable)
	}
}

// A rotation of the transit keys, by an operator, changes nothing that was there.
func TestRotationInVaultBreaksNothing(t *testing.T) {
	core := vaulttest.Real(t)
	r := initialised(t, tokenConfig(t, core.Server, core.Root))
	encryption, authentication := newKey(t, r, kms.Encryption), newKey(t, r, kms.Authentication)
	before, err := r.Encrypt(t.Context(), encryption, []byte("before"), []byte("ad"))
	check(t, err)
	mac, err := r.MAC(t.Context(), authentication, []byte("message"))
	check(t, err)
	record, err := r.MAC(t.Context(), nil, []byte("message"))
	check(t, err)
	names := transitKeys(t, core)
	for _, name := range names {
		core.Do(t, "POST", "transit/keys/"+name+"/rotate", struct{}{})
	}
	for _, root := range []*vault.Root{r, open(t, tokenConfig(t, core.Server, core.Root))} {
		after, err := root.Encrypt(t.Context(), encryption, []byte("after"), []byte("ad"))
		check(t, err)
		if !bytes.HasPrefix(before, []byte("vault:v1:")) || !bytes.HasPrefix(after, []byte("vault:v2:")) {
			t.Errorf("the ciphertexts are %.10s and %.10s", before, after)
		}
		for want, ciphertext := range map[string][]byte{"before": before, "after": after} {
			got, err := root.Decrypt(t.Context(), encryption, ciphertext, []byte("ad"))
			if err != nil || string(got) != want {
				t.Errorf("%q, %v, not %q", got, err, want)
			}
		}
		if got, err := root.MAC(t.Context(), authentication, []byte("message")); err != nil || got != mac {
			t.Errorf("another MAC, or %v", err)
		}
		if got, err := root.MAC(t.Context(), nil, []byte("message")); err != nil || got != record {
			t.Errorf("another MAC of the record key, or %v", err)
		}
		check(t, root.Status(t.Context()))
	}
	// An operator can shut versions out: that is a refusal, and not a bad ciphertext.
	for _, name := range names {
		core.Do(t, "POST", "transit/keys/"+name+"/config", map[string]any{"min_decryption_version": 2, "min_encryption_version": 2})
	}
	_, err = r.Decrypt(t.Context(), encryption, before, []byte("ad"))
	is(t, "decrypt a version that is shut out", err, kms.ErrDenied)
	_, err = r.MAC(t.Context(), authentication, []byte("message"))
	is(t, "mac", err, kms.ErrDenied)
	_, err = r.MAC(t.Context(), nil, []byte("message"))
	is(t, "mac of a record", err, kms.ErrDenied)
}

// What is encrypted under a key that only has the name of the right one is lost.
func TestALostTransitKeyIsNotMadeAgain(t *testing.T) {
	core := vaulttest.Real(t)
	cfg := tokenConfig(t, core.Server, core.Root) // may do everything, also make keys by encrypting
	r := initialised(t, cfg)
	encryption, authentication := newKey(t, r, kms.Encryption), newKey(t, r, kms.Authentication)
	ciphertext, err := r.Encrypt(t.Context(), encryption, nil, nil)
	check(t, err)
	masters := slices.DeleteFunc(transitKeys(t, core), func(name string) bool { return name == "keygate-record" || name == "keygate-status" })
	kinds := map[string]any{}
	for _, name := range masters {
		kinds[name] = vaulttest.Data(core.Do(t, "GET", "transit/keys/"+name, nil))["type"]
		core.Do(t, "POST", "transit/keys/"+name+"/config", map[string]any{"deletion_allowed": true})
		core.Do(t, "DELETE", "transit/keys/"+name, nil)
	}
	cold := open(t, cfg) // which has not seen the keys
	lost := func(root *vault.Root) {
		t.Helper()
		_, err := root.Encrypt(t.Context(), encryption, nil, nil)
		is(t, "encrypt", err, kms.ErrCorrupt)
		_, err = root.Decrypt(t.Context(), encryption, ciphertext, nil)
		is(t, "decrypt", err, kms.ErrCorrupt)
		_, err = root.MAC(t.Context(), authentication, nil)
		is(t, "mac", err, kms.ErrCorrupt)
	}
	lost(r)
	lost(cold)
	if got := transitKeys(t, core); len(got) != 2 {
		t.Fatalf("there are the keys %q", got)
	}
	// Someone makes keys of these names.
	for name, kind := range kinds {
		body := map[string]any{"type": kind}
		if kind == "hmac" {
			body["key_size"] = 32
		}
		core.Do(t, "POST", "transit/keys/"+name, body)
	}
	lost(open(t, cfg))
	// On another mount there are none of the root's keys: nothing is known.
	core.Do(t, "POST", "sys/mounts/other", map[string]any{"type": "transit"})
	cfg.Mount = "other"
	if _, err := vault.Open(t.Context(), cfg, nil); !errors.Is(err, kms.ErrUnavailable) || !strings.Contains(err.Error(), "keygate root init") {
		t.Errorf("on a mount without the root's keys: %v", err)
	}
}

// A key that can be exported, now, is not used for what is new. What is there
// still opens.
func TestAKeyThatCanBeExportedIsRefused(t *testing.T) {
	core := vaulttest.Real(t)
	cfg := tokenConfig(t, core.Server, core.Root)
	r := initialised(t, cfg)
	encryption := newKey(t, r, kms.Encryption)
	ciphertext, err := r.Encrypt(t.Context(), encryption, []byte("plaintext"), nil)
	check(t, err)
	for _, name := range transitKeys(t, core) {
		key := vaulttest.Data(core.Do(t, "GET", "transit/keys/"+name, nil))
		if key["exportable"] != false || key["allow_plaintext_backup"] != false || key["derived"] != false || key["deletion_allowed"] != false {
			t.Errorf("the key %s is %v", name, key)
		}
		if name != "keygate-record" && name != "keygate-status" {
			core.Do(t, "POST", "transit/keys/"+name+"/config", map[string]any{"exportable": true})
		}
	}
	other := open(t, cfg)
	_, err = other.Encrypt(t.Context(), encryption, nil, nil)
	is(t, "encrypt", err, kms.ErrDenied)
	if got, err := other.Decrypt(t.Context(), encryption, ciphertext, nil); err != nil || string(got) != "plaintext" {
		t.Errorf("decrypt: %q, %v", got, err)
	}
	core.Do(t, "POST", "transit/keys/keygate-record/config", map[string]any{"allow_plaintext_backup": true})
	if _, err := vault.Open(t.Context(), cfg, nil); !errors.Is(err, kms.ErrDenied) || !strings.Contains(err.Error(), "keygate-record") {
		t.Errorf("with a record key that can be exported: %v", err)
	}
}

// A server that is too old to know of associated_data ignores the field.
func TestAServerThatDoesNotBindAdditionalData(t *testing.T) {
	f := vaulttest.NewFake(t)
	r := initialised(t, tokenConfig(t, f.Server, f.Root))
	f.SetFault(func(_ http.ResponseWriter, q *http.Request) bool {
		if !strings.Contains(q.URL.Path, "crypt/") {
			return false
		}
		var body map[string]any
		if text, err := io.ReadAll(q.Body); err != nil || json.Unmarshal(text, &body) != nil {
			return false
		}
		delete(body, "associated_data")
		text, _ := json.Marshal(body)
		q.Body = io.NopCloser(bytes.NewReader(text))
		return false
	})
	before := len(f.TransitKeys())
	_, err := r.NewKey(t.Context(), id, kms.Encryption)
	is(t, "new key", err, kms.ErrUnsupported)
	_, err = r.ImportKey(t.Context(), id, kms.Encryption, make([]byte, kms.KeySize))
	if err == nil {
		t.Error("import: no error")
	}
	if after := len(f.TransitKeys()); after != before {
		t.Errorf("%d keys stay that were made in vain", after-before)
	}
}

func TestAServerThatTakesNoKeys(t *testing.T) {
	f := vaulttest.NewFake(t)
	r := initialised(t, tokenConfig(t, f.Server, f.Root))
	f.SetFault(func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.HasSuffix(q.URL.Path, "/wrapping_key") {
			return false
		}
		vaulttest.Answer(w, 404, `{"errors":["1 error occurred:\n\t* unsupported path\n\n"]}`)
		return true
	})
	_, err := r.ImportKey(t.Context(), id, kms.Authentication, make([]byte, kms.KeySize))
	is(t, "import", err, kms.ErrUnsupported)
	newKey(t, r, kms.Authentication)
	if _, err := vault.Init(t.Context(), tokenConfig(t, f.Server, f.Root)); err != nil {
		t.Errorf("init: %v", err)
	}
}

// A key whose making had no answer is removed again.
func TestAKeyThatWasMadeInVainIsRemoved(t *testing.T) {
	f := vaulttest.NewFake(t)
	r := initialised(t, tokenConfig(t, f.Server, f.Root))
	f.SetFault(func(w http.ResponseWriter, q *http.Request) bool {
		if strings.Contains(q.URL.Path, "/decrypt/") {
			panic(http.ErrAbortHandler)
		}
		return false
	})
	_, err := r.NewKey(t.Context(), id, kms.Encryption)
	is(t, "new key", err, kms.ErrUnavailable)
	if n := len(f.TransitKeys()); n != 2 {
		t.Errorf("%d keys stay", n-2)
	}
}

func TestOnlyKeysWithThePrefixAreDestroyed(t *testing.T) {
	f := vaulttest.NewFake(t)
	cfg := tokenConfig(t, f.Server, f.Root)
	one := initialised(t, cfg)
	cfg.Prefix = "other-"
	two := initialised(t, cfg)
	handle := newKey(t, one, kms.Encryption)
	is(t, "destroy", two.DestroyKey(t.Context(), handle), kms.ErrDenied)
	ciphertext, err := two.Encrypt(t.Context(), handle, []byte("x"), nil) // a handle has the whole name
	check(t, err)
	if _, err := one.Decrypt(t.Context(), handle, ciphertext, nil); err != nil {
		t.Error(err)
	}
	check(t, one.DestroyKey(t.Context(), handle))
	check(t, one.DestroyKey(t.Context(), handle))
	if slices.ContainsFunc(f.TransitKeys(), func(name string) bool { return len(name) > 40 }) {
		t.Errorf("there are %q", f.TransitKeys())
	}
}

func TestInitIsDoneOnce(t *testing.T) {
	f := vaulttest.NewFake(t)
	cfg := tokenConfig(t, f.Server, f.Root)
	first, err := vault.Init(t.Context(), cfg)
	check(t, err)
	r := open(t, cfg)
	record, err := r.MAC(t.Context(), nil, []byte("message"))
	check(t, err)
	again, err := vault.Init(t.Context(), cfg)
	check(t, err)
	if !first.RecordKey || !first.StatusKey || again.RecordKey || again.StatusKey {
		t.Errorf("first %+v, then %+v", first, again)
	}
	if got, err := r.MAC(t.Context(), nil, []byte("message")); err != nil || got != record {
		t.Errorf("another record key, or %v", err)
	}
	// Without the record key, master keys are of no use; a new one would hide that
	// the right one was lost.
	newKey(t, r, kms.Encryption)
	f.Forget("keygate-record")
	if _, err := vault.Init(t.Context(), cfg); !errors.Is(err, kms.ErrDenied) || !strings.Contains(err.Error(), "lost") {
		t.Errorf("with the record key lost: %v", err)
	}
}

// A node that opens a ciphertext needs one call; what others need is in
// docs/root-vault.md.
func TestCallsForEachOperation(t *testing.T) {
	f := vaulttest.NewFake(t)
	cfg := tokenConfig(t, f.Server, f.Root)
	maker := initialised(t, cfg)
	encryption, authentication := newKey(t, maker, kms.Encryption), newKey(t, maker, kms.Authentication)
	r := open(t, cfg)
	var ciphertext []byte
	count := func(what string, want uint64, f func() error) {
		t.Helper()
		before := r.Stats().Requests
		check(t, f())
		if got := r.Stats().Requests - before; got != want {
			t.Errorf("%s: %d calls, not %d", what, got, want)
		}
	}
	encrypt := func() (err error) {
		ciphertext, err = r.Encrypt(t.Context(), encryption, []byte("x"), nil)
		return err
	}
	count("encrypt, the first time", 3, encrypt)
	count("encrypt", 1, encrypt)
	count("decrypt", 1, func() error { _, err := r.Decrypt(t.Context(), encryption, ciphertext, nil); return err })
	count("decrypt what is not authentic", 3, func() error {
		_, err := r.Decrypt(t.Context(), encryption, ciphertext, []byte("other"))
		if errors.Is(err, kms.ErrCiphertext) {
			return nil
		}
		return err
	})
	count("mac", 1, func() error { _, err := r.MAC(t.Context(), authentication, nil); return err })
	count("mac of a record", 1, func() error { _, err := r.MAC(t.Context(), nil, nil); return err })
	count("random", 1, func() error { return r.Random(t.Context(), make([]byte, 32)) })
	count("new key", 5, func() error { _, err := r.NewKey(t.Context(), id, kms.Encryption); return err })
	count("new MAC key", 3, func() error { _, err := r.NewKey(t.Context(), id, kms.Authentication); return err })
	count("import", 6, func() error {
		_, err := r.ImportKey(t.Context(), id, kms.Encryption, make([]byte, kms.KeySize))
		return err
	})
	count("destroy", 2, func() error { return r.DestroyKey(t.Context(), encryption) })
	time.Sleep(time.Second)
	count("status", 3, func() error { return r.Status(t.Context()) })
	count("status, within a second", 0, func() error { return r.Status(t.Context()) })
}

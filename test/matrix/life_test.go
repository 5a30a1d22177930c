package matrix_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/client"
	"github.com/keygate/keygate/kms"
)

// The answers that a client is told apart by: status and text.
var (
	errExists     = &api.Error{Status: 400, Message: "key already exists"}
	errCiphertext = &api.Error{Status: 400, Message: "decryption failed: ciphertext is not authentic"}
	errNotFound   = &api.Error{Status: 404, Message: "key does not exist"}
	errImport     = &api.Error{Status: 501, Message: "not supported"}
)

// A life is what a client does with a gateway, and what it remembers of it.
type life struct {
	t *testing.T
	c *client.Client

	sealed  []sealed          // what has to open again
	macs    map[string][]byte // of message, by key
	deleted string            // a key that was
}

// A sealed is a ciphertext and what is in it.
type sealed struct{ key, context, plaintext, ciphertext string }

const message = "a message"

func (l *life) ctx() context.Context { return l.t.Context() }

// first is all that a client can do with keys.
func (l *life) first(imports bool) {
	l.macs, l.deleted = map[string][]byte{}, "app-gone"
	for key, mode := range map[string]string{"app-branch": "branch", "app-direct": "direct", l.deleted: "branch"} {
		l.create(key, mode)
	}
	l.is("create twice", l.c.CreateKey(l.ctx(), "app-branch"), errExists)
	l.lists("app-branch", "app-direct", l.deleted)
	_, err := l.c.DescribeKey(l.ctx(), "app-none")
	l.is("describe no key", err, errNotFound)
	for _, key := range []string{"app-branch", "app-direct", l.deleted} {
		l.use(key)
	}
	l.batch("app-branch")
	l.batch("app-direct")
	l.imported(imports)
	l.changeMode("app-branch")
	l.ok("delete", l.c.DeleteKey(l.ctx(), l.deleted))
	l.again()
}

func (l *life) create(key, mode string) {
	l.t.Helper()
	l.ok("create "+key, l.c.CreateKeyWithMode(l.ctx(), key, mode))
	d, err := l.c.DescribeKey(l.ctx(), key)
	l.ok("describe", err)
	if d.Name != key || d.Mode != mode || d.State != "enabled" || d.Version != 1 || d.Imported || len(d.ID) != 32 {
		l.t.Errorf("%s is %+v", key, d)
	}
}

func (l *life) lists(want ...string) {
	l.t.Helper()
	names, err := l.c.ListKeys(l.ctx(), "app-")
	l.ok("list", err)
	if slices.Sort(want); !slices.Equal(names, want) {
		l.t.Errorf("the list is %q, want %q", names, want)
	}
}

// use makes a data key, encrypts, and computes a MAC.
func (l *life) use(key string) {
	l.t.Helper()
	plaintext, ciphertext, err := l.c.GenerateKey(l.ctx(), key, []byte("bucket/object"))
	l.ok("generate", err)
	if len(plaintext) != 32 {
		l.t.Errorf("a data key has %d bytes", len(plaintext))
	}
	l.keep(sealed{key, "bucket/object", string(plaintext), string(ciphertext)})
	_, err = l.c.Decrypt(l.ctx(), key, ciphertext, []byte("bucket/other"))
	l.is("decrypt in another context", err, errCiphertext)
	_, err = l.c.Decrypt(l.ctx(), key, ciphertext, nil)
	l.is("decrypt without the context", err, errCiphertext)

	large := make([]byte, 100_000)
	rand.Read(large)
	for _, plaintext := range [][]byte{nil, []byte("a secret"), large} {
		ciphertext, err := l.c.Encrypt(l.ctx(), key, plaintext, []byte("c"))
		l.ok("encrypt", err)
		l.keep(sealed{key, "c", string(plaintext), string(ciphertext)})
	}
	mac, err := l.c.HMAC(l.ctx(), key, []byte(message))
	l.ok("hmac", err)
	for other, m := range l.macs {
		if bytes.Equal(m, mac) {
			l.t.Errorf("%s and %s have one MAC", key, other)
		}
	}
	l.macs[key] = mac
}

func (l *life) keep(s sealed) {
	l.t.Helper()
	l.sealed = append(l.sealed, s)
	l.opens(s)
}

func (l *life) opens(s sealed) {
	l.t.Helper()
	plaintext, err := l.c.Decrypt(l.ctx(), s.key, []byte(s.ciphertext), []byte(s.context))
	l.ok("decrypt under "+s.key, err)
	if string(plaintext) != s.plaintext {
		l.t.Errorf("a ciphertext under %s opens as something else", s.key)
	}
}

// batch makes ten data keys at once, and opens them with one whose context is
// another's.
func (l *life) batch(key string) {
	l.t.Helper()
	keys, err := l.c.GenerateKeys(l.ctx(), key, 10, []byte("batch"))
	l.ok("batch generate", err)
	var list []client.Ciphertext
	for _, k := range keys {
		list = append(list, client.Ciphertext{Ciphertext: k.Ciphertext, Context: []byte("batch")})
		l.sealed = append(l.sealed, sealed{key, "batch", string(k.Plaintext), string(k.Ciphertext)})
	}
	list[3].Context = []byte("another")
	opened, err := l.c.DecryptBatch(l.ctx(), key, list)
	l.ok("batch decrypt", err)
	if len(opened) != len(keys) {
		l.t.Fatalf("%d of %d are answered", len(opened), len(keys))
	}
	for i, o := range opened {
		switch {
		case i == 3 && !errors.Is(o.Err, kms.ErrCiphertext):
			l.t.Errorf("item 3 of the batch: %v", o.Err)
		case i != 3 && (o.Err != nil || !bytes.Equal(o.Plaintext, keys[i].Plaintext)):
			l.t.Errorf("item %d of the batch: another plaintext, or %v", i, o.Err)
		}
	}
}

// imported brings a key of the client's, where the root can.
func (l *life) imported(can bool) {
	l.t.Helper()
	key := make([]byte, 32)
	rand.Read(key)
	err := l.c.ImportKey(l.ctx(), "app-import", key)
	if !can {
		l.is("import", err, errImport)
		return
	}
	l.ok("import", err)
	d, err := l.c.DescribeKey(l.ctx(), "app-import")
	l.ok("describe", err)
	if !d.Imported {
		l.t.Error("a key that was imported is not said to be")
	}
	l.use("app-import")
}

func (l *life) changeMode(key string) {
	l.t.Helper()
	l.ok("mode", l.c.SetKeyMode(l.ctx(), key, "direct"))
	d, err := l.c.DescribeKey(l.ctx(), key)
	l.ok("describe", err)
	if d.Mode != "direct" {
		l.t.Errorf("the mode is %s", d.Mode)
	}
	plaintext, ciphertext, err := l.c.GenerateKey(l.ctx(), key, nil)
	l.ok("generate", err)
	l.keep(sealed{key, "", string(plaintext), string(ciphertext)})
}

// again checks that all is as it was: what was sealed opens, MACs are the same, and
// what was deleted is neither of use nor free.
func (l *life) again() {
	l.t.Helper()
	for _, s := range l.sealed {
		if s.key != l.deleted {
			l.opens(s)
			continue
		}
		_, err := l.c.Decrypt(l.ctx(), s.key, []byte(s.ciphertext), []byte(s.context))
		l.isPending("decrypt", err)
	}
	for key, want := range l.macs {
		mac, err := l.c.HMAC(l.ctx(), key, []byte(message))
		if key == l.deleted {
			l.isPending("hmac", err)
			continue
		}
		l.ok("hmac", err)
		if !bytes.Equal(mac, want) {
			l.t.Errorf("the MAC under %s is another", key)
		}
	}
	_, _, err := l.c.GenerateKey(l.ctx(), l.deleted, nil)
	l.isPending("generate", err)
	l.isPending("create", l.c.CreateKey(l.ctx(), l.deleted))
	d, err := l.c.DescribeKey(l.ctx(), l.deleted)
	l.ok("describe", err)
	if d.State != "pending deletion" {
		l.t.Errorf("a deleted key is %s", d.State)
	}
}

// forgotten checks that nothing is left, and that this is said as it is.
func (l *life) forgotten() {
	l.t.Helper()
	l.lists()
	_, err := l.c.Decrypt(l.ctx(), l.sealed[0].key, []byte(l.sealed[0].ciphertext), nil)
	l.is("decrypt under a key that was lost", err, errNotFound)
}

func (l *life) ok(what string, err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatalf("%s: %v", what, err)
	}
}

// is checks status and text of an answer.
func (l *life) is(what string, err error, want *api.Error) {
	l.t.Helper()
	if e, there := errors.AsType[*api.Error](err); !there || *e != *want {
		l.t.Fatalf("%s: %v, want %d %s", what, err, want.Status, want.Message)
	}
}

func (l *life) isPending(what string, err error) {
	l.t.Helper()
	const text = "key is pending deletion: neither it nor its name can be used"
	if e, there := errors.AsType[*api.Error](err); !there || e.Status != 409 || !strings.HasPrefix(e.Message, text) {
		l.t.Fatalf("%s with a deleted key: %v", what, err)
	}
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/keygate/keygate/awskms"
	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/etcd"
	"github.com/keygate/keygate/keystore/fs"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/keystore/postgres"
	"github.com/keygate/keygate/keystore/secretsmanager"
	"github.com/keygate/keygate/keystore/vaultkv"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/local"
	"github.com/keygate/keygate/vault"
)

type keyStoreSection struct {
	FS       *fs.Config             `yaml:"fs"`
	Memory   *struct{}              `yaml:"memory"`
	Etcd     *etcd.Config           `yaml:"etcd"`
	Postgres *postgres.Config       `yaml:"postgres"`
	Vault    *vaultkv.Config        `yaml:"vault"`
	AWS      *secretsmanager.Config `yaml:"secretsmanager"`
}

type rootSection struct {
	singleRoot `yaml:",inline"`
	Mirror     *mirrorSection `yaml:"mirror"`
}

// A singleRoot is a root of trust of which a mirror is made.
type singleRoot struct {
	PKCS11 *hsm.Config    `yaml:"pkcs11"`
	Vault  *vault.Config  `yaml:"vault"`
	AWSKMS *awskms.Config `yaml:"awskms"`
	Local  *local.Config  `yaml:"local"`
}

// A driver is one kind of root of trust or of key store: a section of the file,
// and what is made of it.
type driver[T any] struct {
	name string // of its section
	// configured reports whether the file has the section, with something in it.
	configured func(*file) bool
	// check returns what is wrong with the section: errors, joined, of the form
	// "package: field: text" or "package: text".
	check func(*file) error
	// about describes what is configured, in pairs for the log.
	about func(*file) []any
	// open opens it. An error ends the start of the gateway: what is only out of
	// reach is none.
	open func(context.Context, *configuration, *slog.Logger) (T, error)
	// init makes what a key store or a root needs before it can be opened, and does
	// nothing if that is there already. Nil: nothing is needed.
	init func(context.Context, *configuration) error
}

// roots are the kinds of roots of trust.
var roots = append(slices.Clone(singleRoots), mirrorRoot)

// singleRoots are those that are not made of others.
var singleRoots = []driver[kms.Root]{
	{
		name:       "pkcs11",
		configured: func(f *file) bool { return f.Root.PKCS11 != nil },
		check:      func(f *file) error { return f.Root.PKCS11.Check() },
		about:      func(f *file) []any { return []any{"module", f.Root.PKCS11.Module, "token", f.Root.PKCS11.Names()} },
		open: func(ctx context.Context, c *configuration, log *slog.Logger) (kms.Root, error) {
			return hsm.Open(ctx, *c.Root.PKCS11, log)
		},
		init: func(context.Context, *configuration) error {
			return errors.New("the root keys of a token are made by keygate hsm init")
		},
	},
	{
		name:       "local",
		configured: func(f *file) bool { return f.Root.Local != nil },
		check:      func(f *file) error { return f.Root.Local.Check() },
		about:      func(f *file) []any { return []any{"file", f.Root.Local.File} },
		open: func(_ context.Context, c *configuration, log *slog.Logger) (kms.Root, error) {
			log.Warn("keygate: root.local keeps the root key in a file and in the memory of this process: whoever reads either has all keys; it is for trials, not for production",
				"file", c.Root.Local.File)
			return local.Open(*c.Root.Local)
		},
		init: func(_ context.Context, c *configuration) error {
			_, err := local.Init(*c.Root.Local)
			return err
		},
	},
	{
		name:       "awskms",
		configured: func(f *file) bool { return f.Root.AWSKMS != nil },
		check:      func(f *file) error { return f.Root.AWSKMS.Check() },
		about:      func(f *file) []any { return f.Root.AWSKMS.About() },
		open: func(ctx context.Context, c *configuration, log *slog.Logger) (kms.Root, error) {
			return awskms.Open(ctx, *c.Root.AWSKMS, log)
		},
		init: func(ctx context.Context, c *configuration) error {
			_, err := awskms.Init(ctx, *c.Root.AWSKMS, slog.New(slog.NewTextHandler(os.Stderr, nil)))
			return err
		},
	},
	{
		name:       "vault",
		configured: func(f *file) bool { return f.Root.Vault != nil },
		check:      func(f *file) error { return f.Root.Vault.Check() },
		about: func(f *file) []any {
			return []any{"address", f.Root.Vault.Address, "mount", cmp.Or(f.Root.Vault.Mount, vault.DefaultMount), "prefix", cmp.Or(f.Root.Vault.Prefix, vault.DefaultPrefix)}
		},
		open: func(ctx context.Context, c *configuration, log *slog.Logger) (kms.Root, error) {
			return vault.Open(ctx, *c.Root.Vault, log)
		},
		init: func(ctx context.Context, c *configuration) error {
			_, err := vault.Init(ctx, *c.Root.Vault)
			return err
		},
	},
}

// keyStores are the kinds of key stores. One that is not there is no error of its
// open: the gateway starts, and answers 503 until it is.
var keyStores = []driver[keystore.Store]{
	{
		name:       "fs",
		configured: func(f *file) bool { return f.KeyStore.FS != nil },
		check:      func(f *file) error { return checkDirectory(f.KeyStore.FS) },
		about:      func(f *file) []any { return []any{"path", f.KeyStore.FS.Path} },
		open: func(_ context.Context, c *configuration, _ *slog.Logger) (keystore.Store, error) {
			return fs.Open(*c.KeyStore.FS, c.cluster.String())
		},
		init: func(_ context.Context, c *configuration) error {
			return initDirectory(*c.KeyStore.FS, c.cluster.String())
		},
	},
	{
		name:       "memory",
		configured: func(f *file) bool { return f.KeyStore.Memory != nil },
		check:      func(*file) error { return nil },
		about:      func(*file) []any { return nil },
		open: func(_ context.Context, _ *configuration, log *slog.Logger) (keystore.Store, error) {
			log.Warn("keygate: keystore.memory keeps keys in this process only: they are lost when it ends")
			return memory.New(), nil
		},
	},
	{
		name:       "etcd",
		configured: func(f *file) bool { return f.KeyStore.Etcd != nil },
		check:      func(f *file) error { return f.KeyStore.Etcd.Check() },
		about: func(f *file) []any {
			return []any{"endpoints", f.KeyStore.Etcd.Endpoints, "prefix", f.KeyStore.Etcd.Prefix}
		},
		open: func(_ context.Context, c *configuration, _ *slog.Logger) (keystore.Store, error) {
			return etcd.Open(*c.KeyStore.Etcd, c.cluster.String())
		},
		init: func(ctx context.Context, c *configuration) error {
			return etcd.Init(ctx, *c.KeyStore.Etcd, c.cluster.String())
		},
	},
	{
		name:       "postgres",
		configured: func(f *file) bool { return f.KeyStore.Postgres != nil },
		check:      func(f *file) error { return f.KeyStore.Postgres.Check() },
		about: func(f *file) []any {
			return []any{"hosts", f.KeyStore.Postgres.Hosts, "schema", f.KeyStore.Postgres.Schema}
		},
		open: func(_ context.Context, c *configuration, _ *slog.Logger) (keystore.Store, error) {
			return postgres.Open(*c.KeyStore.Postgres, c.cluster.String())
		},
		init: func(ctx context.Context, c *configuration) error {
			return postgres.Init(ctx, *c.KeyStore.Postgres, c.cluster.String())
		},
	},
	{
		name:       "secretsmanager",
		configured: func(f *file) bool { return f.KeyStore.AWS != nil },
		check:      func(f *file) error { return f.KeyStore.AWS.Check() },
		about:      func(f *file) []any { return f.KeyStore.AWS.About() },
		open: func(ctx context.Context, c *configuration, _ *slog.Logger) (keystore.Store, error) {
			return secretsmanager.Open(ctx, *c.KeyStore.AWS, c.cluster.String())
		},
		init: func(ctx context.Context, c *configuration) error {
			return secretsmanager.Init(ctx, *c.KeyStore.AWS, c.cluster.String())
		},
	},
	{
		name:       "vault",
		configured: func(f *file) bool { return f.KeyStore.Vault != nil },
		check:      func(f *file) error { return f.KeyStore.Vault.Check() },
		about: func(f *file) []any {
			return []any{"address", f.KeyStore.Vault.Address, "mount", cmp.Or(f.KeyStore.Vault.Mount, vaultkv.DefaultMount), "path", cmp.Or(f.KeyStore.Vault.Path, vaultkv.DefaultPath)}
		},
		open: func(_ context.Context, c *configuration, log *slog.Logger) (keystore.Store, error) {
			return vaultkv.Open(*c.KeyStore.Vault, c.cluster.String(), log)
		},
		init: func(ctx context.Context, c *configuration) error {
			return vaultkv.Init(ctx, *c.KeyStore.Vault, c.cluster.String())
		},
	},
}

// configured returns the driver whose section the file has.
func configured[T any](drivers []driver[T], f *file) driver[T] {
	i := slices.IndexFunc(drivers, func(d driver[T]) bool { return d.configured(f) })
	return drivers[i] // checkDriver has seen it
}

// checkDriver looks at a section of the file that has exactly one of drivers.
func checkDriver[T any](c *configuration, y *yamlFile, section string, drivers []driver[T]) {
	var names []string
	for _, d := range drivers {
		names = append(names, d.name)
	}
	there := y.keys(section)
	if len(there) != 1 {
		y.failAt(at(section), "%s is exactly one of %s, not %d", section, strings.Join(names, ", "), len(there))
		return
	}
	i := slices.IndexFunc(drivers, func(d driver[T]) bool { return d.name == there[0] })
	if i < 0 {
		return // a key that is not known: it has been reported
	}
	d := drivers[i]
	if !d.configured(&c.file) {
		y.failAt(at(section, d.name), "%s.%s is empty", section, d.name)
		return
	}
	for _, err := range each(d.check(&c.file)) {
		_, text, _ := strings.Cut(err.Error(), ": ")
		field, _, found := strings.Cut(text, ":")
		path := at(section, d.name)
		if found && !strings.Contains(field, " ") {
			path = append(path, steps(field)...)
		}
		y.failAt(path, "%s", fmt.Sprintf("%s.%s.%s", section, d.name, text))
	}
}

func (c *configuration) checkKeyStore(y *yamlFile) { checkDriver(c, y, "keystore", keyStores) }

func (c *configuration) checkRoot(y *yamlFile) { checkDriver(c, y, "root", roots) }

// steps splits a dotted path.
func steps(path string) []any {
	var all []any
	for step := range strings.SplitSeq(path, ".") {
		all = append(all, step)
	}
	return all
}

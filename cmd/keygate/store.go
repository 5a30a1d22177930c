package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/keystore/fs"
)

func newStoreCommand() *cobra.Command {
	return group("store", "Prepare a key store", newStoreInitCommand())
}

func newStoreInitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init --config FILE",
		Short: "Make the key store of a configuration",
		Long: `Make the key store of a configuration: in each of them the identity of the
cluster, without which a gateway takes nothing for its key store, and
  fs              the directory, which must not exist yet or be empty, in one that
                  exists. Run it as the user that the gateway runs as: it refuses a
                  directory of another
  etcd            nothing else, below a prefix that holds nothing
  postgres        the schema and its tables, made as keystore.postgres.owner
  vault           nothing else, below a path that holds nothing
  secretsmanager  nothing else: a secret that holds the identity
  memory          nothing: it begins empty with each start of the gateway

To do it again changes nothing.`,
		Args: cobra.NoArgs,
	}
	path := configFlag(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := load(*path, []sectionCheck{(*configuration).checkCluster, (*configuration).checkKeyStore})
		if err != nil {
			return err
		}
		store := configured(keyStores, &cfg.file)
		result := storeResult{Cluster: cfg.cluster.String(), KeyStore: store.name, About: pairs(store.about(&cfg.file))}
		if cfg.KeyStore.FS != nil {
			result.Path = cfg.KeyStore.FS.Path
		}
		if store.init != nil {
			if err := store.init(cmd.Context(), cfg); err != nil {
				return err
			}
		}
		if cfg.KeyStore.FS != nil {
			warnOwner(cmd.ErrOrStderr(), os.Geteuid())
		}
		return printResult(cmd.OutOrStdout(), *asJSON, result, result.text)
	}
	return cmd
}

func checkDirectory(cfg *fs.Config) error {
	if cfg.Path == "" {
		return errors.New("fs: path: it is missing")
	}
	return nil
}

func initDirectory(cfg fs.Config, cluster string) error {
	parent := filepath.Dir(cfg.Path)
	if _, err := os.Stat(parent); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keystore.fs.path: %s does not exist: make it, or mount it, first", parent)
	}
	return fs.Init(cfg, cluster)
}

// warnOwner warns root, whose directory a gateway of another user could not use.
func warnOwner(w io.Writer, uid int) {
	if uid == 0 {
		fmt.Fprintln(w, "keygate: warning: the key store was made as root: a gateway that runs as another user cannot use it; store init is for that user to run (runuser -u keygate -- keygate store init ...)")
	}
}

// A storeResult is what store init prints.
type storeResult struct {
	KeyStore string      `json:"keystore"`
	Path     string      `json:"path,omitempty"` // of fs
	Cluster  string      `json:"cluster"`
	About    [][2]string `json:"about"`
}

func (r storeResult) text(w io.Writer) {
	fmt.Fprintf(w, "key store:\t%s\ncluster:\t%s\n", r.KeyStore, r.Cluster)
	for _, pair := range r.About {
		fmt.Fprintf(w, "%s:\t%s\n", pair[0], pair[1])
	}
}

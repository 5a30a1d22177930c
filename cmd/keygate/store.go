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
		Long: `Make the key store of a configuration: for keystore.fs the directory, which must
not exist yet or be empty, in one that exists; for keystore.etcd nothing but the
identity, below a prefix that holds nothing; for keystore.postgres the schema and
its tables, made as keystore.postgres.owner; and in it the identity of the
cluster. A gateway takes nothing for its key store that does not bear the
identity. For keystore.secretsmanager it is a secret with the identity.

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
		result := storeResult{Cluster: cfg.cluster.String(), KeyStore: store.name}
		if cfg.KeyStore.FS != nil {
			result.Path = cfg.KeyStore.FS.Path
		}
		if store.init != nil {
			if err := store.init(cmd.Context(), cfg); err != nil {
				return err
			}
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

// A storeResult is what store init prints.
type storeResult struct {
	KeyStore string `json:"keystore"`
	Path     string `json:"path,omitempty"`
	Cluster  string `json:"cluster"`
}

func (r storeResult) text(w io.Writer) {
	fmt.Fprintf(w, "key store:\t%s %s\ncluster:\t%s\n", r.KeyStore, r.Path, r.Cluster)
}

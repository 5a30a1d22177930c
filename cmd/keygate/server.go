package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/audit"
	"github.com/keygate/keygate/gateway"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/kms"
)

func newServerCommand() *cobra.Command {
	var address, refused string
	cmd := &cobra.Command{
		Use:   "server --config FILE",
		Short: "Run a gateway",
		Long: `Run a gateway, in the foreground, until SIGTERM or SIGINT: then it takes no more
requests and ends when those that run have been answered, within ten seconds.

SIGHUP has it read the configuration again: admin, policies, TLS files, the api
section, keys and log levels take effect at once, all of them, or, if anything is wrong
with the file, none. It also opens the audit log anew, for its rotation. The TLS
files are also read again by themselves when they change.

Errors are JSON lines on standard error. Audit entries are, unless audit.file is
set, JSON lines on standard output.`,
		Args: cobra.NoArgs,
	}
	path := configFlag(cmd)
	cmd.Flags().StringVar(&address, "addr", "", "listen on `HOST:PORT`, in the place of the configuration's address")
	cmd.Flags().StringVar(&refused, "pin-refused", "", "make this `FILE` when the token refuses the PIN, and do not try the same PIN again while it is there")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := harden(); err != nil {
			return err
		}
		tuneGC()
		cfg, err := load(*path, everything)
		if err != nil {
			return err
		}
		if address == "" {
			address = cfg.Address
		} else if err := checkAddress(address); err != nil {
			return fmt.Errorf("--addr: %w", err)
		}
		pin := refusedPIN(refused)
		if cfg.Root.PKCS11 != nil {
			if err := pin.check(cfg.Root.PKCS11.PIN); err != nil {
				return err
			}
		}
		cfg.pinRefused = pin
		return pin.remember(serve(cmd.Context(), cfg, address))
	}
	return cmd
}

// configFlag adds the required flag --config.
func configFlag(cmd *cobra.Command) *string {
	path := cmd.Flags().StringP("config", "c", "", "configuration `FILE`")
	cobra.CheckErr(cmd.MarkFlagRequired("config")) // fails only for a flag that does not exist
	cobra.CheckErr(cmd.MarkFlagFilename("config", "yaml", "yml"))
	return path
}

// A node is a running gateway and all that it is made of.
type node struct {
	cfg    *configuration // what is in force; replaced by a reload
	log    *slog.Logger
	level  *slog.LevelVar
	trail  *audit.Log
	root   kms.Root
	store  keystore.Store
	kms    *kms.KMS
	server *gateway.Server

	tlsProblem string // the last that was logged, so that it is not logged each minute
}

// serve runs a gateway until it is told to stop.
func serve(ctx context.Context, cfg *configuration, address string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)

	n := &node{cfg: cfg, level: new(slog.LevelVar)}
	if err := n.open(ctx); err != nil {
		return errors.Join(err, n.close())
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return errors.Join(err, n.close())
	}
	n.log.Info("keygate: listening", "address", ln.Addr().String())

	background, cancel := context.WithCancel(ctx)
	watched := n.watch(background, hangup)
	checked := make(chan struct{})
	go func() {
		defer close(checked)
		n.checkStore(background)
	}()
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		n.kms.Follow(background)
	}()
	err = n.server.Serve(ctx, ln)
	cancel()
	<-watched
	<-checked
	<-followed
	n.log.Info("keygate: stopped")
	return errors.Join(err, n.close())
}

// open makes all parts of the node, from the bottom to the top.
func (n *node) open(ctx context.Context) error {
	n.level.Set(n.cfg.logLevel)
	errorLog := gateway.NewErrorLog(os.Stderr, n.level)
	n.log = errorLog.Logger()
	n.announce()
	var err error
	auditConfig := n.cfg.Audit
	auditConfig.Off, auditConfig.Logger = n.cfg.auditOff, n.log
	if n.trail, err = audit.Open(auditConfig); err != nil {
		return err
	}
	root, err := configured(roots, &n.cfg.file).open(ctx, n.cfg, n.log)
	if err != nil {
		return err
	}
	n.root = root // not before: with an error it may be a nil pointer in an interface that is not nil
	if err := n.useTokenKeys(ctx); err != nil {
		return err
	}
	store, err := configured(keyStores, &n.cfg.file).open(ctx, n.cfg, n.log)
	if err != nil {
		return err
	}
	n.store = store
	if n.kms, err = kms.New(n.cfg.kms(n.log), n.root, n.store); err != nil {
		return err
	}
	version := thisVersion()
	n.server, err = gateway.New(gateway.Config{
		KMS: n.kms, Audit: n.trail, ErrorLog: errorLog, Version: version.Version, Commit: version.Commit,
		Root: configured(roots, &n.cfg.file).name, Limits: n.limits(),
		Figures: rootFigures(n.root, &n.cfg.file), Attest: n.attester(version.Version),
	}, n.cfg.state)
	return err
}

func (n *node) announce() {
	v := thisVersion()
	root, store := configured(roots, &n.cfg.file), configured(keyStores, &n.cfg.file)
	n.log.Info("keygate: starting", "version", v.Version, "commit", v.Commit, "go", v.Go,
		"fips", v.FIPS, "fips_module", v.FIPSModule, "config", n.cfg.path, "cluster", n.cfg.cluster.String(),
		slog.Group("root", append([]any{"kind", root.name}, root.about(&n.cfg.file)...)...),
		slog.Group("keystore", append([]any{"kind", store.name}, store.about(&n.cfg.file)...)...))
	if err := lockMemory(); err != nil {
		n.log.Warn("keygate: memory is not locked: run without swap, or raise the limit of locked memory", "error", err)
	}
	if n.cfg.auditOff {
		n.log.Warn("keygate: log.audit drops all audit entries")
	}
}

// limits returns the limits of the configuration, as far as the operating system
// has room for them.
func (n *node) limits() gateway.LimitsConfig {
	l := n.cfg.Limits.WithDefaults()
	if fits := fitDescriptors(l.Connections); fits < l.Connections {
		n.log.Warn("keygate: fewer connections than limits.connections: raise the limit of open files", "connections", fits, "configured", l.Connections)
		l.Connections, l.Source = fits, min(l.Source, fits)
	}
	return l
}

// close releases what open has made, from the top to the bottom.
func (n *node) close() error {
	var errs []error
	if n.trail != nil {
		n.trail.EndCheckpoints() // while there is a key to sign the last one with
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	if n.root != nil {
		errs = append(errs, n.root.Close())
	}
	if n.trail != nil {
		errs = append(errs, n.trail.Close())
	}
	return errors.Join(errs...)
}

// storeCheck bounds the look at the key store at the start.
const storeCheck = 10 * time.Second

// checkStore says why the key store cannot be used at the start: requests only tell
// that it cannot.
func (n *node) checkStore(ctx context.Context) {
	checking, cancel := context.WithTimeout(ctx, storeCheck)
	defer cancel()
	if err := n.store.Status(checking); err != nil && ctx.Err() == nil {
		n.log.Warn("keygate: the key store cannot be used: key operations are refused until it can", "error", err)
	}
}

// tlsInterval is how often the TLS files are looked at for changes.
const tlsInterval = time.Minute

// watch makes the keys of the configuration, and then reacts to signals and to
// changes of the TLS files until ctx ends. The channel is closed when it has.
func (n *node) watch(ctx context.Context, hangup <-chan os.Signal) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(tlsInterval)
		defer tick.Stop()
		retry := time.NewTimer(0)
		defer retry.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
				n.hangup()
				retry.Reset(0)
			case <-tick.C:
				n.renewTLS()
			case <-retry.C:
				if !n.makeKeys(ctx) {
					retry.Reset(keyRetry)
				}
			}
		}
	}()
	return done
}

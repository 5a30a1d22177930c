package hsm_test

import (
	"testing"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/kms/roottest"
)

func isolated(cfg hsm.Config) hsm.Config {
	cfg.Isolation = hsm.IsolationWorker
	return cfg
}

func TestRootInAWorker(t *testing.T) {
	roottest.Run(t, func(t *testing.T) kms.Root { return hsmtest.Open(t, isolated(hsmtest.Config(t))) })
}

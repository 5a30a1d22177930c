package postgres

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keygate/keygate/keystore"
)

// SQLSTATEs, PostgreSQL 15 appendix A.
const (
	classAuthorization = "28"
	classRollback      = "40"    // serialization failures and deadlocks
	classResources     = "53"    // connections, memory, disk
	classShutdown      = "57P"   // of the server, or of this connection
	privilege          = "42501" // insufficient_privilege
	cancelled          = "57014" // statement_timeout among them
	lockTimeout        = "55P03"
	readOnly           = "25006"
)

// missing are what a database says that is not, or not yet, a key store.
var missing = []string{"3D000", "3F000", "42P01", "42703"}

// errNoIdentity is of a store that has lost its identity, or was never finished.
var errNoIdentity = errors.New("there is no identity: not a key store")

// A verdict is what an error means.
type verdict struct {
	class error // of package keystore
	again bool  // another try may do better
	doubt bool  // the statement may have been done
}

// An unprepared is why a statement was not prepared, and so not run.
type unprepared struct{ error }

// judge says which error of package keystore a failed statement is. A refusal is
// certain; all else is unknown. That something does not exist is never concluded
// from an error.
func judge(err error) verdict {
	if errors.Is(err, errNoIdentity) {
		return verdict{class: keystore.ErrUnavailable}
	}
	if before, ok := errors.AsType[*unprepared](err); ok {
		v := judge(before.error)
		v.doubt = false
		return v
	}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		// Of the network, or of time.
		return verdict{keystore.ErrUnavailable, true, !pgconn.SafeToRetry(err)}
	}
	v := verdict{class: keystore.ErrUnavailable, doubt: pg.Severity != "ERROR"}
	switch {
	case pg.Code == privilege || strings.HasPrefix(pg.Code, classAuthorization):
		v.class = keystore.ErrDenied
	case slices.Contains(missing, pg.Code):
	default:
		v.again = retryable(pg.Code)
	}
	return v
}

func retryable(code string) bool {
	for _, class := range []string{classRollback, classResources, classShutdown, cancelled, lockTimeout, readOnly, "08"} {
		if strings.HasPrefix(code, class) {
			return true
		}
	}
	return false
}

// classify returns err as an error of package keystore.
func classify(call string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %s: %w", judge(err).class, call, err)
}

func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{keystore.ErrUnavailable}, args...)...)
}

var errDoubt = fmt.Errorf("%w: the answer to an earlier try was lost, and what is there now does not say whether it was done", keystore.ErrUnavailable)

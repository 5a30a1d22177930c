package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/postgres"
	"github.com/keygate/keygate/keystore/storetest/servers"
)

// recovery is how long a store may take until it serves again, once the server can.
const recovery = 5 * time.Second

// TestKS28_TheServerIsKilledDuringCommits kills the server, by SIGKILL, while names
// are created: each create that was acknowledged is there, with what it wrote, and no
// create meets itself.
func TestKS28_TheServerIsKilledDuringCommits(t *testing.T) {
	t.Parallel()
	p := servers.OwnPostgres(t)
	s := open(t, newStore(t, p))
	const writers = 8
	var acknowledged sync.Map // name -> record
	var done, unknown atomic.Int64
	end := make(chan struct{})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-end:
					return
				default:
				}
				name := fmt.Sprintf("app-%d-%d", w, n)
				switch err := s.Create(t.Context(), name, []byte("record of "+name)); {
				case err == nil:
					acknowledged.Store(name, "record of "+name)
					done.Add(1)
				case errors.Is(err, keystore.ErrUnavailable):
					unknown.Add(1)
				default:
					t.Errorf("%s: %v", name, err) // ErrExists of one's own, above all
				}
			}
		})
	}
	for range servers.Long(2, 50) {
		before := done.Load()
		for end := time.Now().Add(2 * recovery); done.Load() < before+50; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("no creates")
			}
		}
		p.Kill(t)
		p.Start(t)
		start := time.Now()
		for get(t, s, "none") != nil && !errors.Is(get(t, s, "none"), keystore.ErrNotFound) {
			if time.Since(start) > recovery {
				t.Fatalf("not well %v after the server is", recovery)
			}
		}
	}
	close(end)
	wg.Wait()
	t.Logf("%d creates acknowledged, of %d it is not known", done.Load(), unknown.Load())
	acknowledged.Range(func(name, record any) bool {
		got, _, err := s.Get(t.Context(), name.(string))
		if err != nil || string(got) != record {
			t.Errorf("%s, which was acknowledged, holds %q, %v", name, got, err)
		}
		return true
	})
}

// TestKS30_StatementsThatAreRolledBack has a trigger fail the first statements with
// what the server says to who should try again.
func TestKS30_StatementsThatAreRolledBack(t *testing.T) {
	t.Parallel()
	p := servers.SharedPostgres(t)
	for code, times := range map[string]int{"40001": 3, "40P01": 3, "55P03": 2, "53300": 2} {
		t.Run(code, func(t *testing.T) {
			cfg := newStore(t, p)
			s := open(t, cfg)
			failWrites(t, p, cfg, code, times)
			want(t, "create", s.Create(t.Context(), "app", []byte("one")), nil)
			_, rev, err := s.Get(t.Context(), "app")
			want(t, "get", err, nil)
			failWrites(t, p, cfg, code, times)
			want(t, "update", s.Update(t.Context(), "app", []byte("two"), rev), nil)
			failWrites(t, p, cfg, code, 1_000_000)
			before := failures(t, p, cfg)
			start := time.Now()
			want(t, "create", s.Create(t.Context(), "new", nil), keystore.ErrUnavailable)
			tries := failures(t, p, cfg) - before
			if took := time.Since(start); took > postgres.DefaultTimeout+time.Second || tries > 50 {
				t.Errorf("%d tries in %v", tries, took)
			}
			want(t, "absent", get(t, s, "new"), keystore.ErrNotFound)
		})
	}
}

// failWrites has the next writes of a store fail with an SQLSTATE. A sequence counts
// them, as it is not rolled back.
func failWrites(t *testing.T, p servers.Postgres, cfg postgres.Config, code string, times int) {
	t.Helper()
	schema := cfg.Schema
	admin(t, p,
		"DROP SEQUENCE IF EXISTS "+schema+".failures",
		"CREATE SEQUENCE "+schema+".failures",
		"GRANT USAGE ON SEQUENCE "+schema+".failures TO gateway",
		fmt.Sprintf(`CREATE OR REPLACE FUNCTION %s.fail() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				IF nextval('%s.failures') <= %d THEN
					RAISE EXCEPTION USING ERRCODE = '%s', MESSAGE = 'a test';
				END IF;
				RETURN NEW;
			END $$`, schema, schema, times, code),
		fmt.Sprintf("CREATE OR REPLACE TRIGGER fail BEFORE INSERT OR UPDATE ON %s.records FOR EACH ROW EXECUTE FUNCTION %s.fail()", schema, schema))
}

func failures(t *testing.T, p servers.Postgres, cfg postgres.Config) (n int) {
	t.Helper()
	err := administrator(t, p).QueryRow(t.Context(), "SELECT last_value FROM "+cfg.Schema+".failures").Scan(&n)
	want(t, "failures", err, nil)
	return n
}

// TestKS30_ADeadlock makes a real one: an update locks "a" and then wants "b", which
// another has who then wants "a".
func TestKS30_ADeadlock(t *testing.T) {
	t.Parallel()
	p := servers.OwnPostgres(t)
	cfg := newStore(t, p)
	s := open(t, cfg)
	for _, name := range []string{"a", "b"} {
		want(t, "create", s.Create(t.Context(), name, []byte("one")), nil)
	}
	want(t, "close", s.Close(), nil)
	admin(t, p, "ALTER ROLE gateway SET deadlock_timeout = '400ms'", // before the other looks, so it is the one that is rolled back
		fmt.Sprintf(`CREATE FUNCTION %s.second() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				PERFORM FROM %s.records WHERE name = 'b' FOR UPDATE;
				RETURN NULL;
			END $$`, cfg.Schema, cfg.Schema),
		fmt.Sprintf("CREATE TRIGGER second AFTER UPDATE ON %s.records FOR EACH ROW WHEN (NEW.name = 'a') EXECUTE FUNCTION %s.second()", cfg.Schema, cfg.Schema))
	s = open(t, cfg)
	_, rev, err := s.Get(t.Context(), "a")
	want(t, "get", err, nil)

	conn := administrator(t, p)
	tx := lock(t, conn, cfg, "b")
	updated := make(chan error)
	go func() { updated <- s.Update(t.Context(), "a", []byte("two"), rev) }()
	waits(t, p)
	_, err = tx.Exec(t.Context(), "SELECT FROM "+cfg.Schema+".records WHERE name = 'a' FOR UPDATE")
	want(t, "lock the other", err, nil)
	want(t, "rollback", tx.Rollback(t.Context()), nil)
	want(t, "update", <-updated, nil)
	log, err := os.ReadFile(p.File("postgres.log"))
	want(t, "log", err, nil)
	if !strings.Contains(string(log), "deadlock detected") {
		t.Errorf("there was no deadlock:\n%s", log)
	}
}

// lock locks a record until the transaction ends.
func lock(t *testing.T, conn *pgx.Conn, cfg postgres.Config, name string) pgx.Tx {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	want(t, "begin", err, nil)
	_, err = tx.Exec(t.Context(), "SELECT FROM "+cfg.Schema+".records WHERE name = $1 FOR UPDATE", name)
	want(t, "lock", err, nil)
	return tx
}

// waits returns when a statement of the gateway waits for a lock.
func waits(t *testing.T, p servers.Postgres) {
	t.Helper()
	conn := administrator(t, p)
	for range 1000 {
		var n int
		err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'gateway'").Scan(&n)
		want(t, "activity", err, nil)
		if n > 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("nothing waits for the lock")
}

// TestKS30_APoolThatIsExhausted: statements that wait for a lock take all connections.
func TestKS30_APoolThatIsExhausted(t *testing.T) {
	t.Parallel()
	p := servers.SharedPostgres(t)
	cfg := newStore(t, p)
	cfg.Connections, cfg.Timeout = 2, 2*time.Second
	s := open(t, cfg)
	want(t, "create", s.Create(t.Context(), "a", []byte("one")), nil)
	_, rev, err := s.Get(t.Context(), "a")
	want(t, "get", err, nil)
	tx := lock(t, administrator(t, p), cfg, "a")
	var wg sync.WaitGroup
	var late atomic.Int64
	for range 20 {
		wg.Go(func() {
			start := time.Now()
			err := s.Update(t.Context(), "a", []byte("two"), rev)
			if !errors.Is(err, keystore.ErrUnavailable) {
				t.Errorf("update of what is locked: %v", err)
			}
			if time.Since(start) > cfg.Timeout+time.Second {
				late.Add(1)
			}
		})
	}
	wg.Wait()
	if n := late.Load(); n > 0 {
		t.Errorf("%d of 20 calls took more than %v", n, cfg.Timeout)
	}
	if n := connections(t, p, cfg); n > 2 {
		t.Errorf("%d connections, more than 2", n)
	}
	want(t, "rollback", tx.Rollback(t.Context()), nil)
	// One that was given up may have been done since: at another revision, then.
	err = s.Update(t.Context(), "a", []byte("three"), rev)
	for range 20 {
		if !errors.Is(err, keystore.ErrConflict) {
			break
		}
		_, rev, err = s.Get(t.Context(), "a")
		want(t, "get", err, nil)
		err = s.Update(t.Context(), "a", []byte("three"), rev)
	}
	want(t, "update", err, nil)
}

// TestKS24_CancelledCallsCostNoConnections: a call that is given up leaves its
// connection as good as it was.
func TestKS24_CancelledCallsCostNoConnections(t *testing.T) {
	p := servers.SharedPostgres(t)
	cfg := newStore(t, p)
	through, proxy := proxied(t, cfg)
	s := open(t, through)
	want(t, "create", s.Create(t.Context(), "a", []byte("one")), nil)
	together(20, func() { want(t, "get", get(t, s, "a"), nil) }) // the pool fills
	before, cancelled := proxy.Connections(), atomic.Int64{}
	together(20, func() {
		for i := range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*20*time.Microsecond)
			_, _, err := s.Get(ctx, "a")
			cancel()
			if err != nil {
				cancelled.Add(1)
			}
			if err != nil && !errors.Is(err, keystore.ErrUnavailable) {
				t.Error(err)
			}
		}
	})
	want(t, "get", get(t, s, "a"), nil)
	made := proxy.Connections() - before
	t.Logf("%d calls were cancelled, %d connections made", cancelled.Load(), made)
	if cancelled.Load() < 100 || made > postgres.DefaultConnections {
		t.Error("calls that are cancelled cost their connections, or none was")
	}
	if n := connections(t, p, cfg); n > postgres.DefaultConnections {
		t.Errorf("%d connections, more than %d", n, postgres.DefaultConnections)
	}
}

// together runs f on n goroutines and waits for them.
func together(n int, f func()) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(f)
	}
	wg.Wait()
}

// connections returns how many connections a store has by its schema's last
// statements; none may be in a transaction that it left open.
func connections(t *testing.T, p servers.Postgres, cfg postgres.Config) (n int) {
	t.Helper()
	var open int
	err := administrator(t, p).QueryRow(t.Context(), `SELECT count(*), count(*) FILTER (WHERE state LIKE 'idle in transaction%')
		FROM pg_stat_activity WHERE usename = 'gateway' AND query LIKE '%' || $1 || '%'`, cfg.Schema).Scan(&n, &open)
	want(t, "activity", err, nil)
	if open > 0 {
		t.Errorf("%d transactions were left open", open)
	}
	return n
}

// TestKS27_AWatchWhoseConnectionIsKilled ends at once.
func TestKS27_AWatchWhoseConnectionIsKilled(t *testing.T) {
	p := servers.SharedPostgres(t)
	cfg := newStore(t, p)
	s := open(t, cfg)
	told, ended := make(chan string, 100), make(chan error, 1)
	go func() { ended <- s.Watch(t.Context(), func(name string) { told <- name }) }()
	if name := <-told; name != "" {
		t.Fatalf("told of %q first", name)
	}
	admin(t, p, "INSERT INTO "+cfg.Schema+".records VALUES ('by_hand', '0123456789abcdef', 'x')")
	if name := <-told; name != "by_hand" {
		t.Fatalf("told of %q", name)
	}
	admin(t, p, "TRUNCATE "+cfg.Schema+".records")
	if name := <-told; name != "" {
		t.Fatalf("told of %q, not that any may have changed", name)
	}
	admin(t, p, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keygate watch' AND query LIKE '%"+cfg.Schema+"%'")
	select {
	case err := <-ended:
		want(t, "watch", err, keystore.ErrUnavailable)
	case <-time.After(keystore.WatchBound):
		t.Fatal("the watch goes on")
	}
}

func get(t *testing.T, s keystore.Store, name string) error {
	_, _, err := s.Get(t.Context(), name)
	return err
}

func want(t *testing.T, call string, err, sentinel error) {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Fatalf("%s: got error %v, want %v", call, err, sentinel)
	}
}

package keystore_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/keygate/keygate/keystore"
)

func TestChecksRefuseBadNamesThenEndedCallsThenLargeRecords(t *testing.T) {
	live := t.Context()
	ended, end := context.WithCancel(live)
	end()
	long, large := strings.Repeat("a", keystore.MaxNameLen+1), make([]byte, keystore.MaxRecordSize+1)
	for _, test := range []struct {
		what string
		got  error
		want error
	}{
		{"alive", keystore.CheckAlive(live), nil},
		{"ended", keystore.CheckAlive(ended), keystore.ErrUnavailable},
		{"ended: the cause", keystore.CheckAlive(ended), context.Canceled},
		{"name", keystore.Check(live, "app-1"), nil},
		{"no name", keystore.Check(live, ""), keystore.ErrName},
		{"name of another directory", keystore.Check(live, "../app"), keystore.ErrName},
		{"long name, ended", keystore.Check(ended, long), keystore.ErrName},
		{"name, ended", keystore.Check(ended, "app-1"), keystore.ErrUnavailable},
		{"record", keystore.CheckWrite(live, "app-1", large[1:]), nil},
		{"large record", keystore.CheckWrite(live, "app-1", large), keystore.ErrCorrupt},
		{"large record, bad name", keystore.CheckWrite(live, "-", large), keystore.ErrName},
		{"large record, ended", keystore.CheckWrite(ended, "app-1", large), keystore.ErrUnavailable},
		{"list of all", keystore.CheckList(live, "", ""), nil},
		{"list of a prefix", keystore.CheckList(live, "app-", "app-1"), nil},
		{"bad prefix", keystore.CheckList(live, "a/", ""), keystore.ErrName},
		{"bad place", keystore.CheckList(live, "", "a/"), keystore.ErrName},
		{"list, ended", keystore.CheckList(ended, "", ""), keystore.ErrUnavailable},
	} {
		if !errors.Is(test.got, test.want) {
			t.Errorf("%s: got %v, want %v", test.what, test.got, test.want)
		}
	}
}

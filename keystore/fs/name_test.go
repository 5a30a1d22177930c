package fs

import (
	"strings"
	"testing"

	"github.com/keygate/keygate/keystore"
)

func FuzzKS12_FileName(f *testing.F) {
	for _, seed := range []string{"app", "App", "APP-1", "_x", "a%pp", "%app", "identity", ".tmp-x", strings.Repeat("Z", 80)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		// Whatever is in the directory: what reads as a name is written as it.
		if name, ok := recordName(in); ok && fileName(name) != in {
			t.Fatalf("%q reads as %q, which is written %q", in, name, fileName(name))
		}
		if !keystore.ValidName(in) {
			return
		}
		file := fileName(in)
		if name, ok := recordName(file); !ok || name != in {
			t.Fatalf("%q is written %q, which reads as %q, %v", in, file, name, ok)
		}
		if file != strings.ToLower(file) || len(file) > 255 || strings.ContainsAny(file, "/\x00") {
			t.Fatalf("%q is written %q: unsafe", in, file)
		}
		if isTemp(file) || file == identityFile {
			t.Fatalf("%q is written %q: the name of another file", in, file)
		}
	})
}

func TestRecordNameRefusesOtherFiles(t *testing.T) {
	for _, file := range []string{
		"", "identity", ".tmp-ABC", ".tmp-a.record", ".record", "App.record", "%%a.record", "%.record", "a%.record",
		"%1.record", "app.RECORD", "app.record~", "app", "-app.record", "_.record", "a.b.record", "%-a.record",
		strings.Repeat("a", 81) + ".record",
	} {
		if name, ok := recordName(file); ok {
			t.Errorf("%q reads as the record %q", file, name)
		}
	}
}

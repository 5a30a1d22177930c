package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// fill sets all that v has to values that are not zero.
func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Field(i)
			fill(t, reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Elem())
		}
	case reflect.Slice:
		v.SetBytes([]byte(fmt.Sprintf("bytes %d", rand.Uint64())))
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).SetUint(uint64(1 + i))
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1 + rand.Int64N(1<<30))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.Pointer:
		if v.Type() == reflect.TypeFor[*begun]() {
			return // op.begun is of one process
		}
		fallthrough
	default:
		t.Fatalf("an op has a field of a kind that this test does not know: %v", v.Type())
	}
}

// An op goes over the socket with all that it has, also with what is added to it
// later.
func TestAnOpComesBackWhole(t *testing.T) {
	var full order
	fill(t, reflect.ValueOf(&full).Elem())
	empty := order{op: op{kind: opMAC, a: []byte{}, b: []byte{}, handle: []byte{}}, caller: []byte{}}
	none := order{op: op{kind: opStatus}, left: -time.Second}
	for _, o := range []order{full, empty, none} {
		b := o.append(nil)
		if len(b) > o.size() {
			t.Errorf("it has %d bytes, more than the %d that were said", len(b), o.size())
		}
		got, err := parseOrder(b)
		if err != nil || !reflect.DeepEqual(got, o) {
			t.Errorf("%+v came back as %+v, %v", o, got, err)
		}
	}
}

func FuzzFrames(f *testing.F) {
	o := order{op: op{kind: opEncrypt, handle: []byte("handle"), a: []byte("plaintext")}, caller: []byte("caller"), left: time.Second}
	b, at := beginFrame(nil, frameOp, 7)
	f.Add(endFrame(o.append(b), at))
	b, at = beginFrame(nil, frameError, 8)
	f.Add(endFrame(appendError(b, &Error{Function: "C_Decrypt", Code: pkcs11.CKR_DEVICE_ERROR}), at))
	b, at = beginFrame(nil, frameAnswer, 9)
	f.Add(endFrame(appendBytes(b, []byte("answer")), at))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		fr, size, need, err := parseFrame(in, maxReply)
		switch {
		case err != nil:
			return
		case size == 0:
			if need <= len(in) || need > maxReply {
				t.Fatalf("%d bytes of %d are needed", need, len(in))
			}
			return
		case size > len(in) || len(fr.body) != size-frameHeader:
			t.Fatalf("a frame of %d bytes in %d, with a body of %d", size, len(in), len(fr.body))
		}
		again, at := beginFrame(nil, fr.kind, fr.n)
		if again = endFrame(append(again, fr.body...), at); !bytes.Equal(again, in[:size]) {
			t.Fatal("the frame is written otherwise than it was read")
		}
		if o, err := parseOrder(fr.body); err == nil {
			if same, err := parseOrder(o.append(nil)); err != nil || len(o.caller) <= maxCaller && !reflect.DeepEqual(same, o) {
				t.Fatalf("%+v came back as %+v, %v", o, same, err)
			}
		}
		if remote, err := parseError(fr.body); err == nil && remote != nil {
			same, err := parseError(appendError(nil, remote))
			if err != nil {
				t.Fatal(err)
			}
			alike(t, remote, same)
		}
	})
}

// alike fails if two errors differ in what anybody looks for in them.
func alike(t *testing.T, a, b error) {
	t.Helper()
	if a.Error() != b.Error() {
		t.Errorf("%q became %q", a, b)
	}
	for _, mark := range marks {
		if errors.Is(a, mark) != errors.Is(b, mark) {
			t.Errorf("%q is %q: %v before, %v after", a, mark, errors.Is(a, mark), errors.Is(b, mark))
		}
	}
	classA, okA := classOf(a)
	classB, okB := classOf(b)
	if classA != classB || okA != okB {
		t.Errorf("%q is of class %v, %v before, and %v, %v after", a, classA, okA, classB, okB)
	}
	_, missingA := errors.AsType[*notFoundError](a)
	_, missingB := errors.AsType[*notFoundError](b)
	if missingA != missingB {
		t.Errorf("%q: not found %v before, %v after", a, missingA, missingB)
	}
	if repairable(a) != repairable(b) || elsewhere(a) != elsewhere(b) || worthReset(a) != worthReset(b) {
		t.Errorf("%q is to be repaired otherwise after", a)
	}
}

// Every kind of error that the package makes, alone and inside of others, is after a
// round trip what it was: its text, and all that others look for in it.
func TestErrorsComeBackAsTheyWere(t *testing.T) {
	var all []error
	for code := range codes {
		all = append(all, &Error{Function: "C_Decrypt", Code: code})
	}
	all = append(all, &Error{Function: "C_Sign", Code: 0x80000001}, &Error{})
	all = append(all, marks...)
	all = append(all, &notFoundError{text: "the token has no secret key"}, &settled{&Error{Function: "C_Decrypt", Code: pkcs11.CKR_GENERAL_ERROR}},
		refusal{{What: "CKM_AES_GCM", Found: "missing", Why: "it is", err: kms.ErrUnsupported}, {What: "KEK", Found: "false", err: kms.ErrDenied}},
		waited(context.Background(), "wait"), errors.New("something else: \xff"))
	n := len(all)
	for i := range n {
		all = append(all, fmt.Errorf("hsm: around: %w", all[i]), fmt.Errorf("%w: %w", &settled{all[i]}, kms.ErrCiphertext))
		all = append(all, errors.Join(all[i], all[rand.IntN(n)]))
	}
	for _, err := range all {
		got, bad := parseError(appendError(nil, err))
		if bad != nil || got == nil {
			t.Fatalf("%q: %v", err, bad)
		}
		if strings.ToValidUTF8(err.Error(), "?") == err.Error() {
			alike(t, err, got)
		}
	}
	if none, err := parseError(appendError(nil, nil)); none != nil || err != nil {
		t.Errorf("nil became %v, %v", none, err)
	}
	if len(marks) > 64 {
		t.Error("a word has no room for all marks")
	}
}

// An error that this package or kms has a name for is looked for by somebody, and so
// has to be a mark.
func TestEveryNamedErrorIsAMark(t *testing.T) {
	known := map[string]bool{}
	markText, err := fs.ReadFile(os.DirFS("."), "frame_error.go")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(markText), "var marks = []error{")
	list, _, _ = strings.Cut(list, "}")
	for _, name := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' }) {
		known[name] = true
	}
	for dir, prefix := range map[string]string{".": "", "../kms": "kms."} {
		found := namedErrors(t, dir)
		if len(found) < 10 {
			t.Fatalf("%d errors in %s: the search is broken", len(found), dir)
		}
		for _, name := range found {
			if prefix != "" && !ast.IsExported(name) {
				continue
			}
			if !known[prefix+name] {
				t.Errorf("%s%s is not one of marks in frame_error.go", prefix, name)
			}
		}
	}
}

// namedErrors returns the package variables of a directory whose names begin with err.
func namedErrors(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := fs.Glob(os.DirFS(dir), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(gotoken.NewFileSet(), dir+"/"+name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != gotoken.VAR {
				continue
			}
			for _, s := range g.Specs {
				for _, id := range s.(*ast.ValueSpec).Names {
					if strings.HasPrefix(strings.ToLower(id.Name), "err") {
						names = append(names, id.Name)
					}
				}
			}
		}
	}
	return names
}

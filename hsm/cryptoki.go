package hsm

/*
#cgo CFLAGS: -std=c11 -D_DEFAULT_SOURCE -Wall -Wextra -Werror
#cgo linux LDFLAGS: -ldl
#cgo noescape kg_gcm
#cgo nocallback kg_gcm
#cgo noescape kg_hmac
#cgo nocallback kg_hmac
#include <stdlib.h>
#include "cryptoki.h"
*/
import "C"

import (
	"fmt"
	"unsafe"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// functions are the calls that are made here and not through miekg/pkcs11:
// those that are hot and those that carry secrets. Each is one crossing into C,
// writes into a buffer of Go, leaves nothing in the C heap, and is entered in the
// book.
type functions struct {
	list  *C.struct_ck_functions
	book  *book // nil: this only names a library
	makes *objectCount
}

// loadFunctions loads the library at path; each call adds a reference to it.
func loadFunctions(path string) (functions, error) {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	var why [512]C.char
	list := C.kg_load(name, &why[0], C.size_t(len(why)))
	if list == nil {
		return functions{}, fmt.Errorf("hsm: the PKCS#11 module %s cannot be loaded: %s", path, C.GoString(&why[0]))
	}
	return functions{list: list}, nil
}

// gcm encrypts or decrypts in with AES-GCM into out and returns the bytes
// written. In must not be empty memory: a nil pointer means something else to a
// module, so the buffers of an empty slice point elsewhere.
func (f functions) gcm(encrypt bool, s pkcs11.SessionHandle, key pkcs11.ObjectHandle, iv, additionalData, in, out []byte) (int, error) {
	pair, mode := [2]function{fnDecryptInit, fnDecrypt}, C.int(0)
	if encrypt {
		pair, mode = [2]function{fnEncryptInit, fnEncrypt}, 1
	}
	e := f.book.enter(pair[1])
	r := C.kg_gcm(f.list, mode, C.ck_ulong(s), C.ck_ulong(key), pointer(iv), C.ck_ulong(len(iv)),
		pointer(additionalData), C.ck_ulong(len(additionalData)), input(in, iv), C.ck_ulong(len(in)), pointer(out), C.ck_ulong(len(out)))
	return f.outcome(pair, e, r, len(out))
}

func (f functions) hmac(s pkcs11.SessionHandle, key pkcs11.ObjectHandle, message, out []byte) (int, error) {
	e := f.book.enter(fnSign)
	r := C.kg_hmac(f.list, C.ck_ulong(s), C.ck_ulong(key), input(message, out), C.ck_ulong(len(message)), pointer(out), C.ck_ulong(len(out)))
	return f.outcome([2]function{fnSignInit, fnSign}, e, r, len(out))
}

// wrapKey wraps key by kek into out and returns the bytes written. A mechanism
// with an IV is AES-GCM, which also takes additional data. The size of out is
// the caller's to know: miekg/pkcs11 asks the module, and the answer of NSS
// leaves the tag out.
func (f functions) wrapKey(s pkcs11.SessionHandle, mechanism uint, kek, key pkcs11.ObjectHandle, iv, additionalData, out []byte) (int, error) {
	e := f.book.enter(fnWrapKey)
	r := C.kg_wrap(f.list, C.ck_ulong(s), C.ck_ulong(mechanism), C.ck_ulong(kek), C.ck_ulong(key), pointer(iv), C.ck_ulong(len(iv)),
		pointer(additionalData), C.ck_ulong(len(additionalData)), pointer(out), C.ck_ulong(len(out)))
	return f.outcome([2]function{fnWrapKey, fnWrapKey}, e, r, len(out))
}

// importKey makes an object of the bytes of key: a session object without a name,
// or one of the token that is called so.
func (f functions) importKey(s pkcs11.SessionHandle, aes bool, key []byte, name *residentName) (pkcs11.ObjectHandle, error) {
	kind, copyable := C.int(0), C.int(0)
	if aes {
		kind = 1
	}
	var id, label []byte
	if name != nil {
		id, label = name.id, []byte(name.label)
		if name.copyable {
			copyable = 1
		}
	}
	defer f.makes.enter()()
	e := f.book.enter(fnCreateObject)
	r := C.kg_import(f.list, C.ck_ulong(s), kind, pointer(key), C.ck_ulong(len(key)), pointer(id), C.ck_ulong(len(id)),
		pointer(label), C.ck_ulong(len(label)), copyable)
	e.ended(uint(r.rv))
	return pkcs11.ObjectHandle(r.len), failed("C_CreateObject", uint(r.rv))
}

// login logs the user in, or the security officer.
func (f functions) login(s pkcs11.SessionHandle, officer bool, pin []byte) error {
	e := f.book.enter(fnLogin)
	rv := uint(C.kg_login(f.list, C.ck_ulong(s), flagOf(officer), pointer(pin), C.ck_ulong(len(pin))))
	e.ended(rv)
	return failed("C_Login", rv)
}

func flagOf(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

// outcome enters the end of a pair of calls, an Init and what it begins, in the
// account of the one that answered, and returns the bytes that it wrote.
func (f functions) outcome(pair [2]function, e entry, r C.struct_kg_result, room int) (int, error) {
	if r.begun == 0 {
		e = e.moved(f.book, pair[0])
	}
	code := uint(r.rv)
	if code == pkcs11.CKR_OK && (int(r.len) < 0 || int(r.len) > room) {
		code = pkcs11.CKR_GENERAL_ERROR
	}
	e.ended(code)
	if code != pkcs11.CKR_OK {
		return 0, failed(pair[r.begun].String(), code)
	}
	return int(r.len), nil
}

func pointer(b []byte) *C.ck_byte { return (*C.ck_byte)(unsafe.SliceData(b)) }

// input returns a pointer that is not nil also for an empty slice.
func input(b, other []byte) *C.ck_byte {
	if len(b) == 0 {
		return pointer(other)
	}
	return pointer(b)
}

// unwrapTemplate returns the value of the KEK's CKA_UNWRAP_TEMPLATE.
func unwrapTemplate(f kekForm) []byte {
	var size C.ck_ulong
	template := C.kg_unwrap_template(flagOf(f == rotatableForm), &size)
	return C.GoBytes(unsafe.Pointer(template), C.int(size))
}

// attributesIn reads the value of an attribute that is an array of attributes, as
// unwrapTemplate returns it: what they point to is in C memory.
func attributesIn(value []byte) (all []*pkcs11.Attribute) {
	size := int(unsafe.Sizeof(C.struct_ck_attribute{}))
	for ; len(value) >= size; value = value[size:] {
		a := (*C.struct_ck_attribute)(unsafe.Pointer(unsafe.SliceData(value)))
		all = append(all, &pkcs11.Attribute{Type: uint(a._type), Value: C.GoBytes(a.value, C.int(a.value_len))})
	}
	return all
}

func wipeEnv(name string) {
	c := C.CString(name)
	defer C.free(unsafe.Pointer(c))
	C.kg_wipe_env(c)
}

// cString returns a copy of s in C memory that is never freed.
func cString(s string) unsafe.Pointer { return unsafe.Pointer(C.CString(s)) }

// ulong reads a CK_ULONG in the memory layout of this machine.
func ulong(b []byte) (uint, error) {
	if len(b) != int(unsafe.Sizeof(C.ck_ulong(0))) {
		return 0, fmt.Errorf("hsm: a CK_ULONG of %d bytes: %w", len(b), kms.ErrUnavailable)
	}
	return uint(*(*C.ck_ulong)(unsafe.Pointer(unsafe.SliceData(b)))), nil
}

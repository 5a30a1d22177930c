package hsm_test

import (
	"bytes"
	"crypto/aes"
	"maps"
	"regexp"
	"runtime"
	"testing"
	"unsafe"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/softhsm"
)

// goodKEK is a KEK as it should be but for its CKA_UNWRAP_TEMPLATE, which only
// package hsm can make.
var goodKEK = map[uint]bool{
	pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: true, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: false,
	pkcs11.CKA_WRAP: true, pkcs11.CKA_UNWRAP: true, pkcs11.CKA_ENCRYPT: false, pkcs11.CKA_DECRYPT: false,
	pkcs11.CKA_SIGN: false, pkcs11.CKA_VERIFY: false, pkcs11.CKA_MODIFIABLE: false, pkcs11.CKA_COPYABLE: false,
	pkcs11.CKA_DESTROYABLE: false,
}

var goodRecordKey = map[uint]bool{
	pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: true, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: false,
	pkcs11.CKA_SIGN: true, pkcs11.CKA_VERIFY: false, pkcs11.CKA_MODIFIABLE: false, pkcs11.CKA_COPYABLE: false,
	pkcs11.CKA_ENCRYPT: false, pkcs11.CKA_DECRYPT: false, pkcs11.CKA_WRAP: false, pkcs11.CKA_UNWRAP: false,
	pkcs11.CKA_DESTROYABLE: false,
}

// The attributes of a KEK and a record key that are not flags.
func kekBase() []*pkcs11.Attribute { return rootBase(hsm.DefaultKEK, "12345678") }

func recordKeyBase() []*pkcs11.Attribute { return rootBase(hsm.DefaultRecordKey, "87654321") }

func rootBase(label, id string) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(id))}
}

var keySize = pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, kms.KeySize)

func (r raw) makeKEK(set map[uint]bool) pkcs11.ObjectHandle {
	r.t.Helper()
	return r.generate(pkcs11.CKM_AES_KEY_GEN, flags(append(kekBase(), keySize), set))
}

func (r raw) makeRecordKey(set map[uint]bool) pkcs11.ObjectHandle {
	r.t.Helper()
	return r.generate(pkcs11.CKM_GENERIC_SECRET_KEY_GEN, flags(append(recordKeyBase(), keySize), set))
}

func but(good map[uint]bool, changes map[uint]bool) map[uint]bool {
	set := maps.Clone(good)
	maps.Copy(set, changes)
	return set
}

func configOf(f softhsm.Fixture) hsm.Config {
	return hsm.Config{Module: f.Module, Token: f.Label, PIN: hsm.PIN{File: f.PINFile}}
}

func TestTwoKEKsAreRefused(t *testing.T) {
	f := softhsm.Token(t)
	_, err := hsm.Init(t.Context(), configOf(f))
	ok(t, err)
	root, err := hsm.Open(t.Context(), configOf(f), quiet())
	ok(t, err)
	handle := newKey(t, root, kms.Encryption)
	ok(t, root.Close())
	as(t, f, func(r raw) { r.makeKEK(goodKEK) })
	err = refused(t, configOf(f))
	says(t, err, "more than one")

	// Each can be named, and that which has wrapped keys opens them.
	names := regexp.MustCompile(`pkcs11:object=keygate-kek;id=(%[0-9a-f]{2})+`).FindAllString(err.Error(), -1)
	if len(names) != 2 {
		t.Fatalf("%d names in %v", len(names), err)
	}
	opened := 0
	for _, name := range names {
		cfg := configOf(f)
		cfg.KEK = name
		root, err := hsm.Open(t.Context(), cfg, quiet())
		if err != nil {
			continue // the other has no unwrap template
		}
		_, err = root.Encrypt(t.Context(), handle, nil, nil)
		ok(t, err)
		ok(t, root.Close())
		opened++
	}
	if opened != 1 {
		t.Errorf("%d of the names open the token", opened)
	}
	cfg := configOf(f)
	cfg.KEK, cfg.RecordKey = "pkcs11:object=keygate-kek;id=%01", "another"
	_, err = hsm.Init(t.Context(), cfg)
	says(t, err, "names a key that is there, and it is not")
	cfg.KEK = "pkcs11:id=%01"
	says(t, cfg.Check(), "it is a label, or pkcs11:object=LABEL;id=%01%02")
}

// A KEK that lets what it unwraps be derived from, copied or changed lets it out of the
// control of trusted keys.
func TestHS18_AKEKWhoseTemplateLeavesAWayOutIsRefused(t *testing.T) {
	full := map[uint]bool{pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_WRAP_WITH_TRUSTED: true, pkcs11.CKA_DERIVE: false, pkcs11.CKA_COPYABLE: false, pkcs11.CKA_MODIFIABLE: false}
	for without, text := range map[uint]string{0: "", pkcs11.CKA_DERIVE: "to be derived from", pkcs11.CKA_COPYABLE: "to be copied", pkcs11.CKA_MODIFIABLE: "to be changed"} {
		f := softhsm.Token(t)
		as(t, f, func(r raw) {
			var values runtime.Pinner
			defer values.Unpin()
			template := map[uint]bool{}
			for attribute, value := range full {
				if attribute != without {
					template[attribute] = value
				}
			}
			r.generate(pkcs11.CKM_AES_KEY_GEN, append(flags(append(kekBase(), keySize), goodKEK), pkcs11.NewAttribute(pkcs11.CKA_UNWRAP_TEMPLATE, templateValue(&values, template))))
		})
		cfg := configOf(f)
		_, err := hsm.InitWith(t.Context(), cfg, hsm.InitOptions{}) // the record key
		if without == 0 {
			ok(t, err)
			continue
		}
		is(t, err, kms.ErrDenied)
		says(t, err, text)
		is(t, refused(t, cfg), kms.ErrDenied)
	}
}

// templateValue returns the value of an attribute that is an array of CK_ATTRIBUTE
// (PKCS#11 v2.40 base 3.3), whose pointers are to pinned memory.
func templateValue(pins *runtime.Pinner, flags map[uint]bool) []byte {
	type attribute struct {
		kind  uint
		value *byte
		size  uint
	}
	var all []byte
	// SoftHSM refuses what comes after CKA_MODIFIABLE.
	for _, kind := range []uint{pkcs11.CKA_SENSITIVE, pkcs11.CKA_WRAP_WITH_TRUSTED, pkcs11.CKA_DERIVE, pkcs11.CKA_COPYABLE, pkcs11.CKA_MODIFIABLE} {
		if _, there := flags[kind]; !there {
			continue
		}
		value := new(byte)
		if flags[kind] {
			*value = 1
		}
		pins.Pin(value)
		a := attribute{kind, value, 1}
		all = append(all, unsafe.Slice((*byte)(unsafe.Pointer(&a)), unsafe.Sizeof(a))...)
	}
	return all
}

// clulow wraps a key that cannot be read and has the token decrypt the blob (J.
// Clulow, On the Security of PKCS#11, CHES 2003, 3.1): each block of an AES key
// wrap is ECB, so six passes of decryption blocks take it apart.
func (r raw) clulow(kek, key pkcs11.ObjectHandle) ([]byte, error) {
	wrapped, err := r.WrapKey(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP, nil)}, kek, key)
	if err != nil {
		return nil, err
	}
	n := len(wrapped)/8 - 1
	a, blocks := bytes.Clone(wrapped[:8]), bytes.Clone(wrapped[8:])
	for j := 5; j >= 0; j-- { // RFC 3394 2.2.2
		for i := n; i >= 1; i-- {
			a[7] ^= byte(n*j + i)
			if err := r.DecryptInit(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_ECB, nil)}, kek); err != nil {
				return nil, err
			}
			b, err := r.Decrypt(r.session, append(bytes.Clone(a), blocks[(i-1)*8:i*8]...))
			if err != nil {
				return nil, err
			}
			copy(a, b[:aes.BlockSize/2])
			copy(blocks[(i-1)*8:], b[aes.BlockSize/2:])
		}
	}
	return blocks, nil
}

// victim makes a master key as package hsm does before it wraps it.
func (r raw) victim() pkcs11.ObjectHandle {
	return r.generate(pkcs11.CKM_AES_KEY_GEN, flags([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32)},
		map[uint]bool{pkcs11.CKA_TOKEN: false, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: true, pkcs11.CKA_ENCRYPT: true}))
}

// opens reports whether key is the bytes of object.
func (r raw) opens(object pkcs11.ObjectHandle, key []byte) bool {
	r.t.Helper()
	ok(r.t, r.EncryptInit(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_ECB, nil)}, object))
	got, err := r.Encrypt(r.session, make([]byte, aes.BlockSize))
	ok(r.t, err)
	block, err := aes.NewCipher(key)
	ok(r.t, err)
	want := make([]byte, aes.BlockSize)
	block.Encrypt(want, want)
	return bytes.Equal(got, want)
}

func TestHS18_ClulowsAttack(t *testing.T) {
	f := softhsm.Token(t)
	as(t, f, func(r raw) {
		// It works on what pkcs11-tool makes, which we refuse ...
		r.makeKEK(but(goodKEK, map[uint]bool{pkcs11.CKA_DECRYPT: true, pkcs11.CKA_MODIFIABLE: true}))
		victim := r.victim()
		key, err := r.clulow(r.find(hsm.DefaultKEK), victim)
		ok(t, err)
		if !r.opens(victim, key) {
			t.Error("the attack does not work where it should: the test is wrong")
		}
	})
	f = softhsm.Token(t)
	_, err := hsm.Init(t.Context(), configOf(f))
	ok(t, err)
	as(t, f, func(r raw) {
		// ... and not on the KEK of Init, nor can that be changed or copied
		// into one on which it does.
		kek, victim := r.find(hsm.DefaultKEK), r.victim()
		if key, err := r.clulow(kek, victim); err == nil && r.opens(victim, key) {
			t.Error("the attack works on the KEK that Init made")
		}
		decrypts := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true)}
		if err := r.SetAttributeValue(r.session, kek, decrypts); err == nil {
			t.Error("the KEK can be changed to decrypt")
		}
		if _, err := r.CopyObject(r.session, kek, decrypts); err == nil {
			t.Error("the KEK can be copied to one that decrypts")
		}
	})
}

// weakTemplates are what someone with the PIN would unwrap a stored key with, to read
// it or to wrap it under a key that he knows.
var weakTemplates = []map[uint]bool{
	{pkcs11.CKA_SENSITIVE: false, pkcs11.CKA_EXTRACTABLE: true},
	{pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: true},
	{pkcs11.CKA_SENSITIVE: false, pkcs11.CKA_EXTRACTABLE: false},
}

// unwrapWeakly unwraps a stored key with one of weakTemplates.
func (r raw) unwrapWeakly(wrapped []byte, set map[uint]bool) (pkcs11.ObjectHandle, error) {
	r.t.Helper()
	m := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP, nil)}
	template := flags([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES), pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true)}, set)
	return r.UnwrapKey(r.session, m, r.find(hsm.DefaultKEK), wrapped, template)
}

func TestHS18_UnwrappingWithAWeakerTemplate(t *testing.T) {
	f := softhsm.Token(t)
	as(t, f, func(r raw) {
		// It works with a KEK that has no CKA_UNWRAP_TEMPLATE, which we refuse
		// (TestHS18_AKEKWithoutAnUnwrapTemplateIsRefused) ...
		kek, victim := r.makeKEK(goodKEK), r.victim()
		wrapped, err := r.WrapKey(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP, nil)}, kek, victim)
		ok(t, err)
		for _, set := range weakTemplates {
			object, err := r.unwrapWeakly(wrapped, set)
			ok(t, err)
			if set[pkcs11.CKA_SENSITIVE] {
				continue
			}
			value, err := r.GetAttributeValue(r.session, object, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
			if set[pkcs11.CKA_EXTRACTABLE] && (err != nil || !r.opens(victim, value[0].Value)) {
				t.Errorf("the attack does not work where it should: the test is wrong: %v", err)
			}
		}
	})
	// ... and not with the KEK of Init.
	f = softhsm.Token(t)
	_, err := hsm.Init(t.Context(), configOf(f))
	ok(t, err)
	root, err := hsm.Open(t.Context(), configOf(f), quiet())
	ok(t, err)
	handle := newKey(t, root, kms.Encryption)
	ok(t, root.Close())
	wrapped := handle[29 : 29+40]
	as(t, f, func(r raw) {
		for _, set := range weakTemplates {
			if _, err := r.unwrapWeakly(wrapped, set); err == nil {
				t.Errorf("a stored key was unwrapped with %v", set)
			}
		}
	})
}

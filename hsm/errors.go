package hsm

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// ErrPIN says that the token refused the PIN. It is not tried again: a few
// refused ones lock a token.
var ErrPIN = fmt.Errorf("hsm: the PIN was refused: %w", kms.ErrDenied)

// An Error is what a function of the PKCS#11 module answered. It wraps the
// error of package kms that the code means.
type Error struct {
	Function string // "C_Decrypt"
	Code     uint   // the CKR code
	known    bool   // the same was done before, so Code is not about what was asked
}

func (e *Error) Error() string { return fmt.Sprintf("hsm: %s: %s", e.Function, codeName(e.Code)) }

// Unwrap returns an error of package kms, or ErrPIN, which wraps one.
func (e *Error) Unwrap() error { return meanings[e.class()] }

func (e *Error) class() class {
	switch c := codes[e.Code]; {
	case c == pinFault && e.Function != "C_Login":
		return tokenFault // only C_Login is given a PIN
	case c == requestFault && e.known:
		return tokenFault
	default:
		return c
	}
}

// askedBefore notes that what err answers has worked before with such arguments: a
// code that says otherwise (CKR_ARGUMENTS_BAD) is a fault of the token.
func askedBefore(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		e.known = true
	}
	return err
}

// codeName returns "CKR_DEVICE_ERROR", or the number of a code that has no name.
func codeName(code uint) string {
	text := pkcs11.Error(code).Error()
	if name := text[strings.LastIndexByte(text, ' ')+1:]; name != "" {
		return name
	}
	return fmt.Sprintf("CKR 0x%X", code)
}

// A class is what a CKR code says is wrong, and so what repairs it. What makers do
// otherwise than PKCS#11 says is not in a table of makers, which would be out of date
// with the next firmware: what a bad tag and a wrapped key that was changed are
// answered with is found out whenever a token is connected to; see session.refuses.
// docs/hsm-faults.md shows what comes of each code.
type class uint8

const (
	tokenFault   class = iota // the token, or nobody knows what (each code of a maker's): try another session, then connect anew
	sessionFault              // this session: use another
	objectFault               // the object is gone: load the key again
	loginFault                // the login is gone: connect anew
	moduleFault               // the module is not initialised: connect anew
	pinFault                  // the PIN: never try it again
	requestFault              // what was asked, unless a canary that asks the same fails too
	inputFault                // what was given, unless a canary fails too
	unclearFault              // the token, or what was given if this token answers so to bad input and a canary succeeds
)

// unsure reports whether a code of class c may mean bad input or a fault.
func (c class) unsure() bool { return c == inputFault || c == unclearFault }

// meanings says what each class means to package kms.
var meanings = [...]error{
	tokenFault:   kms.ErrUnavailable,
	sessionFault: kms.ErrUnavailable,
	objectFault:  kms.ErrUnavailable,
	loginFault:   kms.ErrUnavailable,
	moduleFault:  kms.ErrUnavailable,
	pinFault:     ErrPIN,
	requestFault: kms.ErrUnsupported,
	inputFault:   kms.ErrUnavailable,
	unclearFault: kms.ErrUnavailable,
}

// codes is the class of each code; one that is not here is a tokenFault.
// PKCS#11 v2.40 5.1. A pinFault is one only from C_Login.
var codes = map[uint]class{
	pkcs11.CKR_SESSION_HANDLE_INVALID:    sessionFault,
	pkcs11.CKR_SESSION_CLOSED:            sessionFault,
	pkcs11.CKR_SESSION_COUNT:             sessionFault,
	pkcs11.CKR_OPERATION_ACTIVE:          sessionFault,
	pkcs11.CKR_OPERATION_NOT_INITIALIZED: sessionFault,
	pkcs11.CKR_FUNCTION_CANCELED:         sessionFault,

	pkcs11.CKR_OBJECT_HANDLE_INVALID:         objectFault,
	pkcs11.CKR_KEY_HANDLE_INVALID:            objectFault,
	pkcs11.CKR_WRAPPING_KEY_HANDLE_INVALID:   objectFault,
	pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID: objectFault,

	pkcs11.CKR_USER_NOT_LOGGED_IN: loginFault,

	pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED: moduleFault,

	pkcs11.CKR_PIN_INCORRECT:     pinFault,
	pkcs11.CKR_PIN_INVALID:       pinFault,
	pkcs11.CKR_PIN_LEN_RANGE:     pinFault,
	pkcs11.CKR_PIN_EXPIRED:       pinFault,
	pkcs11.CKR_PIN_LOCKED:        pinFault,
	pkcs11.CKR_USER_TYPE_INVALID: pinFault,

	// The token has no PIN to hold this one against, so that it counts no try. SoftHSM
	// 2.6.1 also says so while another process logs in (measured).
	pkcs11.CKR_USER_PIN_NOT_INITIALIZED: tokenFault,

	ckrActionProhibited:                   requestFault,
	pkcs11.CKR_ARGUMENTS_BAD:              requestFault,
	pkcs11.CKR_ATTRIBUTE_READ_ONLY:        requestFault,
	pkcs11.CKR_ATTRIBUTE_SENSITIVE:        requestFault,
	pkcs11.CKR_ATTRIBUTE_TYPE_INVALID:     requestFault,
	pkcs11.CKR_ATTRIBUTE_VALUE_INVALID:    requestFault,
	pkcs11.CKR_FUNCTION_NOT_SUPPORTED:     requestFault,
	pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED: requestFault,
	pkcs11.CKR_KEY_NOT_WRAPPABLE:          requestFault,
	pkcs11.CKR_KEY_SIZE_RANGE:             requestFault,
	pkcs11.CKR_KEY_TYPE_INCONSISTENT:      requestFault,
	pkcs11.CKR_KEY_UNEXTRACTABLE:          requestFault,
	pkcs11.CKR_MECHANISM_INVALID:          requestFault,
	pkcs11.CKR_MECHANISM_PARAM_INVALID:    requestFault,
	pkcs11.CKR_TEMPLATE_INCOMPLETE:        requestFault,
	pkcs11.CKR_TEMPLATE_INCONSISTENT:      requestFault,
	pkcs11.CKR_TOKEN_WRITE_PROTECTED:      requestFault,

	pkcs11.CKR_ENCRYPTED_DATA_INVALID:   inputFault,
	pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE: inputFault,
	pkcs11.CKR_WRAPPED_KEY_INVALID:      inputFault,
	pkcs11.CKR_WRAPPED_KEY_LEN_RANGE:    inputFault,
	pkcs11.CKR_DATA_INVALID:             inputFault,
	pkcs11.CKR_SIGNATURE_INVALID:        inputFault,
	ckrAEADDecryptFailed:                inputFault,
	// SoftHSM 2.6.1 answers GENERAL_ERROR to a bad tag (measured; mended after it:
	// softhsm/SoftHSMv2 #690), nShield FUNCTION_FAILED (read); AWS CloudHSM says
	// FUNCTION_FAILED where it is busy (read: AWS CloudHSM user guide, HSM
	// throttling). Both also mean a fault.
	pkcs11.CKR_GENERAL_ERROR:   unclearFault,
	pkcs11.CKR_FUNCTION_FAILED: unclearFault,
}

// PKCS#11 v2.40 5.1.6: what the object's attributes forbid. miekg has no name for it.
const ckrActionProhibited = 0x1B

// PKCS#11 v3.0 has a code of its own for a bad tag.
const ckrAEADDecryptFailed = 0x35

// failed returns nil or an *Error.
func failed(function string, code uint) error {
	if code == pkcs11.CKR_OK {
		return nil
	}
	return &Error{Function: function, Code: code}
}

// answered turns an error of miekg/pkcs11 into one of ours.
func answered(function string, err error) error {
	if err == nil {
		return nil
	}
	if code, ok := err.(pkcs11.Error); ok {
		return failed(function, uint(code))
	}
	return fmt.Errorf("hsm: %s: %w: %w", function, kms.ErrUnavailable, err)
}

// classOf returns the class of an error that came from the module.
func classOf(err error) (class, bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.class(), true
	}
	return 0, false
}

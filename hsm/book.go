package hsm

import (
	"maps"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
)

// A function is one of those of PKCS#11 that this package calls.
type function uint8

// The functions, in the order of CK_FUNCTION_LIST (PKCS#11 v2.40 base 5.4 to 5.17).
const (
	fnInitialize function = iota
	fnFinalize
	fnGetInfo
	fnGetSlotList
	fnGetSlotInfo
	fnGetTokenInfo
	fnGetMechanismList
	fnGetMechanismInfo
	fnInitToken
	fnInitPIN
	fnOpenSession
	fnCloseSession
	fnCloseAllSessions
	fnGetSessionInfo
	fnLogin
	fnLogout
	fnCreateObject
	fnCopyObject
	fnDestroyObject
	fnGetAttributeValue
	fnFindObjectsInit
	fnFindObjects
	fnFindObjectsFinal
	fnEncryptInit
	fnEncrypt
	fnDecryptInit
	fnDecrypt
	fnSignInit
	fnSign
	fnGenerateKey
	fnGenerateKeyPair
	fnWrapKey
	fnUnwrapKey
	fnGenerateRandom
	functionCount
)

var functionNames = [functionCount]string{
	fnInitialize: "C_Initialize", fnFinalize: "C_Finalize", fnGetInfo: "C_GetInfo", fnGetSlotList: "C_GetSlotList",
	fnGetSlotInfo: "C_GetSlotInfo", fnGetTokenInfo: "C_GetTokenInfo", fnGetMechanismList: "C_GetMechanismList", fnGetMechanismInfo: "C_GetMechanismInfo",
	fnInitToken: "C_InitToken", fnInitPIN: "C_InitPIN", fnOpenSession: "C_OpenSession", fnCloseSession: "C_CloseSession",
	fnCloseAllSessions: "C_CloseAllSessions",
	fnGetSessionInfo:   "C_GetSessionInfo", fnLogin: "C_Login", fnLogout: "C_Logout",
	fnCreateObject: "C_CreateObject", fnCopyObject: "C_CopyObject", fnDestroyObject: "C_DestroyObject",
	fnGetAttributeValue: "C_GetAttributeValue", fnFindObjectsInit: "C_FindObjectsInit", fnFindObjects: "C_FindObjects",
	fnFindObjectsFinal: "C_FindObjectsFinal", fnEncryptInit: "C_EncryptInit", fnEncrypt: "C_Encrypt", fnDecryptInit: "C_DecryptInit",
	fnDecrypt: "C_Decrypt", fnSignInit: "C_SignInit", fnSign: "C_Sign", fnGenerateKey: "C_GenerateKey",
	fnGenerateKeyPair: "C_GenerateKeyPair", fnWrapKey: "C_WrapKey",
	fnUnwrapKey: "C_UnwrapKey", fnGenerateRandom: "C_GenerateRandom",
}

func (f function) String() string { return functionNames[f] }

// A book is what the calls of one user of a module, a token of a Root for one,
// came to: how many of each function, how long they took, what they answered. To
// enter a call takes no lock unless it failed, and less than 100 ns: the shortest
// calls of a module take some microseconds.
type book [functionCount]account

// An account is what the calls of one function came to.
type account struct {
	begun   atomic.Uint64
	nanos   atomic.Uint64 // in all calls that have ended
	buckets [latencyBuckets]atomic.Uint64

	mu    sync.Mutex
	codes map[uint]uint64 // calls by the CKR code that they answered, if it was not CKR_OK
}

// The latencies are counted in buckets whose bounds double: up to 8 us, 16 us, ...
// 16.8 s, and what took longer.
const (
	latencyBuckets = 23
	firstBound     = 8 * time.Microsecond
)

// LatencyBounds returns the upper bounds of all buckets of FunctionStats.Latency
// but the last, which has none.
func LatencyBounds() []time.Duration {
	bounds := make([]time.Duration, latencyBuckets-1)
	for i := range bounds {
		bounds[i] = firstBound << i
	}
	return bounds
}

// bucket returns the index of the bucket for a call that took d.
func bucket(d time.Duration) int {
	if d <= 0 {
		return 0
	}
	return min(bits.Len64(uint64((d-1)/firstBound)), latencyBuckets-1)
}

// maxCodes bounds the codes that are counted by themselves: a module may answer
// anything.
const maxCodes = 32

// otherCodes is the code for those above maxCodes. No function answers it
// (CKR_VENDOR_DEFINED is the first of the vendors' codes, PKCS#11 v2.40 base 3.6).
const otherCodes = ^uint(0)

// start is what the times of calls are relative to: to read the monotonic clock
// alone is half as dear as time.Now.
var start = time.Now()

// An entry is a call that runs.
type entry struct {
	account *account
	begun   time.Duration // since start
}

// enter enters a call that begins now.
func (b *book) enter(f function) entry {
	a := &b[f]
	a.begun.Add(1)
	return entry{a, time.Since(start)}
}

// moved returns e as a call of f: that of a pair which answered in the end.
func (e entry) moved(b *book, f function) entry {
	b[f].begun.Add(1)
	e.account.begun.Add(^uint64(0))
	e.account = &b[f]
	return e
}

// ended enters the end of a call, and its answer.
func (e entry) ended(code uint) {
	took := time.Since(start) - e.begun
	e.account.nanos.Add(uint64(took))
	if code != pkcs11.CKR_OK {
		e.account.failed(code)
	}
	e.account.buckets[bucket(took)].Add(1)
}

// done is ended for what miekg/pkcs11 returned. Its errors that are no CKR codes
// count as CKR_GENERAL_ERROR.
func (e entry) done(err *error) {
	code := uint(pkcs11.CKR_OK)
	if *err != nil {
		code = pkcs11.CKR_GENERAL_ERROR
		if c, ok := (*err).(pkcs11.Error); ok {
			code = uint(c)
		}
	}
	e.ended(code)
}

func (a *account) failed(code uint) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.codes == nil {
		a.codes = make(map[uint]uint64)
	}
	if _, known := a.codes[code]; !known && len(a.codes) >= maxCodes {
		code = otherCodes
	}
	a.codes[code]++
}

// FunctionStats is what the calls of one PKCS#11 function came to. C_Encrypt,
// C_Decrypt and C_Sign are each entered together with the C_...Init before them,
// with the time of both; an Init is entered by itself only where it failed. A
// function that is called twice, for the size of an answer and for the answer,
// counts once.
type FunctionStats struct {
	Function string            `json:"function"` // "C_Encrypt"
	InFlight uint64            `json:"in_flight,omitempty"`
	Seconds  float64           `json:"seconds"`          // that all calls took which have ended
	Latency  []uint64          `json:"latency"`          // calls that have ended, in the buckets of LatencyBounds
	Errors   map[string]uint64 `json:"errors,omitempty"` // of these, by the name of the CKR code
}

// Calls returns how many calls have ended.
func (s FunctionStats) Calls() (n uint64) {
	for _, in := range s.Latency {
		n += in
	}
	return n
}

// stats returns what was entered for each function that was ever called, in the
// order of CK_FUNCTION_LIST.
func (b *book) stats() []FunctionStats {
	var all []FunctionStats
	for f := range b {
		if b[f].begun.Load() > 0 {
			all = append(all, b[f].stats(function(f)))
		}
	}
	return all
}

func (a *account) stats(f function) FunctionStats {
	s := FunctionStats{Function: f.String(), Latency: make([]uint64, latencyBuckets), Errors: a.errors()}
	for i := range s.Latency {
		s.Latency[i] = a.buckets[i].Load()
	}
	s.Seconds = time.Duration(a.nanos.Load()).Seconds()
	s.InFlight = a.begun.Load() - s.Calls() // begun is read last, and so never the smaller
	return s
}

// sumFunctions returns a and b together, of each function one.
func sumFunctions(a, b []FunctionStats) []FunctionStats {
	sum := slices.Clone(a)
	for _, s := range b {
		i := slices.IndexFunc(sum, func(have FunctionStats) bool { return have.Function == s.Function })
		if i < 0 {
			sum = append(sum, s)
			continue
		}
		sum[i] = sum[i].plus(s)
	}
	return sum
}

func (s FunctionStats) plus(o FunctionStats) FunctionStats {
	s.InFlight += o.InFlight
	s.Seconds += o.Seconds
	s.Latency = slices.Clone(s.Latency)
	for i := range min(len(s.Latency), len(o.Latency)) {
		s.Latency[i] += o.Latency[i]
	}
	errors := make(map[string]uint64, len(s.Errors))
	maps.Copy(errors, s.Errors)
	for code, n := range o.Errors {
		errors[code] += n
	}
	s.Errors = errors
	return s
}

// endFunctions returns what is left of all when their module is gone: nothing runs.
func endFunctions(all []FunctionStats) []FunctionStats {
	all = slices.Clone(all)
	for i := range all {
		all[i].InFlight = 0
	}
	return all
}

func (a *account) errors() map[string]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.codes) == 0 {
		return nil
	}
	byName := make(map[string]uint64, len(a.codes))
	for code, n := range a.codes {
		name := "other"
		if code != otherCodes {
			name = codeName(code)
		}
		byName[name] += n
	}
	return byName
}

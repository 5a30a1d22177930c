package api

import (
	"encoding/json"

	"github.com/keygate/keygate/kms"
)

// A BatchGenerateRequest is the body of a batch of new data keys: Count of them
// under one context, or one for each of Contexts. Ours.
type BatchGenerateRequest struct {
	Count    int      `json:"count,omitempty"`
	Context  []byte   `json:"context,omitempty"`
	Contexts [][]byte `json:"contexts,omitempty"`
	// Plaintext, if it is false, asks for ciphertexts only.
	Plaintext *bool `json:"plaintext,omitempty"`
}

// A BatchDecryptItem is one element of the answer to a batch of ciphertexts: a
// plaintext, or a text of the table of errors. Ours.
type BatchDecryptItem struct {
	Plaintext Secret `json:"plaintext,omitempty"`
	Error     string `json:"error,omitempty"`
}

// ParseBatchGenerate reads a BatchGenerateRequest strictly: fields that are not
// known, that come twice or in another case are ErrBody. More than kms.MaxBatch
// data keys are ErrBatch. The contexts are parts of body, which is overwritten.
func ParseBatchGenerate(body []byte) (*BatchGenerateRequest, error) {
	const count, context, contexts, plaintext = 0, 1, 2, 3
	s := strict{b: body}
	r := new(BatchGenerateRequest)
	there := s.object([]string{"count", "context", "contexts", "plaintext"}, func(i int) {
		switch i {
		case count:
			r.Count = s.count()
		case context:
			r.Context = s.optionalBinary()
		case contexts:
			s.array(func() { r.Contexts = appendUpTo(r.Contexts, s.optionalBinary()) })
		case plaintext:
			v := s.boolean()
			r.Plaintext = &v
		}
	})
	has := func(field int) bool { return there&(1<<field) != 0 }
	if !s.end() || has(count) == has(contexts) || has(context) && !has(count) {
		return nil, ErrBody
	}
	if has(contexts) {
		r.Count = len(r.Contexts)
	} else {
		r.Contexts = [][]byte{r.Context}
	}
	if r.Count > kms.MaxBatch {
		return nil, ErrBatch
	}
	return r, nil
}

// ParseBatchDecrypt reads a list of DecryptRequest, as ParseBatchGenerate does.
func ParseBatchDecrypt(body []byte) ([]kms.Sealed, error) {
	const ciphertext = 0
	s := strict{b: body}
	list := []kms.Sealed{}
	s.array(func() {
		var one kms.Sealed
		there := s.object([]string{"ciphertext", "context"}, func(i int) {
			if i == ciphertext {
				one.Ciphertext = s.binary()
			} else {
				one.AdditionalData = s.optionalBinary()
			}
		})
		if there&(1<<ciphertext) == 0 {
			s.fail()
		}
		list = appendUpTo(list, one)
	})
	if !s.end() {
		return nil, ErrBody
	}
	if len(list) > kms.MaxBatch {
		return nil, ErrBatch
	}
	return list, nil
}

// appendUpTo appends, up to one more than a batch may have.
func appendUpTo[T any](list []T, one T) []T {
	if len(list) > kms.MaxBatch {
		return list
	}
	return append(list, one)
}

// ParseSetMode reads a SetModeRequest, as ParseBatchGenerate does.
func ParseSetMode(body []byte) (*SetModeRequest, error) {
	s := strict{b: body}
	r := new(SetModeRequest)
	there := s.object([]string{"mode"}, func(int) { r.Mode = string(s.text()) })
	if !s.end() || there == 0 {
		return nil, ErrBody
	}
	return r, nil
}

// AppendDataKey appends an element of the answer to a batch of new data keys. A
// nil plaintext is left out.
func AppendDataKey(dst, plaintext, ciphertext []byte) []byte {
	r := GenerateKeyResponse{Plaintext: plaintext, Ciphertext: ciphertext}
	return r.AppendJSON(dst)
}

// AppendOpened appends an element of the answer to a batch of ciphertexts.
func AppendOpened(dst []byte, o kms.Opened) []byte {
	if o.Err != nil {
		dst = append(dst, `{"error":`...)
		return append(appendText(dst, ErrorOf(o.Err).Message), '}')
	}
	r := DecryptResponse{Plaintext: o.Plaintext}
	return r.AppendJSON(dst)
}

// ItemError returns the error whose text an item of a batch holds. If the table
// has none of that text it has the status of ErrInternal.
func ItemError(text string) *Error {
	for _, r := range table {
		if e := (&Error{r.status, text}); r.matches(e) {
			return e
		}
	}
	return &Error{ErrInternal.Status, text}
}

func appendText(dst []byte, text string) []byte {
	b, _ := json.Marshal(text) // of a string: cannot fail
	return append(dst, b...)
}

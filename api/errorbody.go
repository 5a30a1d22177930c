package api

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strings"
)

// maxErrorBody bounds what is read of an answer that is not a success.
const maxErrorBody = 64 << 10

// AppendBody appends the body of the error's answer to dst:
//
//	{"message":"<text>"
//	}
//
// with the line break where KES has it. What is not UTF-8 in the text becomes
// U+FFFD.
func (e *Error) AppendBody(dst []byte) []byte {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.Encode(e.Message) // of a string, to memory: cannot fail; ends in a line break
	dst = append(dst, `{"message":`...)
	dst = append(dst, text.Bytes()...)
	return append(dst, '}')
}

// ReadError returns the *Error that an answer other than a success holds. It
// reads the body and leaves it to the caller to close. An answer that is not
// JSON, of a proxy perhaps, is text as it stands.
func ReadError(resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return &Error{resp.StatusCode, resp.Status}
	}
	e := &Error{Status: resp.StatusCode, Message: strings.TrimSpace(string(raw))}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "application/json" {
		var body struct {
			Message string `json:"message"`
			Error   string `json:"error"` // of servers before KES 2022
		}
		if json.Unmarshal(raw, &body) == nil {
			e.Message = body.Message
			if body.Error != "" {
				e.Message = body.Error
			}
		}
	}
	if e.Message == "" {
		e.Message = resp.Status
	}
	return e
}

package gateway

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/envelope"
)

// maxModeBody is the most bytes of a body that says a mode.
const maxModeBody = 4096

func (s *Server) setKeyMode(r *request) (any, error) {
	name, err := r.name()
	if err != nil {
		return nil, err
	}
	if err := r.read(); err != nil {
		return nil, err
	}
	in, err := api.ParseSetMode(r.body)
	if err != nil {
		return nil, err
	}
	mode, err := parseMode(in.Mode)
	if err != nil {
		return nil, err
	}
	info, err := s.cfg.KMS.SetMode(&r.ctx, name, mode)
	r.described(info)
	if err == nil {
		r.entry.Mode = info.Mode.String()
	}
	return nil, err
}

// parseMode reads a mode; "default" is zero, the gateway's.
func parseMode(text string) (envelope.Mode, error) {
	if text == "default" {
		return 0, nil
	}
	mode, err := envelope.ParseMode(text)
	if err != nil {
		return 0, api.ErrMode
	}
	return mode, nil
}

// createMode returns the mode that the body of a create asks for. KES ignores
// that body, and its clients may send anything: so does this, unless it is an
// object with a mode.
func (r *request) createMode() (envelope.Mode, error) {
	body, err := r.smallBody()
	if err != nil {
		return 0, err
	}
	text, there, err := modeField(body)
	if err != nil || !there {
		return 0, err
	}
	return parseMode(text)
}

// smallBody returns the body, if it has at most maxModeBody bytes, or nothing.
func (r *request) smallBody() (body []byte, err error) {
	if r.http.ContentLength == 0 || r.http.ContentLength > maxModeBody {
		return nil, nil
	}
	r.timeReads(func() { body, err = io.ReadAll(io.LimitReader(r.http.Body, maxModeBody+1)) })
	if err != nil {
		return nil, api.ErrBody
	}
	if len(body) > maxModeBody {
		return nil, nil
	}
	return body, nil
}

// modeField returns the field "mode" of an object. What could be one and is not,
// being there twice, in another case or of another type, is an error: a key that
// was to be in direct mode is not made in the other.
func modeField(body []byte) (text string, there bool, err error) {
	if !json.Valid(body) {
		return "", false, nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if first, err := d.Token(); err != nil || first != json.Delim('{') {
		return "", false, nil
	}
	for d.More() {
		name, err := d.Token()
		var value any
		if err != nil || d.Decode(&value) != nil {
			return "", false, nil // cannot be, of what is valid
		}
		if field, _ := name.(string); !strings.EqualFold(field, "mode") {
			continue
		}
		mode, ok := value.(string)
		if !ok || name != "mode" || there {
			return "", false, api.ErrMode
		}
		text, there = mode, true
	}
	return text, there, nil
}

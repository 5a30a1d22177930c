package api

import "encoding/json"

// AttestResponse holds what each token of the root of trust says of its keys: DSSE
// envelopes (version 1), to be verified as they are.
type AttestResponse struct {
	Attestations []json.RawMessage `json:"attestations"`
	// Missing says why there is none of the other tokens. It is not signed.
	Missing []string `json:"missing,omitempty"`
}

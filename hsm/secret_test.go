package hsm_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

func TestAU06_WhatHoldsASecretDoesNotShowIt(t *testing.T) {
	f, cfg := initialised(t)
	cfg.PIN = hsm.PIN{FD: pinFD(t, f.PIN)} // so that the root keeps it
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r, err := hsm.Open(t.Context(), cfg, logger)
	ok(t, err)
	defer r.Close()
	key := []byte("0123456789abcdefghijklmnopqrstuv")
	_, err = r.ImportKey(t.Context(), kms.KeyID{1}, kms.Encryption, key)
	ok(t, err)
	logger.Info("all", "root", r, "config", cfg, "stats", r.Stats(), "token", r.Token())
	text := log.String() + fmt.Sprintf("%v %+v %#v %s %d %x", r, r, r, r, r, r) + fmt.Sprintf("%v %+v %#v", cfg, cfg, cfg)
	asJSON, err := json.Marshal([]any{r, cfg, r.Stats(), r.Token()})
	ok(t, err)
	text += string(asJSON)
	for _, secret := range []string{f.PIN, fmt.Sprintf("%x", f.PIN), fmt.Sprintf("%d", []byte(f.PIN)), string(key), fmt.Sprintf("%x", key), fmt.Sprintf("%d", key)} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is in %s", secret, text)
		}
	}
}

func TestBI15_ErrorsHoldNothingOfTheRequest(t *testing.T) {
	const marker = "marker-a8f1-of-the-request"
	r := hsmtest.Root(t)
	handle := newKey(t, r, kms.Encryption)
	long := []byte(strings.Repeat(marker, 300))
	var errs []error
	add := func(_ any, err error) { errs = append(errs, err) }
	add(r.Encrypt(t.Context(), handle, long, nil))
	add(r.Encrypt(t.Context(), handle, nil, long))
	add(r.Encrypt(t.Context(), []byte(marker), []byte(marker), []byte(marker)))
	add(r.Decrypt(t.Context(), handle, []byte(marker+marker), []byte(marker)))
	add(r.MAC(t.Context(), []byte(marker), []byte(marker)))
	add(r.ImportKey(t.Context(), kms.KeyID{}, kms.Encryption, []byte(marker)))
	add(nil, r.DestroyKey(t.Context(), []byte(marker)))
	for i, err := range errs {
		if err == nil || strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), marker) {
			t.Errorf("%d: error is %v", i, err)
		}
	}
}

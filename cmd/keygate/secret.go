package main

import (
	"fmt"
	"io"
	"log/slog"
)

// A secret is a text that must not be seen. Whatever prints, logs or encodes it
// gets a mark in its place.
type secret string

const redacted = "[redacted]"

// Format is what all verbs of package fmt call.
func (secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue is what package slog calls.
func (secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText is what encoders of JSON, YAML and XML call.
func (secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

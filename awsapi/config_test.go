package awsapi

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFaults(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string // the beginning of the only fault; "" for none
	}{
		{Config{}, ""},
		{Config{Endpoint: "https://vpce-1.kms.eu-west-1.vpce.amazonaws.com"}, ""},
		{Config{Endpoint: "http://127.0.0.1:5000"}, ""},
		{Config{Endpoint: "http://[::1]:5000"}, ""},
		{Config{Endpoint: "http://localhost:5000"}, ""},
		{Config{Endpoint: "http://kms.example.net"}, "endpoint: it is not https"},
		{Config{Endpoint: "ftp://127.0.0.1"}, "endpoint: it is not https"},
		{Config{Endpoint: "kms.example.net"}, "endpoint: it is not a URL"},
		{Config{Endpoint: "https://user:password@kms.example.net"}, "endpoint: it is not a URL"},
		{Config{Endpoint: "https://kms.example.net", FIPS: true}, "fips: "},
		{Config{Timeout: -time.Second}, "timeout: "},
	} {
		err := errors.Join(c.cfg.Faults()...)
		switch {
		case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)):
			t.Errorf("%+v: %v", c.cfg, err)
		case err != nil && strings.Contains(err.Error(), "password"):
			t.Errorf("a password is told: %v", err)
		}
	}
}

func TestCredentialsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	const good = "[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = wJalrSECRET\n"
	write(good, 0o600)
	cfg, err := Config{Region: "eu-west-1", Credentials: file}.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := cfg.Credentials.Retrieve(t.Context())
	if err != nil || c.AccessKeyID != "AKIDEXAMPLE" || c.SecretAccessKey != "wJalrSECRET" || c.SessionToken != "" {
		t.Errorf("%s, %v", c.AccessKeyID, err)
	}
	if left := time.Until(c.Expires); !c.CanExpire || left > credentialsLife || left < credentialsLife/2 {
		t.Errorf("read again in %v", left)
	}
	// The file is read each time, not the environment.
	t.Setenv("AWS_ACCESS_KEY_ID", "other")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "other")
	write(strings.Replace(good, "AKIDEXAMPLE", "AKIDCHANGED", 1), 0o400)
	if c, err := credentialsFile(file).Retrieve(t.Context()); err != nil || c.AccessKeyID != "AKIDCHANGED" {
		t.Errorf("after a change: %s, %v", c.AccessKeyID, err)
	}
	for name, bad := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"readable by all": {good, 0o604, "every user of this machine may use"},
		"empty":           {"", 0o600, "no profile [default]"},
		"other profile":   {strings.Replace(good, "default", "other", 1), 0o600, "profile [default]"},
		"half":            {"[default]\naws_secret_access_key = wJalrSECRET\n", 0o600, "profile [default]"},
		"no file at all":  {"\x00\xff[wJalrSECRET", 0o600, "profile [default]"},
	} {
		write(bad.text, bad.mode)
		_, err := Config{Region: "eu-west-1", Credentials: file}.Load(t.Context())
		if err == nil || !strings.Contains(err.Error(), bad.want) || strings.Contains(err.Error(), "wJalr") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestARegionIsNeeded(t *testing.T) {
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	if _, err := (Config{}).Load(t.Context()); err == nil || !strings.Contains(err.Error(), "region: ") {
		t.Errorf("error is %v", err)
	}
	t.Setenv("AWS_REGION", "eu-central-1")
	cfg, err := Config{}.Load(t.Context())
	if err != nil || cfg.Region != "eu-central-1" {
		t.Errorf("region %s, %v", cfg.Region, err)
	}
}

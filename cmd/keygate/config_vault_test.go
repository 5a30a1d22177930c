package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The alternatives that the example has in comments are accepted as they are
// written, but for the auth section, which shows all four of which there may be
// one.
func TestExampleOfVaultIsAConfiguration(t *testing.T) {
	text, err := os.ReadFile("../../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	serverFiles(t)
	head, _, _ := strings.Cut(string(text), "\nkeystore:\n")
	store, root := commented(t, string(text), "In the KV engine"), commented(t, string(text), "The transit engine")
	for _, method := range []string{"token_file", "approle", "kubernetes", "cert"} {
		section := only(root, method)
		if method == "cert" {
			section = strings.NewReplacer(`cert: ""`, "cert: server.crt", `key: ""`, "key: server.key").Replace(section)
		}
		c, err := parse(head + "\nkeystore:\n" + store + "root:\n" + section)
		if err != nil {
			t.Errorf("%s: %v", method, err)
			continue
		}
		if c.Root.Vault.Prefix != "keygate-" || c.KeyStore.Vault.Path != "keygate" {
			t.Errorf("%s: the root is %+v, the key store %+v", method, c.Root.Vault, c.KeyStore.Vault)
		}
	}
	if _, err := parse(head + "\nkeystore:\n" + store + "root:\n" + root); err == nil || !strings.Contains(err.Error(), "root.vault.auth: give exactly one") {
		t.Errorf("with all four methods: %v", err)
	}
}

// otherMethods are the ways to log in that the example has as comments in a comment.
var otherMethods = regexp.MustCompile(`^( +)# ((approle|kubernetes|cert):|  .*)`)

// commented returns the section whose comment begins with mark, without the
// marks of comments.
func commented(t *testing.T, text, mark string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "  # "+mark)
	if !ok {
		t.Fatalf("the example has no comment %q", mark)
	}
	var out strings.Builder
	for line := range strings.Lines(rest[strings.IndexByte(rest, '\n')+1:]) {
		line, ok := strings.CutPrefix(line, "  # ")
		if !ok {
			break
		}
		line = otherMethods.ReplaceAllString(line, "$1$2")
		out.WriteString("  " + line)
	}
	return out.String()
}

// only keeps one method of the section auth.
func only(section, method string) string {
	head, auth, _ := strings.Cut(section, "    auth:\n")
	lines := strings.SplitAfter(auth, "\n")
	begin := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "      "+method+":") })
	end := begin + 1
	for end < len(lines) && strings.HasPrefix(lines[end], "        ") {
		end++
	}
	return head + "    auth:\n" + strings.Join(lines[begin:end], "")
}

func TestConfigOfVaultSaysWhatIsWrong(t *testing.T) {
	serverFiles(t)
	const head = `cluster: 5f0c1d2e3b4a59687786950a1b2c3d4e
admin: {identity: ` + testIdentity + `}
tls: {key: server.key, cert: server.crt}
`
	for config, want := range map[string]string{
		"keystore: {memory: {}}\nroot: {vault: {address: 'http://vault:8200', auth: {token_file: /t}}}":                 `root.vault.address: "http://vault:8200" is no URL of the form https://host:port`,
		"keystore: {memory: {}}\nroot: {vault: {address: 'https://vault', auth: {approle: {}}}}":                        "root.vault.auth.approle.role_id: it is missing",
		"keystore: {memory: {}}\nroot: {vault: {address: 'https://vault', prefix: -, auth: {token_file: /t}}}":          "root.vault.prefix:",
		"keystore: {memory: {}}\nroot: {vault: {address: 'https://vault', auth: {cert: {}}}}":                           "root.vault.auth.cert: it needs tls.cert and tls.key",
		"keystore: {memory: {}}\nroot: {vault: {address: 'https://vault', token: s.x, auth: {token_file: /t}}}":         `unknown key "root.vault.token"`,
		"root: {pkcs11: {module: /m, token: t, pin: {file: /p}}}\nkeystore: {vault: {endpoint: 'https://vault'}}":       "keystore.vault is not as in KES",
		"root: {pkcs11: {module: /m, token: t, pin: {file: /p}}}\nkeystore: {vault: {address: 'https://v', path: a/}}":  "keystore.vault.path:",
		"root: {pkcs11: {module: /m, token: t, pin: {file: /p}}}\nkeystore: {vault: {address: 'https://v', auth: {}}}":  "keystore.vault.auth: give exactly one",
		"keystore: {memory: {}}\nroot: {vault: {address: 'https://v', mount: ../sys, auth: {token_file: /t}}}":          "root.vault.mount:",
		"keystore: {memory: {}}\nroot: {vault: {address: 'https://v', namespace: /a, auth: {token_file: /t}}}":          "root.vault.namespace:",
		"keystore: {memory: {}}\nroot: {vault: {address: 'https://v', timeout: 1ms, auth: {token_file: /t}}}":           "root.vault.timeout:",
		"keystore: {memory: {}}\nroot: {vault: {address: 'https://v', tls: {cert: /c}, auth: {token_file: /t}}}":        "root.vault.tls:",
		"keystore: {memory: {}}\nroot: {vault: {address: 'https://v', auth: {token_file: /t}}, pkcs11: {module: /m}}\n": "root is exactly one of pkcs11",
	} {
		if _, err := parse(head + config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot %v, want %s", config, err, want)
		}
	}
}

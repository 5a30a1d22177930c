package mirror_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/local"
	"github.com/keygate/keygate/mirror"
)

// What one release made, over roots whose keys are these: the file of the record key,
// an encryption key, a ciphertext of "plaintext" with "data", an authentication key, and
// the record key's MAC of "record".
const (
	goldenFirst          = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	goldenSecond         = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
	goldenFile           = "keygate mirror record key 1\nAQIAXgECZb+9OQC+71yqx4sEU5scCMomaAkMALYHo7NY5GZeqA/rv7e/bo+cuagnNPN8rFwCnpoTVCSUQM9Kcb3e/AeCBeYWTeBWRTHlLuqu2kkA0/EvVHXBZJp5riJ4VFoAXgECZb+9OQC+71yqx4sEU5scCORCZ8rzNz0b3umU9/Bi8vW5RnYq/p12yWztiEnjsX9hLkcTobW5mHMHMaJT3AkbSDycgwGNVQT00Ixb45GV4X8mH/s3tJwqB4GGQwuV5o7EvBwj/A==\nAFbhRfqJRif3pBgwkKmE8K4qc8nZib+5myUhqtWtTFw=\n"
	goldenEncryption     = "0101005e0101010000000000000000000000000000001380864b48df5b52f8843e4ba6ac1332170127b97321e77ad40047616308a778381ca9e9d3fbc20fb241ed91775c3c360843bd03ed8fa98bcfa6733df314712a57fc6ba78f36367dc7023d99005e010101000000000000000000000000000000af04643ac997677935447371aecd51cad6d8d48a196120749e00a10fd2f6ae6d888c15cc5729c9b2c54b4957b4445241a3acde184f09c822bab9eac14d653f3e63ef5370c5e4ff4a0b66f78457a326e39dbd46a0"
	goldenCiphertext     = "010044fcf96e210a5e0958dc741e36da2594e65bbeec8d827446fa2c1bdb4ba5b4e14448ad3979aa448b6a936561e16575a93d8bc66d1e0446adac6516d8329ff19ff632fc67bd004443cf3992cd0392e032616a4a0640d0f3b0230f5b4017ed8618fe6f665378f7edee810da8382b19d6149ff91686af54e9a7f67ab4cf4a82dda9ae06271eb1d8e5c2ba47a247271fa1320a50e21cc42bc15bdd04b6c7a4ae9f34af1720abd3938ca9057e9c7b1615280c93e029cbf54ff05a"
	goldenAuthentication = "0102005e010202000000000000000000000000000000fc6280a544770b54e81570b4091057fdbf80d3e474dff12258a04293d8adf70472e9829b68175cd3674b611e724b21aab092d975c5d3d547b96721d6cf22349ea93cad3ca04ee4e032a5cdf2005e0102020000000000000000000000000000004dad2425837d401904e1f5099b69df415d5946142eeabcdfd4da67a29aa838ac44960f34114a9c2f474ffd900d11ff6648a3e2dc3028c883e5c2eccc1cd9b5c5ebeddc1c8780a247394c179eef420d1958f34c24"
	goldenRecordMAC      = "4c6906bb227ed000b468a84f6e96f7d9cecf7dd49b2e3ec8160db6edd1771176"
)

func goldenMember(t *testing.T, key string) mirror.Member {
	t.Helper()
	file := filepath.Join(t.TempDir(), "root.key")
	ok(t, os.WriteFile(file, []byte("keygate local root key 1\n"+key+"\n"), 0o600))
	return mirror.Member{Kind: "local", Open: func(context.Context) (kms.Root, error) { return local.Open(local.Config{File: file}) }}
}

// Every later release opens it, with either root.
func TestCR15_GoldenFormats(t *testing.T) {
	var sides [2]frail
	first, second := sides[0].member(goldenMember(t, goldenFirst)), sides[1].member(goldenMember(t, goldenSecond))
	cfg := mirror.Config{RecordKeyFile: filepath.Join(t.TempDir(), "record-key")}
	ok(t, os.WriteFile(cfg.RecordKeyFile, []byte(goldenFile), 0o600))
	w := &world{Root: opened(t, mirror.OpenQuick, cfg, first, second), sides: [2]*frail{&sides[0], &sides[1]}}
	for away := -1; away < 2; away++ {
		if away >= 0 {
			w.lose(t, away, refuses)
		}
		p, err := w.Decrypt(t.Context(), unhex(t, goldenEncryption), unhex(t, goldenCiphertext), []byte("data"))
		if err != nil || string(p) != "plaintext" {
			t.Errorf("root %d is away: %q, %v", away, p, err)
		}
		own := hmac.New(sha256.New, []byte("an imported key of thirty-two by"))
		own.Write([]byte("message"))
		if sum, err := w.MAC(t.Context(), unhex(t, goldenAuthentication), []byte("message")); err != nil || !hmac.Equal(sum[:], own.Sum(nil)) {
			t.Errorf("root %d is away: MAC is %x, %v", away, sum, err)
		}
		if sum, err := w.MAC(t.Context(), nil, []byte("record")); err != nil || hex.EncodeToString(sum[:]) != goldenRecordMAC {
			t.Errorf("root %d is away: the record key's MAC is %x, %v", away, sum, err)
		}
		w.mend(t)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	ok(t, err)
	return b
}

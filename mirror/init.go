package mirror

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/newfile"
)

// The file of the record key: a line that says what it is, the handle of the record
// key, and its MAC of a constant, both in base64, each on a line. It tells nothing to
// who cannot use a root.
const (
	fileHead    = "keygate mirror record key 1\n"
	maxFile     = len(fileHead) + (kms.MaxHandleSize+2)/3*4 + 1 + (kms.MACSize+2)/3*4 + 1
	proofOfFile = "keygate mirror record key check 1"
)

// A recordKey is what the file holds.
type recordKey struct {
	handle keyHandle
	check  [kms.MACSize]byte
}

// provedBy returns an error unless root, the i-th, has the record key.
func (k recordKey) provedBy(ctx context.Context, root kms.Root, i int) error {
	mac, err := root.MAC(ctx, k.handle.halves[i], []byte(proofOfFile))
	if errors.Is(err, kms.ErrCorrupt) {
		return fmt.Errorf("it does not have the record key of record_key_file: it is another root than that was made with, or first and second have changed places: %w", err)
	}
	if err == nil && !hmac.Equal(mac[:], k.check[:]) {
		err = fmt.Errorf("%w: its record key is another than that of record_key_file", kms.ErrCorrupt)
	}
	return err
}

// Init makes the record key in both roots, which have to be there, and its file,
// durably, and tells whether it did: a file that is there is left as it is, and has
// to be that of these roots. The directory must exist. The file has to be copied to
// all gateways of the cluster, and to where backups are.
func Init(ctx context.Context, cfg Config, members [2]Member, log *slog.Logger) (made bool, err error) {
	if err := cfg.Check(); err != nil {
		return false, err
	}
	if log == nil {
		log = slog.Default()
	}
	if _, err := os.Lstat(cfg.RecordKeyFile); errors.Is(err, fs.ErrNotExist) {
		if err := makeRecordKey(ctx, cfg, members, log); err != nil && !errors.Is(err, fs.ErrExist) {
			return false, fmt.Errorf("mirror: init: %w", err)
		} else {
			made = err == nil
		}
	}
	r, err := Open(ctx, cfg, members, log)
	if err != nil {
		return made, err
	}
	err = r.complete(ctx, "init")
	return made, errors.Join(err, r.Close())
}

// makeRecordKey makes the record key and its file, or fs.ErrExist.
func makeRecordKey(ctx context.Context, cfg Config, members [2]Member, log *slog.Logger) (err error) {
	r := newRoot(cfg, members, log, defaultTimes)
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := r.begin(ctx); err != nil {
		return err
	}
	var id kms.KeyID
	rand.Read(id[:])
	b, err := r.NewKey(ctx, id, kms.Authentication)
	if err != nil {
		return err
	}
	h, err := parseHandle(b)
	if err != nil {
		return err
	}
	check, err := r.MAC(ctx, b, []byte(proofOfFile))
	if err == nil {
		text := fileHead + base64.StdEncoding.EncodeToString(b) + "\n" + base64.StdEncoding.EncodeToString(check[:]) + "\n"
		err = newfile.Create(cfg.RecordKeyFile, []byte(text))
	}
	if err != nil {
		r.discard(ctx, h.halves)
	}
	return err
}

// readRecordKey reads a file of Init.
func readRecordKey(path string) (recordKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return recordKey{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return recordKey{}, err
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return recordKey{}, fmt.Errorf("%s: others may write it (mode %04o): chmod 0644 it", path, perm)
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(maxFile)+1))
	if err != nil {
		return recordKey{}, err
	}
	k, err := parseRecordKey(string(text))
	if err != nil {
		return k, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

var errRecordFile = errors.New("it is no record key that keygate root init made for a mirror, or not all of it")

func parseRecordKey(text string) (k recordKey, err error) {
	rest, ok := strings.CutPrefix(text, fileHead)
	lines := strings.Split(rest, "\n")
	if !ok || len(text) > maxFile || len(lines) != 3 || lines[2] != "" {
		return k, errRecordFile
	}
	handle, err := base64.StdEncoding.Strict().DecodeString(lines[0])
	if err != nil {
		return k, errRecordFile
	}
	check, err := base64.StdEncoding.Strict().DecodeString(lines[1])
	if err != nil || len(check) != sha256.Size {
		return k, errRecordFile
	}
	if k.handle, err = handleFor(handle, kms.Authentication); err != nil {
		return k, err
	}
	k.check = [kms.MACSize]byte(check)
	return k, nil
}

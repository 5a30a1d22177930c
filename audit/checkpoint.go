package audit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// CheckpointConfig says how the log is signed. The zero value is: not at all.
type CheckpointConfig struct {
	// Key names the key that signs, as pkcs11:object=LABEL. Empty: none does.
	Key string `yaml:"key"`
	// Every is how often the lines since the last checkpoint are signed. Zero is
	// DefaultCheckpointInterval.
	Every time.Duration `yaml:"every"`
	// Entries has them signed also after so many lines. Zero: by time only.
	Entries int `yaml:"entries"`
}

// The bounds of CheckpointConfig.
const (
	DefaultCheckpointInterval = time.Minute
	minCheckpointInterval     = time.Second
	minCheckpointEntries      = 100
)

// Check returns what is wrong with c.
func (c CheckpointConfig) Check() error {
	switch {
	case c.Key == "" && (c.Every != 0 || c.Entries != 0):
		return errors.New("audit: checkpoint.key: it is missing, and checkpoint has other settings")
	case c.Every != 0 && c.Every < minCheckpointInterval:
		return fmt.Errorf("audit: checkpoint.every: %v is less than %v", c.Every, minCheckpointInterval)
	case c.Entries != 0 && c.Entries < minCheckpointEntries:
		return fmt.Errorf("audit: checkpoint.entries: %d is less than %d", c.Entries, minCheckpointEntries)
	}
	return nil
}

// A checkpointLine is a signature over the chain. It stands after the lines that it
// covers, and maybe after some more, which were written while it was made.
type checkpointLine struct {
	Log       string    `json:"log"`      // of the chain
	Sequence  uint64    `json:"sequence"` // of the checkpoint in its chain, from 1
	Lines     uint64    `json:"lines"`    // of the chain that are covered, from its first
	Value     string    `json:"value"`    // of the chain after them, in hex
	At        time.Time `json:"at"`       // when the chain was read
	Key       string    `json:"key"`      // SHA-256 of the public key (PKIX DER), in hex
	Signature []byte    `json:"signature"`
}

// signed returns what the signature is over: no other signature of the key is over
// bytes that begin so.
func (c *checkpointLine) signed() []byte {
	return fmt.Appendf(nil, "keygate audit checkpoint 1\n%s\n%d\n%d\n%s\n%s\n", c.Log, c.Sequence, c.Lines, c.Value, c.At.UTC().Format(time.RFC3339Nano))
}

// checkpoints signs the log, beside its writers: none of them waits for a signature.
type checkpoints struct {
	due  chan struct{} // has a message when enough lines are there
	quit chan struct{} // nil: nothing is signed
	done chan struct{}

	key       crypto.Signer
	keyID     string
	sequence  uint64
	problem   string    // the last that was logged, so that it is not logged each time
	uncovered time.Time // since when a checkpoint is due that was not written; guarded by Log.mu, as sequence and problem
}

// SignCheckpoints has key, an ECDSA or RSA key, sign checkpoints as the
// configuration says, from now on until EndCheckpoints. A key that cannot sign makes
// checkpoints late, and holds up no entry.
func (l *Log) SignCheckpoints(key crypto.Signer) error {
	if !l.chain.on {
		return nil
	}
	id, err := keyID(key.Public())
	if err != nil {
		return err
	}
	l.key, l.keyID = key, id
	l.quit, l.done = make(chan struct{}), make(chan struct{})
	go l.signAll()
	return nil
}

// keyID returns how checkpoints name a key.
func keyID(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("audit: the key for checkpoints: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// EndCheckpoints signs what no checkpoint covers yet, and ends. It does nothing the
// second time. Call it before the key goes.
func (l *Log) EndCheckpoints() {
	if l.quit == nil {
		return
	}
	close(l.quit)
	<-l.done
	l.quit = nil
}

func (l *Log) signAll() {
	defer close(l.done)
	every := l.cfg.Checkpoint.Every
	if every == 0 {
		every = DefaultCheckpointInterval
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	l.checkpoint() // of the line that begins the chain: the key is seen to work
	for {
		select {
		case <-tick.C:
			l.checkpoint()
		case <-l.due:
			l.checkpoint()
		case <-l.quit:
			l.settle() // what is left out is counted in entries of its own: they are to be covered
			l.checkpoint()
			return
		}
	}
}

// checkpoint signs and writes a checkpoint, if there are lines that none covers, and
// leaves a mark of what it covers.
func (l *Log) checkpoint() {
	c, due := l.snapshot()
	if !due {
		return
	}
	err := l.sign(&c)
	signed := err == nil
	if signed {
		err = l.writeLine(func(dst []byte) []byte { return appendControl(dst, time.Now(), checkpointOperation, "checkpoint", c) })
	}
	l.checkpointed(c, signed, err)
	if err == nil {
		l.leave(mark{Log: c.Log, Sequence: c.Sequence, Lines: c.Lines, Value: c.Value})
	}
}

// checkpointed takes note of what has become of c.
func (l *Log) checkpointed(c checkpointLine, signed bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if signed {
		l.sequence = c.Sequence // also if its line waits in the backlog
	}
	if err != nil {
		l.stats.CheckpointErrors++
		if text := err.Error(); text != l.problem {
			l.problem = text
			l.cfg.Logger.Error("audit: a checkpoint is late: what is in the log since the last one is not signed yet", "error", err)
		}
		return
	}
	if l.problem != "" {
		l.problem = ""
		l.cfg.Logger.Info("audit: checkpoints are signed again")
	}
	l.stats.Checkpoints++
	l.covered, l.uncovered = c.Lines, time.Time{}
}

// snapshot returns the next checkpoint, not signed yet. It is due if there are lines
// that the last one does not cover, but for itself.
func (l *Log) snapshot() (c checkpointLine, due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.hasUncovered() {
		return c, false
	}
	if l.uncovered.IsZero() {
		l.uncovered = time.Now()
	}
	return checkpointLine{Log: l.chain.log, Sequence: l.sequence + 1, Lines: l.chain.lines, Value: hex.EncodeToString(l.chain.value[:]), At: time.Now().UTC(), Key: l.keyID}, true
}

// hasUncovered reports whether there are lines after those that are covered and the
// line of the checkpoint itself.
func (l *Log) hasUncovered() bool {
	own := uint64(0)
	if l.sequence > 0 {
		own = 1
	}
	return l.chain.on && l.chain.lines > l.covered+own
}

// unsigned is Stats.Unsigned, with mu held.
func (l *Log) unsigned() time.Duration {
	if l.uncovered.IsZero() {
		return 0
	}
	return time.Since(l.uncovered)
}

// sign has the key sign c, and sees that it did.
func (l *Log) sign(c *checkpointLine) (err error) {
	text := c.signed()
	digest := sha256.Sum256(text)
	if c.Signature, err = l.key.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
		return fmt.Errorf("audit: sign a checkpoint: %w", err)
	}
	if !verifies(l.key.Public(), text, c.Signature) {
		return errWrongSignature
	}
	return nil
}

// errWrongSignature says that what the key made would not verify: in the log it would
// look like a line that was changed.
var errWrongSignature = errors.New("audit: sign a checkpoint: the signature is empty, or not that of the key")

// verifies reports whether signature is that of key over message: ECDSA, or RSA as
// in PKCS #1 v1.5, with SHA-256.
func verifies(key crypto.PublicKey, message, signature []byte) bool {
	digest := sha256.Sum256(message)
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest[:], signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], signature) == nil
	}
	return false
}

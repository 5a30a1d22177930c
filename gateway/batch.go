package gateway

import (
	"errors"
	"net/http"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/kms"
)

// batchGenerate makes many data keys. All that can fail is done before the
// request is audited; in branch mode the data keys themselves are made while they
// are written.
func (s *Server) batchGenerate(r *request) (any, error) {
	name, err := r.name()
	if err != nil {
		return nil, err
	}
	if err := r.read(); err != nil {
		return nil, err
	}
	in, err := api.ParseBatchGenerate(r.body)
	if err != nil {
		return nil, err
	}
	r.entry.Items = in.Count
	r.charge(in.Count)
	batch, use, err := s.cfg.KMS.GenerateDataKeys(&r.ctx, name, in.Count, in.Contexts)
	r.used(use)
	if err != nil {
		return nil, err
	}
	if !allDecryptable(batch, in.Contexts) {
		batch.Wipe()
		return nil, api.ErrBody
	}
	s.metrics.items.WithLabelValues(r.route.action.String(), "ok").Add(float64(in.Count))
	return &newDataKeys{batch, in.Plaintext == nil || *in.Plaintext}, nil
}

// allDecryptable reports whether each data key can be sent to a decrypt of its
// own, whose body is less than that of a batch. There is a context for each of
// them, or one for all.
func allDecryptable(batch *kms.Batch, contexts [][]byte) bool {
	i := 0
	for size := range batch.CiphertextSizes() {
		if !decryptable(size, len(contexts[min(i, len(contexts)-1)])) {
			return false
		}
		i++
	}
	return true
}

// batchDecrypt opens many ciphertexts, each with an answer of its own. If the
// root of trust or the key store could serve none of them, the request fails, so
// that the client asks another gateway.
func (s *Server) batchDecrypt(r *request) (any, error) {
	name, err := r.name()
	if err != nil {
		return nil, err
	}
	if err := r.read(); err != nil {
		return nil, err
	}
	batch, err := api.ParseBatchDecrypt(r.body)
	if err != nil {
		return nil, err
	}
	opened, err := s.openBatch(r, name, batch)
	if err != nil {
		return nil, err
	}
	if r.entry.Failed == len(opened) && len(opened) > 0 {
		if err := commonFault(opened); err != nil {
			return nil, err
		}
	}
	return openedKeys(opened), nil
}

// bulkDecrypt is what KES had: if one ciphertext fails, all do.
func (s *Server) bulkDecrypt(r *request) (any, error) {
	name, err := r.name()
	if err != nil {
		return nil, err
	}
	var in []api.DecryptRequest
	if err := r.decode(&in); err != nil {
		return nil, err
	}
	if len(in) > api.MaxBulk {
		return nil, api.ErrBulk
	}
	batch := make([]kms.Sealed, len(in))
	for i, one := range in {
		batch[i] = kms.Sealed{Ciphertext: one.Ciphertext, AdditionalData: one.Context}
	}
	opened, err := s.openBatch(r, name, batch)
	if err != nil {
		return nil, err
	}
	for _, o := range opened {
		if o.Err != nil {
			openedKeys(opened).Wipe()
			return nil, o.Err
		}
	}
	return openedKeys(opened), nil
}

func (s *Server) openBatch(r *request, name string, batch []kms.Sealed) ([]kms.Opened, error) {
	r.entry.Items = len(batch)
	r.charge(len(batch))
	opened, use, err := s.cfg.KMS.DecryptBatch(&r.ctx, name, batch)
	r.used(use)
	var fault error
	for _, o := range opened {
		if o.Err == nil {
			continue
		}
		r.entry.Failed++
		if fault == nil && !errors.Is(o.Err, kms.ErrCiphertext) {
			fault = o.Err
		}
	}
	if fault != nil {
		s.report(r, api.ErrorOf(fault), fault)
	}
	operation := r.route.action.String()
	s.metrics.items.WithLabelValues(operation, "ok").Add(float64(len(opened) - r.entry.Failed))
	s.metrics.items.WithLabelValues(operation, "failed").Add(float64(r.entry.Failed))
	return opened, err
}

// commonFault returns the error of the first item, if all are of the server's.
func commonFault(opened []kms.Opened) error {
	for _, o := range opened {
		if !errors.Is(o.Err, kms.ErrUnavailable) {
			return nil
		}
	}
	return opened[0].Err
}

// newDataKeys is the reply to a batch of new data keys.
type newDataKeys struct {
	batch     *kms.Batch
	plaintext bool
}

// Wipe overwrites the data keys.
func (d *newDataKeys) Wipe() { d.batch.Wipe() }

func (d *newDataKeys) stream(w http.ResponseWriter, _ *http.Request) {
	dek := 0
	if d.plaintext {
		dek = kms.DataKeySize
	}
	l := newListWriter(w)
	for size := range d.batch.CiphertextSizes() {
		l.count(dataKeyLen(dek, size))
	}
	l.begin()
	defer l.end()
	for plaintext, ciphertext := range d.batch.All() {
		if !d.plaintext {
			plaintext = nil
		}
		if !l.next(dataKeyLen(dek, len(ciphertext))) {
			return
		}
		l.buf = api.AppendDataKey(l.buf, plaintext, ciphertext)
	}
}

// openedKeys is the reply to a batch of ciphertexts.
type openedKeys []kms.Opened

// Wipe overwrites the plaintexts.
func (o openedKeys) Wipe() {
	for _, one := range o {
		clear(one.Plaintext)
	}
}

func (o openedKeys) stream(w http.ResponseWriter, _ *http.Request) {
	l := newListWriter(w)
	for _, one := range o {
		l.count(openedLen(one))
	}
	l.begin()
	defer l.end()
	for _, one := range o {
		if !l.next(openedLen(one)) {
			return
		}
		l.buf = api.AppendOpened(l.buf, one)
	}
}

package hsm

import (
	"context"
	"errors"

	"github.com/miekg/pkcs11"
)

// A Report is what Doctor found. It holds no secret.
type Report struct {
	Module string    `json:"module"` // its path
	Token  TokenInfo `json:"token"`
	Checks []Check   `json:"checks"`
	OK     bool      `json:"ok"` // Open would take the token
}

// Doctor checks the token that cfg names as Open does, but to the end, and also
// one that Open refuses. It changes nothing in it. The error says why it could
// not look: a module that cannot be loaded, a token that is not there, a PIN
// that is wrong.
func Doctor(ctx context.Context, cfg Config) (Report, error) {
	report := Report{Module: cfg.Module}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return report, err
	}
	m, err := useModule(cfg.Module, cfg.InitArgs)
	if err != nil {
		return report, err
	}
	t := &token{cfg: cfg, module: m, pin: &pinSource{from: cfg.PIN}}
	defer t.pin.forget()
	err = t.report(ctx, &report)
	return report, errors.Join(err, m.release(cfg.Timeout))
}

func (t *token) report(ctx context.Context, report *Report) error {
	l, err := t.newBareLink(ctx, t.module.generation(), 0)
	if err != nil {
		return err
	}
	defer l.anchor.close()
	if err := l.enter(ctx); err != nil {
		return err
	}
	defer l.leave()
	report.Token = l.token
	report.Checks, err = l.anchor.examine(t.cfg)
	if err != nil {
		return err
	}
	if l.kek != 0 && l.recordKey != nil {
		report.Checks = append(report.Checks, l.anchor.unwrapTemplate()...)
		report.Checks = append(report.Checks, l.anchor.probe()...)
	}
	report.OK = refused(report.Checks) == nil
	return nil
}

// unwrapTemplate says whether the token knows the attribute that keeps stored
// keys from being unwrapped readable. Where it does, the probe shows that it
// holds.
func (s session) unwrapTemplate() []Check {
	c := Check{What: "CKA_UNWRAP_TEMPLATE", Found: "there", OK: true}
	switch value, err := s.attribute(s.link.kek, pkcs11.CKA_UNWRAP_TEMPLATE); {
	case err == nil && len(value) == 0:
		c.Found, c.OK = "empty", false
		c.Why = "whoever has the PIN could unwrap stored keys so that they can be read; keygate hsm init makes a KEK that has one"
	case err != nil:
		c.Found = "not known to the token: whoever has the PIN could unwrap stored keys so that they can be read"
	}
	return []Check{c}
}

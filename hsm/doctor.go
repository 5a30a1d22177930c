package hsm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keygate/keygate/kms"
)

// A Report is what Doctor found. It holds no secret.
type Report struct {
	Module     string        `json:"module"` // its path
	Token      TokenInfo     `json:"token"`
	Details    *TokenDetails `json:"details,omitempty"`
	Mechanisms []Mechanism   `json:"mechanisms,omitempty"`
	Checks     []Check       `json:"checks"`
	Latencies  []Latency     `json:"latencies,omitempty"`
	Keys       []ResidentKey `json:"keys,omitempty"` // master keys in the token
	OK         bool          `json:"ok"`             // Open would take the token
	// Unfinished is why it could not be looked at to the end, which is no verdict.
	Unfinished string `json:"unfinished,omitempty"`
}

// An Examination is how thoroughly Examine looks.
type Examination struct {
	// FinalTry has it log in also where the token says that one wrong PIN more locks it.
	FinalTry bool
	// Latencies has it measure the calls that a gateway makes, 200 of each or for two
	// seconds.
	Latencies bool

	same *acquaintance // of the tokens of ExamineEach
}

// Doctor is Examine, in its simplest form.
func Doctor(ctx context.Context, cfg Config) (Report, error) {
	return Examine(ctx, cfg, Examination{})
}

// Examine checks the token that cfg, which is about one, names as Open does, but to
// the end, and also one that Open refuses. It changes nothing in it. The error says
// why it could not look: a module that cannot be loaded, a token that is not there, a
// PIN that is wrong. The report then holds what was found before.
func Examine(ctx context.Context, cfg Config, how Examination) (Report, error) {
	report := Report{Module: cfg.Module}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return report, err
	}
	if cfg, err = cfg.only(); err != nil {
		return report, err
	}
	t, err := cfg.alone(ctx, false)
	if err != nil {
		return report, err
	}
	t.finalTry = how.FinalTry
	err = t.module.seek(ctx, func() error { return t.look(ctx, &report) })
	if err == nil {
		err = t.session(ctx, 0, func(s session) error { return s.report(ctx, cfg, &report, how) })
	}
	if errors.Is(err, ErrPINAtRisk) {
		err = nil // the first check says so
	}
	if err != nil {
		report.OK, report.Unfinished = false, err.Error()
	}
	return report, errors.Join(err, t.end())
}

// ExamineEach is Examine of each token that cfg names, in their order, and of whether
// they have the same root keys, as those of a Root must. A token that is not fit by
// itself is left out of that.
func ExamineEach(ctx context.Context, cfg Config, how Examination) (reports []Report, err error) {
	tokens := cfg.EachToken()
	if len(tokens) > 1 {
		how.same = new(acquaintance)
	}
	var errs []error
	for _, one := range tokens {
		report, err := Examine(ctx, one, how)
		if err != nil && len(tokens) > 1 {
			err = fmt.Errorf("token %s: %w", one.tokenName(), err)
		}
		reports, errs = append(reports, report), append(errs, err)
	}
	return reports, errors.Join(errs...)
}

// look reports what can be known without a login.
func (t *token) look(ctx context.Context, report *Report) error {
	if err := t.module.enter(ctx, t.module.generation()); err != nil {
		return err
	}
	defer t.module.leave()
	slot, info, err := findToken(t.module, t.cfg)
	if err != nil {
		return err
	}
	raw, err := t.module.ctx.GetTokenInfo(slot)
	if err != nil {
		return answered("C_GetTokenInfo", err)
	}
	details, err := t.module.details(slot, raw, time.Now())
	if err != nil {
		return err
	}
	report.Token, report.Details = info, &details
	report.Checks = []Check{pinCheck(raw.Flags), officerCheck(raw.Flags)} // now, as a login that succeeds clears the flags
	report.Mechanisms, err = t.module.mechanisms(slot)
	return err
}

// report reports what takes a login.
func (s session) report(ctx context.Context, c Config, report *Report, how Examination) error {
	l := s.link
	if how.FinalTry && !report.Checks[0].OK { // that of the user's PIN
		report.Checks[0] = Check{What: report.Checks[0].What, Found: "accepted, at the last try", OK: true}
	}
	checks, err := s.examine(c)
	report.uses(l.wrap.found[l.wrap.chosen].name)
	report.Checks = append(report.Checks, checks...)
	if err != nil {
		return err
	}
	if l.kek != 0 && l.recordKey != nil {
		if err := s.tryKeys(report, how.same); err != nil {
			return err
		}
	}
	report.OK = refused(report.Checks) == nil
	if report.Keys, err = s.residentKeys(); err != nil {
		return err
	}
	if report.OK {
		report.Checks = append(report.Checks, s.describeKeys(c)...)
	}
	if report.OK && how.Latencies {
		report.Latencies, err = s.latencies(ctx)
	}
	return err
}

// uses marks the mechanism by which keys are wrapped, which is found out by trying.
func (r *Report) uses(mechanism string) {
	for i := range r.Mechanisms {
		r.Mechanisms[i].Needed = r.Mechanisms[i].Needed || r.Mechanisms[i].Name == mechanism
	}
}

// tryKeys reports whether the root keys work, as Open does, how it is that they keep what
// they wrap and, if the token is fit so far, whether they are those of the others.
func (s session) tryKeys(report *Report, same *acquaintance) error {
	report.Checks = append(report.Checks, s.probe()...)
	templates, err := s.unwrapTemplates()
	report.Checks = append(report.Checks, templates...)
	if err != nil || same == nil || refused(report.Checks) != nil {
		return err
	}
	shared, err := s.compare(same)
	report.Checks = append(report.Checks, shared...)
	return err
}

// compare says whether the root keys are those of the first token that same met, as a
// group does. Of that one it says nothing. The error is that of the token.
func (s session) compare(same *acquaintance) ([]Check, error) {
	first := same.known == nil
	err := same.recognize(s)
	switch {
	case errors.Is(err, kms.ErrDenied):
		return []Check{{What: "root keys", Found: "not those of the token that was looked at first", Why: err.Error(), err: err}}, nil
	case err != nil || first:
		return nil, err
	}
	return []Check{{What: "root keys", Found: "those of the token that was looked at first", OK: true}}, nil
}

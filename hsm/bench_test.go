package hsm_test

import (
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
)

func TestABenchMeasuresEachOperationWithEachNumber(t *testing.T) {
	cfg := hsmtest.Config(t)
	report, err := hsm.Measure(t.Context(), cfg, hsm.Bench{Sessions: []int{1, 3}, Time: 20 * time.Millisecond})
	ok(t, err)
	if report.Module != cfg.Module || report.Token.Label != cfg.Token || report.Suggested != 1 && report.Suggested != 3 {
		t.Errorf("the report is %+v", report)
	}
	var got []string
	for _, p := range report.Points {
		if p.Sessions == 1 {
			got = append(got, p.Operation)
		}
		if p.Error != "" || p.Calls < p.Sessions || p.PerSecond <= 0 || p.P50 <= 0 || p.P99 < p.P50 || p.Max < p.P99 {
			t.Errorf("%+v", p)
		}
	}
	if len(report.Points) != 12 || len(got) != 6 {
		t.Errorf("it measures %q, %d points", got, len(report.Points))
	}
}

// What a bench opens and makes in a token it closes and destroys, and it logs in once.
func TestABenchLeavesNothingAndLogsInOnce(t *testing.T) {
	s, cfg := shimmed(t)
	_, err := hsm.Measure(t.Context(), cfg, hsm.Bench{Sessions: []int{2}, Time: time.Millisecond})
	ok(t, err)
	if n := s.calls("C_Login"); n != 1 {
		t.Errorf("%d logins", n)
	}
	if opened, closed := s.calls("C_OpenSession"), s.calls("C_CloseSession"); opened != closed || opened == 0 {
		t.Errorf("%d sessions opened, %d closed", opened, closed)
	}
	ok(t, r0(hsm.PlanInit(t.Context(), cfg, hsm.InitOptions{})))
}

func r0[T any](_ T, err error) error { return err }

// With twice the sessions a token that is slow in each call, as hardware is, does
// twice as much, and that is what is suggested.
func TestABenchFindsTheSessionsThatASlowTokenNeeds(t *testing.T) {
	s, cfg := shimmed(t)
	for _, f := range []string{"C_EncryptInit", "C_DecryptInit", "C_SignInit", "C_WrapKey", "C_UnwrapKey", "C_GenerateRandom"} {
		s.fail(f, fault{sleep: 5 * time.Millisecond})
	}
	report, err := hsm.Measure(t.Context(), cfg, hsm.Bench{Sessions: []int{1, 4}, Time: 100 * time.Millisecond})
	ok(t, err)
	if report.Suggested != 4 {
		t.Errorf("it suggests %d: %+v", report.Suggested, report.Points)
	}
	for _, p := range report.Points {
		if p.P50 < 0.005 || p.PerSecond > 200*float64(p.Sessions) {
			t.Errorf("%+v", p)
		}
	}
}

func TestABenchTellsOfAnOperationThatFails(t *testing.T) {
	s, cfg := shimmed(t)
	s.fail("C_GenerateRandom", fault{code: pkcs11.CKR_RANDOM_NO_RNG, times: forever})
	report, err := hsm.Measure(t.Context(), cfg, hsm.Bench{Sessions: []int{1}, Time: time.Millisecond})
	ok(t, err)
	for _, p := range report.Points {
		if (p.Error != "") != (p.Operation == "random") {
			t.Errorf("%+v", p)
		}
	}
	if report.Suggested != 1 {
		t.Errorf("it suggests %d", report.Suggested)
	}
}

// Root keys are not made in whichever token happens to be there.
func TestWhatIsDoneWithOneTokenRefusesSeveral(t *testing.T) {
	cfg := hsmtest.Empty(t)
	cfg.Tokens = []hsm.TokenConfig{{Token: cfg.Token}, {Token: "another"}}
	cfg.Token = ""
	_, err := hsm.Init(t.Context(), cfg)
	says(t, err, "2 are named")
	_, err = hsm.PlanInit(t.Context(), cfg, hsm.InitOptions{})
	says(t, err, "2 are named")
	_, err = hsm.Measure(t.Context(), cfg, hsm.Bench{})
	says(t, err, "2 are named")
	_, err = hsm.Doctor(t.Context(), cfg)
	says(t, err, "2 are named")
	cfg.Tokens = cfg.Tokens[:1]
	made, err := hsm.Init(t.Context(), cfg)
	ok(t, err)
	if made.Token.Label != cfg.Tokens[0].Token {
		t.Errorf("the keys are in %+v", made.Token)
	}
}

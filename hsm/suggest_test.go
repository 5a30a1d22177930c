package hsm

import "testing"

func TestTheNumberOfSessionsThatIsEnough(t *testing.T) {
	points := func(rates map[string][]float64) (all []BenchPoint) {
		for operation, of := range rates {
			for i, rate := range of {
				all = append(all, BenchPoint{Operation: operation, Sessions: 1 << i, PerSecond: rate})
			}
		}
		return all
	}
	for _, test := range []struct {
		name  string
		rates map[string][]float64 // with 1, 2, 4, ... sessions
		want  int
	}{
		{"a token that does not scale", map[string][]float64{"encrypt": {1000, 980, 1020}, "sign": {500, 510, 490}}, 1},
		{"one that scales to 4", map[string][]float64{"encrypt": {1000, 2000, 4000, 4100}, "sign": {500, 1000, 2000, 2000}}, 4},
		{"one disturbed figure", map[string][]float64{"a": {900, 1000, 1000, 990}, "b": {900, 1000, 1000, 990}, "c": {900, 1000, 800, 1100}}, 2},
		{"nothing", nil, 0},
	} {
		if got := suggestedSessions(points(test.rates)); got != test.want {
			t.Errorf("%s: %d, not %d", test.name, got, test.want)
		}
	}
	failed := []BenchPoint{{Operation: "wrap", Sessions: 1, Error: "no"}}
	if got := suggestedSessions(failed); got != 0 {
		t.Errorf("of failures: %d", got)
	}
}

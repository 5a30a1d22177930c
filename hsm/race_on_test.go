//go:build race

package hsm_test

const raceEnabled = true

package hsm

import "fmt"

// only returns the configuration of the one token that c names. What examines or
// changes a token is told which.
func (c Config) only() (Config, error) {
	all := c.EachToken()
	if len(all) != 1 {
		return c, fmt.Errorf("hsm: tokens: %d are named, and this is done with one: root keys are made in one token and cloned by its maker's means", len(all))
	}
	return all[0], nil
}

package main

import (
	"crypto/fips140"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// A versionInfo says what this binary is.
type versionInfo struct {
	Version    string `json:"version"`
	Commit     string `json:"commit"` // empty: not built in a clone
	Go         string `json:"go"`
	OS         string `json:"os"`
	Arch       string `json:"arch"`
	FIPS       bool   `json:"fips"`                  // in FIPS 140-3 mode
	FIPSModule string `json:"fips_module,omitempty"` // version of the Go Cryptographic Module
}

// thisVersion reads what the Go command has put into the binary.
func thisVersion() versionInfo {
	v := versionInfo{Version: "unknown", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH, FIPS: fips140.Enabled()}
	if v.FIPS {
		v.FIPSModule = fips140.Version()
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version = info.Main.Version
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v.Commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			v.Commit += "-modified"
		}
	}
	return v
}

func newVersionCommand() *cobra.Command {
	var asJSON *bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := thisVersion()
			return printResult(cmd.OutOrStdout(), *asJSON, v, v.text)
		},
	}
	asJSON = jsonFlag(cmd)
	return cmd
}

func (v versionInfo) text(w io.Writer) {
	fmt.Fprintf(w, "keygate\t%s\n", v.Version)
	if v.Commit != "" {
		fmt.Fprintf(w, "commit\t%s\n", v.Commit)
	}
	fmt.Fprintf(w, "go\t%s %s/%s\n", v.Go, v.OS, v.Arch)
	if v.FIPS {
		fmt.Fprintf(w, "fips\ton, module %s\n", v.FIPSModule)
	} else {
		fmt.Fprintf(w, "fips\toff\n")
	}
}

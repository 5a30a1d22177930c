package main

import (
	"crypto/rand"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keygate/keygate/awsapi/awstest"
	"github.com/keygate/keygate/softhsm"
)

// TestServerOnAWS runs the server as TestServer does, with AWS in the places of the
// token and the directory.
func TestServerOnAWS(t *testing.T) {
	kms, secrets := awstest.Endpoint(t, awstest.KMS), awstest.Endpoint(t, awstest.Secrets)
	if kms == "" || secrets == "" {
		t.Skip("the script has no credentials for AWS itself")
	}
	o := &operator{token: softhsm.Fixture{}}
	testscript.Run(t, testscript.Params{Files: []string{"testdata/aws_server.txt"}, Cmds: scriptCommands{
		"envsubst": envsubst, "mode": checkMode,
		"server": o.start, "signal": o.signal, "stopped": o.stopped, "logged": o.logged, "hidden": o.hidden,
	}, Setup: func(env *testscript.Env) error {
		env.Vars = append(env.Vars, "KMS="+kms, "SECRETS="+secrets, "PREFIX=keygate-test-"+rand.Text()+"/")
		return o.setUp(env)
	}})
}

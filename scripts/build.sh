#!/bin/sh
# Builds bin/keygate: with the FIPS 140-3 validated version of Go's cryptography; so
# that branch keys are erased once they are let go of (runtime/secret, an experiment
# of Go 1.26; GOEXPERIMENT= in the environment builds without); and for what a busy
# gateway does most, by a profile that "make pgo" makes.
set -eu
cd "$(dirname "$0")/.."
mkdir -p bin
CGO_ENABLED=1 GOFIPS140=${GOFIPS140-certified} GOEXPERIMENT=${GOEXPERIMENT-runtimesecret} \
	${GO:-go} build -buildvcs=auto -trimpath -pgo="${PGO:-cmd/keygate/keygate.pgo}" -o bin/keygate ./cmd/keygate

#!/bin/sh
# Builds bin/keygate, with the FIPS 140-3 validated version of Go's cryptography,
# and so that branch keys are erased once they are let go of (runtime/secret, an
# experiment of Go 1.26; GOEXPERIMENT= in the environment builds without).
set -eu
cd "$(dirname "$0")/.."
mkdir -p bin
CGO_ENABLED=1 GOFIPS140=${GOFIPS140-certified} GOEXPERIMENT=${GOEXPERIMENT-runtimesecret} \
	${GO:-go} build -buildvcs=auto -trimpath -o bin/keygate ./cmd/keygate

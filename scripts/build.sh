#!/bin/sh
# Builds bin/keygate, with the FIPS 140-3 validated version of Go's cryptography, and
# for what a busy gateway does most, by a profile that "make pgo" makes.
set -eu
cd "$(dirname "$0")/.."
mkdir -p bin
CGO_ENABLED=1 GOFIPS140=${GOFIPS140-certified} ${GO:-go} build -buildvcs=auto -trimpath \
	-pgo="${PGO:-cmd/keygate/keygate.pgo}" -o bin/keygate ./cmd/keygate

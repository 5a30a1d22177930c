#!/bin/sh
# Builds bin/keygate, with the FIPS 140-3 validated version of Go's cryptography.
set -eu
cd "$(dirname "$0")/.."
mkdir -p bin
CGO_ENABLED=1 GOFIPS140=${GOFIPS140-certified} ${GO:-go} build -buildvcs=auto -trimpath -o bin/keygate ./cmd/keygate

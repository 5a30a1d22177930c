#!/bin/bash
# Passes the tests of the Helm chart, with Helm's own engine, which is a module of
# its own since the product depends on none of it, and with bin/keygate. The first
# time it builds Helm's and Kubernetes' packages, for minutes.
set -euo pipefail
cd "$(dirname "$0")/../deploy/helm/test"
go=${GO:-go}
$go mod tidy -diff
$go vet ./...
$go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
$go test -count=1 ./...

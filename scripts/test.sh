#!/bin/bash
# Passes the tests: each argument is a part of them.
#
#   lint   gofmt, go vet, staticcheck
#   race   all tests, with the race detector
#   fips   all tests again, built as what is shipped: with Go's FIPS 140-3
#          validated module, nothing else of Go's cryptography allowed, and
#          runtime/secret
#   fuzz   each fuzz target for $FUZZTIME, but for those in files whose path has
#          $FUZZSKIP in it; skipped if $FUZZTIME is empty
#   roots  the suite of roots of trust on each root, and which were skipped
#   vuln   known vulnerabilities, from $VULNDB; skipped if that is empty
#   asan   package hsm with the address sanitizer
#   matrix the whole gateway over each root and store, with the tables of what ran
#   soak   a gateway under a mixed load for $SOAK; $SOAKFLAGS are flags of the test:
#          -soak.tokens=2, -soak.isolation=worker, -soak.report=FILE
#   churn  one of two tokens taken away and brought back $CHURN times
#   vault  what uses Vault, with the race detector, on a real Vault core, which
#          is built if it is not there; race and fips use one that is
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.9.0

say() { printf '== %s\n' "$*"; }

lint() {
	say gofmt
	local unformatted
	unformatted=$(gofmt -l .)
	if [ -n "$unformatted" ]; then
		echo "not formatted:" "$unformatted" >&2
		return 1
	fi
	say go mod tidy, go mod verify
	$go mod tidy -diff
	$go mod verify
	say go vet
	$go vet ./...
	say staticcheck
	$go run "$staticcheck" ./...
}

# patient are the packages whose tests wait most of the time and hold the program to no
# short times, those of servers and others.
patient='/keystore/|/vault|/aws|/client$|/cmd/keygate$|/mirror$|/test/(cluster|matrix|soak)$'

# servers are the packages whose tests wait for servers of others most of the time.
servers='/keystore/(etcd|postgres|secretsmanager|vaultkv)|/vault/vaultapi|/awsapi'

# The tests of one package at a time, once all is built: many hold the program to
# times (a call that hangs is left after one second), which a machine that builds
# meanwhile does not keep. Those of patient packages go two at a time.
tests() { # tests PACKAGES FLAG...
	local packages=$1
	shift
	# shellcheck disable=SC2086 # lists of words
	$go test -run '^$' "$@" $packages >/dev/null
	# shellcheck disable=SC2046
	$go test -p 1 "$@" $(grep -vE "$patient" <<<"$packages")
	if grep -qE "$patient" <<<"$packages"; then
		# shellcheck disable=SC2046
		$go test -p 2 "$@" $(grep -E "$patient" <<<"$packages")
	fi
}

# find_vault has the tests use a real Vault core if one is built.
find_vault() {
	if [ -z "${KEYGATE_TEST_VAULT:-}" ]; then
		KEYGATE_TEST_VAULT=$(scripts/vault.sh path) || say "the real Vault core is not built: its tests are SKIPPED, those on the fake run; make test-vault builds it and runs them"
		export KEYGATE_TEST_VAULT
	fi
}

vault() {
	KEYGATE_TEST_VAULT=$(scripts/vault.sh build)
	export KEYGATE_TEST_VAULT
	say tests on a real Vault core
	KEYGATE_LONG=1 $go test -p 1 -race -count 1 ./vault/... ./keystore/vaultkv/
	$go test -count 1 -run Vault ./cmd/keygate/
}

# matrix runs the whole gateway over each root of trust and key store, and prints
# the tables. $MATRIXFLAGS are flags of the test.
matrix() {
	find_vault
	say the whole gateway over each root of trust and key store
	$go test -count 1 -v ./test/matrix ${MATRIXFLAGS:+-args $MATRIXFLAGS} | grep -Ev '^ *(===|--- PASS)'
}

# asan runs what goes through C with the address sanitizer, in the process and in
# the module that stands before SoftHSM (minutes to build).
asan() {
	say package hsm with the address sanitizer
	P11SHIM_CFLAGS="-fsanitize=address -g" $go test -asan -count 1 -run '^TestHS(20|24)_|HS06_AHungCall|^TestRoot$' ./hsm
}

soak() {
	say a gateway under a mixed load for "$SOAK"
	# shellcheck disable=SC2086 # a list of words
	$go test -count 1 -v -timeout 0 -run '^TestSK01_' ./test/soak -args -soak.for="$SOAK" -soak.builds=race,plain ${SOAKFLAGS:-}
}

churn() {
	say a token taken away and brought back "$CHURN" times
	# shellcheck disable=SC2086
	$go test -count 1 -v -timeout 0 -run '^TestHS16_' ./test/soak -args -soak.churn="$CHURN" ${SOAKFLAGS:-}
}

# Package hsm waits most of the time, on one thing at a time: two halves of its tests go
# side by side.
hsm() { # hsm FLAG...
	local half='_?(HS01|HS06|HS16|HS21)_' other failed=0
	other=$(mktemp)
	$go test "$@" -run "$half" ./hsm >"$other" 2>&1 &
	$go test "$@" -skip "$half" ./hsm || failed=1
	wait $! || failed=1
	cat "$other"
	rm "$other"
	return $failed
}

race() {
	find_vault
	say tests with the race detector
	$go test -run '^$' -race ./hsm
	hsm -race
	tests "$($go list ./... | grep -v '/hsm$')" -race
}

# The FIPS pass leaves out what has no cryptography but the TLS of its client: the
# matrix runs the program, in FIPS mode, on each of these servers. Of package hsm it
# runs the suites of roots, all cells of the fault matrix (the race detector has fewer),
# and what signs, wraps and checks: sessions, queues and processes are the same.
fips() {
	find_vault
	say tests in FIPS 140-3 mode
	export GOFIPS140=certified GOEXPERIMENT=runtimesecret GODEBUG=fips140=only
	tests "$($go list ./... | grep -vE "$servers|/hsm$|/keystore|/awskms|/clustertest|/vault|/test/cluster|/bench|/deploy|/softhsm|/test/soak")"
	$go test -run 'Root|F4|HS09|HS12|HS18|HS23|OP10|CR|Vector|RFC|Wycheproof|Sign|Attest|Statement|Wrap|Cop|Worker$' ./hsm
	unset GOFIPS140 GOEXPERIMENT GODEBUG
}

# fuzz_one fuzzes one target. At the end of the time Go may fail with its own deadline,
# and no input (golang/go#75804): that, and nothing else, is tried again.
fuzz_one() { # fuzz_one TARGET DIRECTORY
	local out
	out=$(mktemp)
	for _ in 1 2 3; do
		if $go test -run '^$' -fuzz "^$1\$" -fuzztime "$FUZZTIME" "$2" >"$out" 2>&1; then
			cat "$out"
			rm "$out"
			return 0
		fi
		cat "$out"
		if grep -qiE 'failing input|panic|hung or terminated' "$out" || ! grep -qE '^ +context deadline exceeded$' "$out"; then
			break
		fi
	done
	rm "$out"
	return 1
}

fuzz() {
	[ -n "${FUZZTIME:-}" ] || return 0
	local file target
	while IFS=: read -r file target; do
		[[ -z "${FUZZSKIP:-}" || $file != *$FUZZSKIP* ]] || continue
		say "$target in $file, $FUZZTIME"
		fuzz_one "$target" "$(dirname "$file")"
	done < <(grep -roE --include='*_test.go' '^func Fuzz\w+' . | sed 's/func //' | sort)
}

# roots tells for each root of trust whether it passes the suite, or why that was
# not tried. A package's tests of it are called TestRoot...
roots() {
	say the suite of roots of trust
	local name package tests output failed=0
	while read -r package tests name; do
		output=$($go test -count 1 -v -run "^($tests)\$" "./$package" 2>&1) || {
			printf '%s\n' "$output"
			printf 'FAILED   %s\n' "$name"
			failed=1
			continue
		}
		if grep -q '^--- SKIP' <<<"$output"; then
			printf 'skipped  %s: %s\n' "$name" "$(grep -m 1 '^ *[a-z_]*\.go:[0-9]*: ' <<<"$output" | sed 's/^[^:]*:[0-9]*: //')"
		elif grep -q '^--- PASS' <<<"$output"; then
			printf 'passed   %s, %d rules\n' "$name" "$(grep -c '^    --- PASS' <<<"$output")"
		else
			printf 'FAILED   %s: it has no test\n' "$name"
			failed=1
		fi
	done <<-'ROOTS'
		hsm TestRoot PKCS#11, on SoftHSM2
		hsm TestRootInAWorker PKCS#11, on SoftHSM2, in a worker process
		hsm TestRootOnNSS PKCS#11, on NSS softokn
		vault TestRootOnTheFake Vault transit, on a fake at the wire
		vault TestRootOnVaultWithTheDocumentedRights Vault transit, on a real core, which make test-vault builds
		local TestRoot a file
		mirror TestRoot|TestRootOfSoftHSMAndAFile a mirror, of files, and of SoftHSM2 and a file
		mirror TestRootOfSoftHSMAndVault a mirror, of SoftHSM2 and Vault transit on a real core
		awskms TestRoot AWS KMS, one KMS key for all named keys, on moto (or AWS)
		awskms TestRootAtLocalKMS AWS KMS, one KMS key for all named keys, on local-kms
		awskms TestRootPerKey AWS KMS, a KMS key for each named key, on local-kms (or AWS)
	ROOTS
	return $failed
}

vuln() {
	[ -n "${VULNDB:-}" ] || {
		say known vulnerabilities: skipped, VULNDB names no database
		return 0
	}
	say known vulnerabilities
	case $VULNDB in *://*) ;; *) VULNDB=file://$(cd "$VULNDB" && pwd) ;; esac
	$go run "$govulncheck" -db "$VULNDB" ./...
}

for part in "$@"; do
	case $part in
	lint | race | fips | fuzz | vuln | vault | roots | matrix | asan | soak | churn) $part ;;
	*)
		echo "usage: test.sh lint|race|fips|fuzz|vuln|vault|roots|matrix|asan|soak|churn..." >&2
		exit 2
		;;
	esac
done

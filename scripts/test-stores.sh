#!/bin/bash
# Passes the suite of key stores (keystore/storetest) and the tests of each kind of
# store, with the race detector, against real servers. Says what was skipped, and why;
# with CI=true in the environment nothing is.
#
#   test-stores.sh [KIND...]   default: all that have a package below keystore
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}

# Not kinds, but what they share.
shared=' remote storetest '
kinds=("$@")
if [ ${#kinds[@]} -eq 0 ]; then
	for dir in keystore/*/; do
		kind=$(basename "$dir")
		case $shared in *" $kind "*) ;; *) kinds+=("$kind") ;; esac
	done
fi

failed=()
for kind in "${kinds[@]}"; do
	printf '== %s\n' "$kind"
	status=0
	out=$($go test -race -count=1 -v "./keystore/$kind/..." 2>&1) || status=$?
	if [ "$status" -ne 0 ]; then
		printf '%s\n' "$out"
		failed+=("$kind")
		continue
	fi
	printf '%s\n' "$out" | awk '
		/^ *--- PASS/ { passed++ }
		/^ *--- SKIP/ { skipped++; print "skipped: " $3 ": " last }
		/^ok/ { print }
		{ if ($0 !~ /^(===|---)/) last = $0 }
		END { printf "%d passed, %d skipped\n", passed, skipped }'
done
if [ ${#failed[@]} -gt 0 ]; then
	printf 'failed: %s\n' "${failed[*]}" >&2
	exit 1
fi

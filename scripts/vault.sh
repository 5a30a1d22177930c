#!/bin/bash
# A real Vault core, of vault/vaultdev, for tests and trials:
#
#   vault.sh build            builds it, once for each state of its source, and
#                             prints where it is; the first time takes minutes
#                             and 1.5 GB of memory
#   vault.sh path             prints where it is, or fails if it is not built
#   vault.sh run COMMAND...   starts it on loopback, behind TLS, runs the command
#                             with what it needs in its environment, and stops it
#
# The command of run finds KEYGATE_TEST_VAULT (the binary, for the Go tests),
# and of the server that runs KEYGATE_VAULT_ADDRESS, KEYGATE_VAULT_CA (a file)
# and KEYGATE_VAULT_TOKEN_FILE (of the root token).
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}

path() {
	local hash
	hash=$(cat vault/vaultdev/* <($go env GOVERSION) | sha256sum | cut -c1-16)
	echo "${XDG_CACHE_HOME:-$HOME/.cache}/keygate/vaultdev-$hash"
}

build() {
	local binary
	binary=$(path)
	if [ ! -x "$binary" ]; then
		echo "Building the Vault core: this takes some minutes, once." >&2
		mkdir -p "$(dirname "$binary")"
		(cd vault/vaultdev && nice "$go" build -trimpath -ldflags='-s -w' -o "$binary.$$" . && mv "$binary.$$" "$binary")
	fi
	echo "$binary"
}

# field NAME takes a text from the line of JSON that the server prints.
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$state/ready"; }

run() {
	KEYGATE_TEST_VAULT=$(build)
	state=$(mktemp -d)
	chmod 700 "$state"
	mkfifo "$state/stop"
	"$KEYGATE_TEST_VAULT" <"$state/stop" >"$state/ready" &
	server=$!
	exec 9>"$state/stop" # the server ends when this is closed, as it is with this script
	trap 'exec 9>&-; wait "$server" || true; rm -rf "$state"' EXIT
	for _ in $(seq 300); do
		[ ! -s "$state/ready" ] || break
		kill -0 "$server"
		sleep 0.1
	done
	(umask 077 && field token >"$state/token" && printf '%b' "$(field ca)" >"$state/ca.pem")
	KEYGATE_VAULT_ADDRESS=$(field address)
	rm "$state/ready"
	export KEYGATE_TEST_VAULT KEYGATE_VAULT_ADDRESS KEYGATE_VAULT_CA=$state/ca.pem KEYGATE_VAULT_TOKEN_FILE=$state/token
	"$@" 9>&-
}

case ${1:-} in
build) build ;;
path)
	binary=$(path)
	[ -x "$binary" ] && echo "$binary"
	;;
run)
	shift
	[ $# -gt 0 ] || set -- "${SHELL:-/bin/sh}"
	run "$@"
	;;
*)
	echo "usage: vault.sh build|path|run COMMAND..." >&2
	exit 2
	;;
esac

#!/bin/bash
# Runs a command with servers that stand in for AWS, on loopback, or prints where
# they are and waits:
#
#   aws.sh go test ./awskms
#   aws.sh
#
# moto_server is KMS and Secrets Manager, local-kms is a KMS that enforces the states
# of keys. They end with this script. Variables that are set already name other
# servers and are left alone; with
#
#   KEYGATE_AWS_KMS=aws KEYGATE_AWS_SECRETS=aws
#
# the tests use the real AWS, with the credentials and the region of the environment
# (and make keys there, that cost money until they are deleted).
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
pids=()
stop() {
	local pid
	for pid in "${pids[@]}"; do
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	rm -rf "$scratch"
}
trap stop EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

note() { printf '%s\n' "$*" >&2; }

# find_moto prints the Python that has moto, after an attempt to install it.
find_moto() {
	local python venv=${XDG_CACHE_HOME:-$HOME/.cache}/keygate/moto
	for python in python3 "$venv/bin/python"; do
		if "$python" -c 'import moto.server, flask' 2>/dev/null; then
			echo "$python"
			return
		fi
	done
	command -v python3 >/dev/null || return 1
	python3 -m venv "$venv" >/dev/null 2>&1 || return 1
	"$venv/bin/python" -m pip --quiet --timeout 10 --retries 1 install 'moto[server]==5.2.1' >/dev/null 2>&1 || return 1
	echo "$venv/bin/python"
}

# free_port prints a port of loopback that nobody listens on.
free_port() {
	"$1" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

start_moto() {
	local python port i
	python=$(find_moto) || {
		note "aws.sh: moto_server is not here, and pip cannot install it: tests that need it do not run"
		return
	}
	port=$(free_port "$python")
	"$python" -m moto.server -H 127.0.0.1 -p "$port" >"$scratch/moto.log" 2>&1 &
	pids+=($!)
	for ((i = 0; i < 300; i++)); do
		if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			export KEYGATE_AWS_KMS=${KEYGATE_AWS_KMS:-http://127.0.0.1:$port}
			export KEYGATE_AWS_SECRETS=${KEYGATE_AWS_SECRETS:-http://127.0.0.1:$port}
			return
		fi
		sleep 0.1
	done
	note "aws.sh: moto_server does not answer after 30 s:"
	cat "$scratch/moto.log" >&2
	return 1
}

start_local_kms() {
	local i
	# Not in the FIPS mode of the tests: it is no part of what they test.
	(cd awskms/localkms && GOFIPS140=off GODEBUG='' ${GO:-go} build -o "$scratch/localkms" .) || {
		note "aws.sh: local-kms does not build: tests that need it do not run"
		return
	}
	mkfifo "$scratch/stdin"
	GODEBUG='' TMPDIR=$scratch "$scratch/localkms" <"$scratch/stdin" >"$scratch/localkms.url" 2>"$scratch/localkms.log" &
	pids+=($!)
	exec 9>"$scratch/stdin" # local-kms ends when this closes
	for ((i = 0; i < 100; i++)); do
		if [ -s "$scratch/localkms.url" ]; then
			export KEYGATE_AWS_LOCALKMS=$(<"$scratch/localkms.url")
			return
		fi
		sleep 0.1
	done
	note "aws.sh: local-kms does not answer after 10 s"
	return 1
}

[ -n "${KEYGATE_AWS_KMS:-}" ] && [ -n "${KEYGATE_AWS_SECRETS:-}" ] || start_moto
[ -n "${KEYGATE_AWS_LOCALKMS:-}" ] || start_local_kms

if [ $# -gt 0 ]; then
	"$@" 9>&-
	exit
fi
for name in KEYGATE_AWS_KMS KEYGATE_AWS_SECRETS KEYGATE_AWS_LOCALKMS; do
	[ -z "${!name:-}" ] || echo "export $name=${!name}"
done
note "aws.sh: they run until this script is ended"
sleep infinity &
pids+=($!)
wait $!

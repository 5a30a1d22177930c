#!/bin/sh
# Installs what is missing of the named things, with apt:
#
#   packages.sh run     what building and running a gateway on SoftHSM2 needs
#   packages.sh test    that, and what the tests need
#   packages.sh build   what building needs
#   packages.sh etcd, packages.sh postgres   a server for the tests of that key store
set -eu

missing=
need() { # need COMMAND PACKAGE...
	command -v "$1" >/dev/null 2>&1 && return
	shift
	missing="$missing $*"
}

need_softhsm() {
	if [ -n "${SOFTHSM2_MODULE:-}" ] && [ -e "$SOFTHSM2_MODULE" ]; then
		return
	fi
	need softhsm2-util softhsm2
}

need_postgres() { # its server is not in the path
	set -- /usr/lib/postgresql/*/bin/initdb
	[ -x "$1" ] || need initdb postgresql
}

case ${1:-} in
build) need cc gcc libc6-dev ;;
run)
	need cc gcc libc6-dev
	need_softhsm
	need curl curl ca-certificates
	;;
test)
	need cc gcc libc6-dev
	need_softhsm
	need strace strace
	need certutil libnss3 libnss3-tools
	need systemd-analyze systemd
	need python3 python3 python3-venv
	need etcd etcd-server
	need etcdctl etcd-client
	need_postgres
	need openssl openssl
	;;
etcd)
	need etcd etcd-server
	need etcdctl etcd-client
	need openssl openssl
	;;
postgres)
	need_postgres
	need openssl openssl
	;;
*)
	echo "usage: packages.sh build|run|test|etcd|postgres" >&2
	exit 2
	;;
esac

command -v go >/dev/null 2>&1 || {
	echo "There is no go command: install Go 1.26 or later from https://go.dev/dl/ first." >&2
	exit 1
}
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
	echo "Please install these first (named as Debian names them):$missing" >&2
	exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
	as_root=sudo
	if ! command -v sudo >/dev/null 2>&1; then
		echo "Please have root run: apt-get install$missing" >&2
		exit 1
	fi
fi
echo "Installing with apt:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # a list of words
if ! { $as_root apt-get -qq update &&
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends --yes $missing; } >"$log" 2>&1; then
	cat "$log" >&2
	exit 1
fi

#!/bin/bash
# Makes, under a directory, all that a gateway needs for a first try: a SoftHSM2
# token with root keys, an authority, a server certificate, the identities admin
# and app, a configuration and a key store.
#
#   setup.sh DIRECTORY HOST:PORT
#
# What is there already is kept, so that it goes on where an earlier run was cut
# short. Only the certificates are made anew, with the same keys.
set -euo pipefail
umask 077

usage() {
	echo "usage: setup.sh DIRECTORY HOST:PORT" >&2
	exit 2
}
[ $# -eq 2 ] || usage
directory=$1 address=$2
here=$(cd "$(dirname "$0")/.." && pwd)
keygate=$here/bin/keygate

say() { printf 'setup: %s\n' "$*"; }
fail() {
	printf 'setup: %s\n' "$*" >&2
	exit 1
}

# The address, before anything is made with it.
host=${address%:*} port=${address##*:}
case $port in '' | *[!0-9]*) port=0 ;; esac
[ "$address" != "${address%:*}" ] && [ "$port" -ge 1 ] && [ "$port" -le 65535 ] ||
	fail "ADDRESS is '$address': give host:port, with a port from 1 to 65535"

# The directory: made, empty, or ours.
mkdir -p "$directory"
state=$(cd "$directory" && pwd)
if [ ! -e "$state/.keygate" ]; then
	[ -z "$(ls -A "$state")" ] || fail "$state holds other things: give an empty directory, or one that does not exist"
	: >"$state/.keygate"
fi

# One at a time; a gateway that run.sh has started holds the lock, too.
exec 9<"$state/.keygate"
flock -n 9 || fail "$state is in use by a gateway or another setup"
rm -f "$state"/.new "$state"/.keygate-* # of one that was cut short

# What was complete once must be there: a new token or key store in the place of
# one that is gone would lose the keys, and look well.
if [ -e "$state/cluster.used" ]; then
	for part in cluster config.yaml pin token keystore; do
		[ -e "$state/$part" ] ||
			fail "$state/$part is gone, and with it the use of the keys: bring it back, or remove $state"
	done
	[ "$(cat "$state/cluster.used")" = "$state" ] ||
		fail "$state is a copy, or was moved: its config.yaml names other places. Move it back, or remove it"
fi

place() { # place FILE MODE: puts standard input in place, whole or not at all
	cat >"$state/.new"
	chmod "$2" "$state/.new"
	sync -- "$state/.new"
	mv -f "$state/.new" "$state/$1"
}

random_hex() { od -An -v -tx1 -N"$1" /dev/urandom | tr -d ' \n'; }

module() {
	local path
	for path in "${SOFTHSM2_MODULE:-}" /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so \
		/usr/lib64/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so /usr/local/lib/softhsm/libsofthsm2.so; do
		if [ -n "$path" ] && [ -e "$path" ]; then
			printf '%s' "$path"
			return
		fi
	done
	fail "there is no libsofthsm2.so: install softhsm2, or name it with SOFTHSM2_MODULE"
}

softhsm_conf() { # softhsm_conf TOKEN_DIRECTORY
	printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n' "$1"
}

# identity NAME ARGUMENTS...: makes a key, if there is none, and its certificate.
identity() {
	local name=$1 renew=()
	shift
	[ ! -e "$state/$name.key" ] || renew=(--renew)
	"$keygate" identity new --key "$state/$name.key" --cert "$state/$name.crt" "${renew[@]}" "$@" >/dev/null
}

certificates() {
	local names=(--dns localhost --ip 127.0.0.1 --ip ::1)
	host=${host#[} host=${host%]}
	case $host in
	'' | localhost | 127.0.0.1 | ::1 | 0.0.0.0 | ::) ;;
	*[!0-9.]*) case $host in *:*) names+=(--ip "$host") ;; *) names+=(--dns "$host") ;; esac ;;
	*) names+=(--ip "$host") ;;
	esac
	[ -e "$state/ca.crt" ] || {
		say "an authority: ca.crt"
		identity ca --is-ca --cn "keygate trial authority"
	}
	[ -e "$state/app.crt" ] || say "a server certificate, and the identities admin and app"
	local sign=(--ca "$state/ca.crt" --ca-key "$state/ca.key")
	identity server "${sign[@]}" --cn keygate "${names[@]}"
	identity admin "${sign[@]}" --cn admin
	identity app "${sign[@]}" --cn app
}

# A test token is made elsewhere and moved, so that there is never half of one.
token() {
	softhsm_conf "$state/token" | place softhsm2.conf 0600
	[ ! -d "$state/token" ] || return 0
	say "a SoftHSM2 token, with root keys made in it"
	rm -rf "$state/token.new"
	mkdir "$state/token.new"
	softhsm_conf "$state/token.new" | place softhsm2.new.conf 0600
	SOFTHSM2_CONF=$state/softhsm2.new.conf "$keygate" hsm init --config "$state/config.yaml" \
		--make-token --so-pin-file "$state/so-pin" >/dev/null
	sync -- "$state"/token.new/*/* "$state/token.new"
	mv "$state/token.new" "$state/token"
	rm -f "$state/softhsm2.new.conf"
}

yaml_string() { printf "'%s'" "${1//\'/\'\'}"; }

configuration() {
	[ ! -e "$state/config.yaml" ] || return 0
	say "a configuration: config.yaml"
	local admin app
	admin=$("$keygate" identity of "$state/admin.crt")
	app=$("$keygate" identity of "$state/app.crt")
	place config.yaml 0600 <<-YAML
		# A trial. config.example.yaml says what else there is.
		address: $(yaml_string "$address")
		cluster: $(cat "$state/cluster")
		admin:
		  identity: $admin
		tls:
		  key: $(yaml_string "$state/server.key")
		  cert: $(yaml_string "$state/server.crt")
		policy:
		  app:
		    allow:
		      - /v1/key/create/app-*
		      - /v1/key/describe/app-*
		      - /v1/key/list/app-*
		      - /v1/key/generate/app-*
		      - /v1/key/encrypt/app-*
		      - /v1/key/decrypt/app-*
		      - /v1/key/batch/generate/app-*
		      - /v1/key/batch/decrypt/app-*
		      - /v1/key/hmac/app-*
		      - /v1/status
		      - /v1/metrics
		      - /v1/api
		    identities:
		      - $app
		audit:
		  file: $(yaml_string "$state/audit.log")
		keystore:
		  fs:
		    path: $(yaml_string "$state/keystore")
		root:
		  pkcs11:
		    module: $(yaml_string "$(module)")
		    token: keygate
		    pin:
		      file: $(yaml_string "$state/pin")
	YAML
}

[ -e "$state/pin" ] || random_hex 16 | place pin 0400
[ -e "$state/so-pin" ] || random_hex 16 | place so-pin 0400
[ -e "$state/cluster" ] || random_hex 16 | place cluster 0600
certificates
configuration
token
[ -e "$state/cluster.used" ] || {
	say "a key store: keystore"
	"$keygate" store init --config "$state/config.yaml" >/dev/null
	printf '%s\n' "$state" | place cluster.used 0600
}

#!/bin/bash
# Starts a cluster on this machine, to try: three gateways on 127.0.0.1, three etcd
# members as their key store, root keys in SoftHSM. Runs an example over all three,
# in which one is killed, and
#
#   cluster.sh run     goes on in the foreground until it is interrupted
#   cluster.sh demo    stops it all; the exit status says whether all went well
#
# PORT (default 7373) is the first of the three ports. All is in a temporary
# directory and gone in the end, keys too; after a failure, the logs stay.
set -euo pipefail
umask 077
here=$(cd "$(dirname "$0")/.." && pwd)
mode=${1:-run}
port=${PORT:-7373}
keygate=$here/bin/keygate
nodes=(1 2 3)

say() { printf '\n# %s\n' "$*"; }
fail() {
	printf 'cluster: %s\n' "$*" >&2
	exit 1
}
case $mode in run | demo) ;; *)
	echo "usage: cluster.sh run|demo" >&2
	exit 2
	;;
esac
"$here/scripts/packages.sh" run
"$here/scripts/packages.sh" etcd
[ -x "$keygate" ] || fail "there is no bin/keygate: make build makes it"

dir=$(mktemp -d "${TMPDIR:-/tmp}/keygate-cluster-XXXXXX")
declare -A pid=()
etcd=
stop() {
	local status=$? n logs
	trap - EXIT INT TERM HUP
	for n in "${!pid[@]}"; do kill -TERM "${pid[$n]}" 2>/dev/null || true; done
	for n in "${!pid[@]}"; do wait "${pid[$n]}" 2>/dev/null || true; done
	[ -z "$etcd" ] || { kill -TERM "$etcd" 2>/dev/null && wait "$etcd" 2>/dev/null || true; }
	case $status in 0 | 130 | 143) ;; *)
		logs=$(mktemp -d "${TMPDIR:-/tmp}/keygate-cluster-logs-XXXXXX")
		cp "$dir"/*.log "$logs" 2>/dev/null || true
		echo "cluster: the logs are in $logs" >&2
		;;
	esac
	rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

address() { printf '127.0.0.1:%d' $((port + $1 - 1)); }
for n in "${nodes[@]}"; do
	! (exec 3<>"/dev/tcp/127.0.0.1/$((port + n - 1))") 2>/dev/null || fail "$(address "$n") is in use: give another PORT"
done

# Not by setsid: at the terminal an interrupt reaches etcd.sh too, which is what is
# wanted.
mkfifo "$dir/etcd.in"
exec 8<>"$dir/etcd.in" # its standard input, which ends with this script
: >"$dir/etcd.env"
"$here/scripts/etcd.sh" <"$dir/etcd.in" >"$dir/etcd.env" 2>"$dir/etcd.log" 8>&- &
etcd=$!
until grep -q '^KEYGATE_TEST_ETCD=' "$dir/etcd.env"; do
	kill -0 "$etcd" 2>/dev/null || {
		cat "$dir/etcd.log" >&2
		fail "etcd did not start"
	}
	sleep 0.1
done
members=$(sed -n 's/^KEYGATE_TEST_ETCD=//p' "$dir/etcd.env")
etcd_dir=$(sed -n 's/^KEYGATE_TEST_ETCD_DIR=//p' "$dir/etcd.env")

random_hex() { od -An -v -tx1 -N"$1" /dev/urandom | tr -d ' \n'; }
identity() { "$keygate" identity new --key "$dir/$1.key" --cert "$dir/$1.crt" "${@:2}" >/dev/null; }
identity ca --is-ca --cn "keygate trial authority"
for name in admin app; do identity $name --ca "$dir/ca.crt" --ca-key "$dir/ca.key" --cn $name; done
identity server --ca "$dir/ca.crt" --ca-key "$dir/ca.key" --cn keygate --ip 127.0.0.1 --dns localhost
random_hex 16 >"$dir/pin"
random_hex 16 >"$dir/so-pin"
cluster=$(random_hex 16)
for module in "${SOFTHSM2_MODULE:-}" /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so; do
	[ -n "$module" ] && [ -e "$module" ] && break
done
[ -e "$module" ] || fail "there is no libsofthsm2.so: name it with SOFTHSM2_MODULE"

softhsm_conf() { printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$1"; }
configuration() { # configuration NODE
	cat <<-YAML
		address: $(address "$1")
		cluster: $cluster
		admin: {identity: $("$keygate" identity of "$dir/admin.crt")}
		tls: {key: $dir/server.key, cert: $dir/server.crt}
		policy:
		  app:
		    allow: [/v1/key/create/app-*, /v1/key/describe/app-*, /v1/key/list/app-*, /v1/key/generate/app-*, /v1/key/encrypt/app-*, /v1/key/decrypt/app-*, /v1/status, /v1/ready]
		    identities: [$("$keygate" identity of "$dir/app.crt")]
		audit: {file: $dir/audit-$1.log}
		keystore:
		  etcd:
		    endpoints: [${members//,/, }]
		    tls: {ca: $etcd_dir/ca.crt, cert: $etcd_dir/client.crt, key: $etcd_dir/client.key}
		root:
		  pkcs11: {module: $module, token: keygate, pin: {file: $dir/pin}}
	YAML
}
for n in "${nodes[@]}"; do configuration "$n" >"$dir/node-$n.yaml"; done

# One token with root keys, and a copy of its files for each gateway, made before
# the first use: the same keys, and nothing that is shared. One directory for all
# would be lost for all: at each login SoftHSM rewrites its token object in place,
# and a gateway that is killed in that moment leaves half of it. The root keys are
# not extractable, so no other way leads from one token into another.
mkdir "$dir/token"
softhsm_conf "$dir/token" >"$dir/softhsm2.conf"
SOFTHSM2_CONF=$dir/softhsm2.conf "$keygate" hsm init --config "$dir/node-1.yaml" --make-token --so-pin-file "$dir/so-pin" >/dev/null
for n in "${nodes[@]}"; do
	cp -r "$dir/token" "$dir/token-$n"
	softhsm_conf "$dir/token-$n" >"$dir/softhsm2-$n.conf"
done
rm -rf "$dir/token"
"$keygate" store init --config "$dir/node-1.yaml" >/dev/null

start() { # start NODE
	SOFTHSM2_CONF=$dir/softhsm2-$1.conf "$keygate" server --config "$dir/node-$1.yaml" 2>>"$dir/node-$1.log" 8>&- &
	pid[$1]=$!
}
ready() { # ready NODE: waits until it is
	local tries
	for ((tries = 0; tries < 150; tries++)); do
		"$keygate" ready --server "$(address "$1")" 2>"$dir/ready.log" && return
		kill -0 "${pid[$1]}" 2>/dev/null || break
		sleep 0.2
	done
	tail -n 3 "$dir/node-$1.log" "$dir/ready.log" >&2
	fail "gateway $1 is not ready"
}
all=$(address 1),$(address 2),$(address 3)
export KEYGATE_SERVER=$all KEYGATE_CACERT=$dir/ca.crt KEYGATE_CLIENT_CERT=$dir/app.crt KEYGATE_CLIENT_KEY=$dir/app.key
for n in "${nodes[@]}"; do start "$n"; done
for n in "${nodes[@]}"; do ready "$n"; done

cat <<TEXT
A cluster of three gateways, ${all//,/, },
with its keys in etcd ($members) and its root keys in SoftHSM tokens.
Client certificates: $dir/app.crt and app.key, $dir/admin.crt and admin.key; authority: $dir/ca.crt.

export KEYGATE_SERVER='$all' KEYGATE_CACERT='$dir/ca.crt' \\
       KEYGATE_CLIENT_CERT='$dir/app.crt' KEYGATE_CLIENT_KEY='$dir/app.key'
TEXT

try() { # try ARGUMENTS...: prints a command of keygate, runs it, and leaves what it prints in $answer
	printf '$ bin/keygate'
	printf ' %q' "$@"
	echo
	answer=$("$keygate" "$@")
	[ -z "$answer" ] || printf '%s\n' "$answer"
}
field() { printf '%s' "$answer" | sed -n 's/.*"'"$1"'": *"\([^"]*\)".*/\1/p'; }
opens() { # opens SERVERS: has the DEK decrypted there, which must be the one that was made
	try key decrypt app-1 --json --server "$1" "$ciphertext"
	[ -n "$plaintext" ] && [ "$(field plaintext)" = "$plaintext" ] || fail "the DEK that came back is another one"
}

say "Make a master key at the first gateway,"
try key create app-1 --server "$(address 1)"
say "get a DEK under it at the second,"
try key dek app-1 --json --server "$(address 2)"
plaintext=$(field plaintext) ciphertext=$(field ciphertext)
say "and have it decrypted at the third."
opens "$(address 3)"
say "The second is killed. The DEK that it made opens at the others, and new ones are made:"
kill -KILL "${pid[2]}"
wait "${pid[2]}" 2>/dev/null || true
printf '$ kill -KILL %s\n' "${pid[2]}"
opens "$(address 2),$(address 1)"
try key dek app-1 --json --server "$(address 2),$(address 3)"
say "It comes back, and opens what it made before."
start 2
ready 2
opens "$(address 2)"
echo
echo "Each DEK that came back is the one that was made."

[ "$mode" = run ] || exit 0
echo "The cluster runs until you stop it (Ctrl-C). Logs and audit trails are in $dir."
while ((${#pid[@]})); do
	ended='' status=0
	wait -n -p ended "${pid[@]}" || status=$?
	for n in "${!pid[@]}"; do
		[ "${pid[$n]}" = "$ended" ] || continue
		unset "pid[$n]"
		((${#pid[@]})) || break
		printf '\n# Gateway %s has ended, with status %d; %d go on. To start it again:\n' "$n" "$status" "${#pid[@]}"
		printf 'SOFTHSM2_CONF=%q %q server --config %q\n' "$dir/softhsm2-$n.conf" "$keygate" "$dir/node-$n.yaml"
	done
done
fail "all gateways have ended"

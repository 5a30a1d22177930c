#!/bin/bash
# Sets up what is missing, starts a gateway, runs an example against it, and
#
#   run.sh run     goes on in the foreground until it is interrupted
#   run.sh demo    stops the gateway; the exit status says whether all went well
#
# ADDRESS (default 127.0.0.1:7373) and STATE (default ./state) put it elsewhere.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
mode=${1:-run}
state=${STATE:-state}
address=${ADDRESS:-127.0.0.1:7373}

case $mode in run | demo) ;; *)
	echo "usage: run.sh run|demo" >&2
	exit 2
	;;
esac

"$here/scripts/setup.sh" "$state" "$address"
exec 9<"$state/.keygate" # held by this script and the gateway, until both have ended
flock -n 9 || {
	echo "run: $state is in use by another gateway" >&2
	exit 1
}

SOFTHSM2_CONF=$(cd "$state" && pwd)/softhsm2.conf
export SOFTHSM2_CONF
"$here/bin/keygate" server --config "$state/config.yaml" --addr "$address" &
server=$!
trap 'kill -TERM "$server" 2>/dev/null || true' INT TERM HUP
trap 'kill -TERM "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true' EXIT

# A host that only names where to listen is not one to connect to.
host=${address%:*} port=${address##*:}
case $host in '' | 0.0.0.0 | '[::]') host=127.0.0.1 ;; esac

up() {
	curl --silent --output /dev/null --max-time 5 --fail --cacert "$state/ca.crt" \
		--cert "$state/admin.crt" --key "$state/admin.key" "https://$host:$port/v1/ready"
}
for ((tries = 0; ; tries++)); do
	if ! kill -0 "$server" 2>/dev/null; then
		trap - EXIT
		wait "$server" && status=1 || status=$?
		exit "$status"
	fi
	up && break
	if [ "$tries" -ge 150 ]; then
		echo "run: the gateway is not ready after 30 s" >&2
		exit 1
	fi
	sleep 0.2
done

"$here/scripts/example.sh" "$state" "https://$host:$port"

if [ "$mode" = demo ]; then
	kill -TERM "$server" || true
	trap - EXIT
	wait "$server"
	exit
fi
echo "The gateway runs on https://$host:$port until you stop it (Ctrl-C)."
# wait returns early when a trapped signal comes: the gateway then drains.
status=0
wait "$server" || status=$?
while kill -0 "$server" 2>/dev/null; do
	status=0
	wait "$server" || status=$?
done
trap - EXIT
exit "$status"

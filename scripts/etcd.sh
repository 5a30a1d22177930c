#!/bin/bash
# Starts an etcd cluster of three members for tests: mutual TLS, free ports of
# 127.0.0.1, data in a temporary directory. Prints, once it is ready,
#
#   KEYGATE_TEST_ETCD=https://127.0.0.1:P1,https://...   the members
#   KEYGATE_TEST_ETCD_DIR=DIRECTORY   in which are ca.crt, client.crt, client.key,
#                                     and for each member N its data (N/), its log
#                                     (N.log), its process id (N.pid) and a script
#                                     that starts it again (N.sh); restore.sh FILE puts
#                                     a snapshot in the place of all data
#
# and runs until its standard input ends, or a signal comes; then nothing is left.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/packages.sh" etcd >&2

dir=$(mktemp -d "${TMPDIR:-/tmp}/keygate-etcd-XXXXXX")
stop() {
	trap - EXIT INT TERM HUP
	local n pid
	for n in 0 1 2; do
		pid=$(cat "$dir/$n.pid" 2>/dev/null) || continue
		if [ "$(readlink "/proc/$pid/exe" 2>/dev/null)" = "$etcd" ]; then kill -KILL "$pid" 2>/dev/null || true; fi
	done
	rm -rf "$dir"
}
trap stop EXIT
trap 'exit 143' INT TERM HUP
etcd=$(readlink -f "$(command -v etcd)")

# Certificates of one authority, for the members and for clients. The names of the
# clients are those of etcd's users.
(
	cd "$dir"
	umask 077
	key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
	openssl req -x509 "${key[@]}" -keyout ca.key -out ca.crt -days 2 -subj /CN=test-ca 2>/dev/null
	sign() { # sign NAME CN EXTENSIONS
		openssl req "${key[@]}" -keyout "$1.key" -out "$1.csr" -subj "/CN=$2" 2>/dev/null
		openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -out "$1.crt" -days 2 \
			-extfile <(printf '%s' "$3") 2>/dev/null
	}
	sign server etcd 'subjectAltName=IP:127.0.0.1,DNS:localhost'
	sign client keygate 'extendedKeyUsage=clientAuth'
)

# Free ports: taken from the kernel by listening on port 0 would need a tool that
# is not everywhere; these are tried, and others if etcd finds one taken.
port() { echo $((20000 + (RANDOM * 32768 + RANDOM) % 12000)); }
free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
ports=()
while [ ${#ports[@]} -lt 6 ]; do
	p=$(port)
	free "$p" && ports+=("$p")
done

cluster=
endpoints=
for n in 0 1 2; do
	cluster+="${cluster:+,}m$n=https://127.0.0.1:${ports[n]}"
	endpoints+="${endpoints:+,}https://127.0.0.1:${ports[n + 3]}"
done

cat >"$dir/restore.sh" <<SH
#!/bin/bash
# Puts the snapshot \$1 in the place of the data of all members, which must not run.
set -e
cd '$dir'
ports=(${ports[*]:0:3})
for n in 0 1 2; do
	rm -rf \$n
	ETCDCTL_API=3 etcdctl snapshot restore "\$1" --name m\$n --data-dir \$n --initial-cluster '$cluster' \\
		--initial-cluster-token restored --initial-advertise-peer-urls https://127.0.0.1:\${ports[n]}
done
SH
chmod +x "$dir/restore.sh"
for n in 0 1 2; do
	cat >"$dir/$n.sh" <<-SH
		#!/bin/bash
		# Starts member $n, and leaves its process id in $n.pid.
		cd '$dir'
		'$etcd' --name m$n --data-dir '$dir/$n' \\
			--listen-client-urls https://127.0.0.1:${ports[n + 3]} --advertise-client-urls https://127.0.0.1:${ports[n + 3]} \\
			--listen-peer-urls https://127.0.0.1:${ports[n]} --initial-advertise-peer-urls https://127.0.0.1:${ports[n]} \\
			--initial-cluster '$cluster' --initial-cluster-state new --initial-cluster-token '$(basename "$dir")' \\
			--cert-file server.crt --key-file server.key --client-cert-auth --trusted-ca-file ca.crt \\
			--peer-cert-file server.crt --peer-key-file server.key --peer-client-cert-auth --peer-trusted-ca-file ca.crt \\
			--heartbeat-interval 50 --election-timeout 500 --logger zap >>$n.log 2>&1 </dev/null &
		echo \$! >$n.pid
	SH
	chmod +x "$dir/$n.sh"
	"$dir/$n.sh"
done

health() {
	ETCDCTL_API=3 etcdctl --endpoints "$endpoints" --cacert "$dir/ca.crt" --cert "$dir/client.crt" --key "$dir/client.key" \
		--command-timeout 2s endpoint health >/dev/null 2>&1
}
for ((tries = 0; ; tries++)); do
	health && break
	if [ "$tries" -ge 100 ]; then
		echo "etcd: the cluster is not ready" >&2
		tail -n 5 "$dir"/*.log >&2
		exit 1
	fi
	sleep 0.2
done

echo "KEYGATE_TEST_ETCD_DIR=$dir"
echo "KEYGATE_TEST_ETCD=$endpoints"
exec 3<&0 # the standard input of what runs in the background is another
cat <&3 >/dev/null & # until standard input ends
wait $!

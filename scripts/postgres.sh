#!/bin/bash
# Starts a PostgreSQL server for tests: TLS, a free port of 127.0.0.1, data in a
# temporary directory. Prints, once it is ready,
#
#   KEYGATE_TEST_POSTGRES=127.0.0.1:PORT
#   KEYGATE_TEST_POSTGRES_DIR=DIRECTORY   in which are ca.crt, the passwords of the
#                                         roles postgres (NAME.password), owner and
#                                         gateway, the data (data/), the log
#                                         (postgres.log) and a script that starts the
#                                         server again (start.sh)
#
# and runs until its standard input ends, or a signal comes; then nothing is left.
# The database is keygate; owner may make schemas in it, and gateway may connect.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
"$here/packages.sh" postgres >&2
bin=$(dirname "$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V | tail -n 1)")

# The server does not run as root: the package has made a user for it.
as=()
[ "$(id -u)" -ne 0 ] || as=(setpriv --reuid postgres --regid postgres --init-groups)
dir=$(mktemp -d "${TMPDIR:-/tmp}/keygate-postgres-XXXXXX")
stop() {
	trap - EXIT INT TERM HUP
	local pid
	if pid=$(head -n 1 "$dir/data/postmaster.pid" 2>/dev/null) &&
		[ "$(readlink "/proc/$pid/exe" 2>/dev/null)" = "$(readlink -f "$bin/postgres")" ]; then
		kill -QUIT "$pid" 2>/dev/null || true # at once
		for ((n = 0; n < 100; n++)); do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.05
		done
	fi
	rm -rf "$dir"
}
trap stop EXIT
trap 'exit 143' INT TERM HUP

cd "$dir"
(
	umask 077
	for role in postgres owner gateway; do
		od -An -v -tx1 -N16 /dev/urandom | tr -d ' \n' >$role.password
	done
	key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
	openssl req -x509 "${key[@]}" -keyout ca.key -out ca.crt -days 2 -subj /CN=test-ca 2>/dev/null
	openssl req "${key[@]}" -keyout server.key -out server.csr -subj /CN=postgres 2>/dev/null
	openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 2 \
		-extfile <(printf 'subjectAltName=IP:127.0.0.1,DNS:localhost') 2>/dev/null
)
mkdir data
[ ${#as[@]} -eq 0 ] || chown -R postgres:postgres "$dir"
chmod 0700 "$dir" data
"${as[@]}" "$bin/initdb" -D data -U postgres --pwfile postgres.password --auth scram-sha-256 \
	--encoding UTF8 --locale C --no-sync >initdb.log

free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
port=0
until [ "$port" -ne 0 ] && free "$port"; do port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000)); done
cat >>data/postgresql.conf <<CONF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = '$dir'
ssl = on
ssl_cert_file = '$dir/server.crt'
ssl_key_file = '$dir/server.key'
max_connections = 200
shared_buffers = 32MB
CONF
printf 'local all postgres peer\nlocal all all scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n' >data/pg_hba.conf

# setsid: an interrupt at the terminal is for this script, which stops the server.
cat >start.sh <<SH
#!/bin/bash
# Starts the server, and returns when it takes connections, or has ended.
cd '$dir'
${as[*]} setsid '$bin/postgres' -D '$dir/data' >>postgres.log 2>&1 </dev/null &
server=\$!
while kill -0 \$server 2>/dev/null; do
	'$bin/pg_isready' -q -h 127.0.0.1 -p $port && exit 0
	sleep 0.05
done
exit 1
SH
chmod +x start.sh
./start.sh || {
	tail -n 5 initdb.log postgres.log >&2
	exit 1
}
PGPASSWORD=$(cat postgres.password) "$bin/psql" -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$port" -U postgres postgres <<SQL
CREATE ROLE owner LOGIN PASSWORD '$(cat owner.password)';
CREATE ROLE gateway LOGIN PASSWORD '$(cat gateway.password)';
CREATE DATABASE keygate;
CREATE DATABASE empty;
REVOKE ALL ON DATABASE keygate FROM PUBLIC;
GRANT CREATE, CONNECT ON DATABASE keygate TO owner;
GRANT CONNECT ON DATABASE keygate TO gateway;
SQL

echo "KEYGATE_TEST_POSTGRES_DIR=$dir"
echo "KEYGATE_TEST_POSTGRES=127.0.0.1:$port"
exec 3<&0 # the standard input of what runs in the background is another
cat <&3 >/dev/null & # until standard input ends
wait $!

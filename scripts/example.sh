#!/bin/bash
# Makes a key, gets a DEK under it, and has it decrypted again, printing each
# request so that it can be pasted.
#
#   example.sh STATE URL
set -euo pipefail
state=$1 url=$2
tls=(--cacert "$state/ca.crt" --cert "$state/app.crt" --key "$state/app.key")
context=$(printf '{"bucket":"bucket/object"}' | base64 | tr -d '\n')

request() { # request PATH [BODY]: prints the request and its answer, which it leaves in $answer and $status
	printf '$ curl -sS'
	printf ' %q' "${tls[@]}" -X POST "$url$1"
	[ $# -lt 2 ] || printf " -d '%s'" "$2"
	echo
	answer=$(curl -sS "${tls[@]}" -X POST "$url$1" ${2:+-d "$2"} -w '\n%{http_code}')
	status=${answer##*$'\n'}
	answer=${answer%$'\n'*}
	answer=${answer//$'\n'/}
	printf '%s\n' "${answer:-(status $status)}"
}

field() { # field NAME: of the answer, a JSON object of strings
	printf '%s' "$answer" | sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p'
}

fail() {
	echo "example: $*" >&2
	exit 1
}

echo
echo "# Make a master key, in the HSM."
request /v1/key/create/app-1
case $status in
200) ;;
400)
	[ "$(field message)" = "key already exists" ] || fail "create: status $status"
	echo "# It was made by an earlier run: this one goes on with it."
	;;
*) fail "create: status $status" ;;
esac

echo
echo "# Get a data encryption key (DEK) under it, for one object: the context is"
echo '# {"bucket":"bucket/object"}. Use plaintext, store ciphertext.'
request /v1/key/generate/app-1 "{\"context\":\"$context\"}"
[ "$status" = 200 ] || fail "generate: status $status"
plaintext=$(field plaintext) ciphertext=$(field ciphertext)

echo
echo "# Get the DEK back, with the same context."
request /v1/key/decrypt/app-1 "{\"ciphertext\":\"$ciphertext\",\"context\":\"$context\"}"
[ "$status" = 200 ] || fail "decrypt: status $status"
[ -n "$plaintext" ] && [ "$(field plaintext)" = "$plaintext" ] || fail "the DEK that came back is another one"
echo
echo "The DEK that came back is the one that was generated."

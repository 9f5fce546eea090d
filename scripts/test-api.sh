#!/usr/bin/env bash
# Runs schemathesis against a daemon, anonymously and with each role. It sends requests that the OpenAPI
# document allows and others that it does not. A 5xx, or an answer that the document does not describe,
# is a failure.
#
# API_SECONDS  the duration of each run (default: 60)
set -euo pipefail
cd "$(dirname "$0")/.."

readonly seconds=${API_SECONDS:-60}
readonly version=4.32.5
readonly port=${API_PORT:-8497}
fail() {
    printf 'test-api: %s\n' "$*" >&2
    exit 1
}

folder=$(mktemp -d)
daemon=
finish() {
    local status=$?
    trap - EXIT
    if [ -n "$daemon" ] && kill -TERM "$daemon" 2>/dev/null; then
        wait "$daemon" || true
    fi
    rm -rf "$folder"
    exit "$status"
}
trap finish EXIT

# A virtual environment leaves the machine's Python unchanged.
tools=target/tools/schemathesis-$version
if [ ! -x "$tools/bin/schemathesis" ]; then
    rm -rf "$tools"
    python3 -m venv "$tools" || fail "cannot create a virtual environment: install python3-venv"
    "$tools/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
fi
schemathesis=$PWD/$tools/bin/schemathesis

cargo build --locked --quiet --bin pgsteward
cat >"$folder/config.toml" <<TOML
[migrations]
sets = ["zentry"]
[jobs.health-probe]
schedule = "@every 1s"
TOML
for role in viewer operator admin service; do
    digest=$(printf 'pgs_%s_of_the_test_0123456789abcdef' "$role" | sha256sum | cut -d ' ' -f 1)
    printf '[auth.tokens.%s]\nrole = "%s"\nsha256 = "%s"\n' "$role" "$role" "$digest" >>"$folder/config.toml"
done
target/debug/pgsteward run --ephemeral --config "$folder/config.toml" --listen "127.0.0.1:$port" 2>"$folder/log" &
daemon=$!
for ((waited = 0; ; waited++)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port" && printf 'GET /readyz HTTP/1.0\r\nHost: x\r\n\r\n' >&3 &&
        grep -q '^HTTP/1.0 200' <&3) 2>/dev/null && break
    kill -0 "$daemon" 2>/dev/null && [ "$waited" -lt 240 ] || { cat "$folder/log" >&2; fail "the daemon did not become ready; see its log above"; }
    sleep 0.5
done

cp tests/api/schemathesis.toml "$folder/"
# unsupported_method is excluded: it objects to OPTIONS, which the daemon answers as RFC 9110 says.
for role in "" viewer operator admin service; do
    header=()
    [ -z "$role" ] || header=(--header "Authorization: Bearer pgs_${role}_of_the_test_0123456789abcdef")
    printf '== as %s\n' "${role:-anonymous}"
    (cd "$folder" && timeout $((seconds + 180)) "$schemathesis" --config-file schemathesis.toml run \
        "http://127.0.0.1:$port/openapi.json" "${header[@]}" --phases examples,coverage,fuzzing \
        --exclude-checks unsupported_method,ignored_auth --generation-with-security-parameters false \
        --max-time "$seconds" --request-timeout 40 --warnings off >"$folder/output" 2>&1) ||
        { tail -n 120 "$folder/output"; fail "schemathesis found failures as ${role:-anonymous}; see above"; }
    grep -E 'generated' "$folder/output"
done

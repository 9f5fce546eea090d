#!/bin/sh
# Asks systemd and Kubernetes' own schema about what is shipped; tests/packaging reads the same files
# without them. Needs systemd-analyze (apt-get install systemd), python3 with venv, and PyPI.
#
#   cargo build && packaging/verify.sh target/debug/pgsteward
set -eu

binary=$(realpath "${1:?usage: packaging/verify.sh PATH-TO-PGSTEWARD}")
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v systemd-analyze >/dev/null || {
    echo "systemd-analyze is missing; install it: apt-get install -y --no-install-recommends systemd" >&2
    exit 69
}
# The binary is not installed here, and verify looks for what ExecStart names.
sed "s#/usr/bin/pgsteward#$binary#" "$here/../systemd/pgsteward.service" >"$work/pgsteward.service"
found=$(systemd-analyze verify --man=no "$work/pgsteward.service" 2>&1) || {
    echo "$found" >&2
    exit 1
}
# An unknown key is a warning, and leaves the exit code alone.
if echo "$found" | grep -F "$work/pgsteward.service" >&2; then exit 1; fi
# Of 10, times 10; the network and the host's root directory are what remains.
systemd-analyze security --offline=true --threshold=15 "$work/pgsteward.service" | tail -n 1

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate
# Native sidecars are on by default from 1.29.
for version in 1.29.0 1.33.0; do
    "$work/venv/bin/kubernetes-validate" --quiet --strict -k "$version" "$here/kubernetes/sidecar.yaml"
done
echo "packaging verified"

#!/bin/sh
# Checks the shipped files with systemd-analyze and with the schemas of Kubernetes; tests/packaging
# checks them without these tools. Needs systemd-analyze (apt-get install systemd), python3 with venv,
# and access to PyPI.
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
# `systemd-analyze verify` checks that the binary in ExecStart exists, and it is not installed here.
sed "s#/usr/bin/pgsteward#$binary#" "$here/../systemd/pgsteward.service" >"$work/pgsteward.service"
found=$(systemd-analyze verify --man=no "$work/pgsteward.service" 2>&1) || {
    echo "$found" >&2
    exit 1
}
# An unknown key is only a warning and does not change the exit code.
if echo "$found" | grep -F "$work/pgsteward.service" >&2; then exit 1; fi
# The exposure level times 10, from 0 to 100. The network and the host's root directory remain.
systemd-analyze security --offline=true --threshold=15 "$work/pgsteward.service" | tail -n 1

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate
# Native sidecars are on by default from 1.29.
for version in 1.29.0 1.33.0; do
    "$work/venv/bin/kubernetes-validate" --quiet --strict -k "$version" "$here/kubernetes/sidecar.yaml"
done
echo "packaging verified"

#!/usr/bin/env bash
# Builds the release binary, target/release/pgsteward, and fails if it contains a path of the
# machine that built it.
#
# usage: scripts/release.sh [arguments of cargo build, such as --target NAME]
#
# Relocations are packed where this machine's glibc is 2.36 or later (see build.rs); such a binary
# needs glibc 2.36 to start. PGSTEWARD_PACK_RELOCATIONS=0 leaves them unpacked.
set -euo pipefail
cd "$(dirname "$0")/.."

# Paths of dependencies are remapped by directory, so the directories must exist before the build.
cargo fetch --locked --quiet
. scripts/release-env.sh

binary=$(cargo build --release --locked --bin pgsteward \
    --message-format=json-render-diagnostics "$@" |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
[ -x "$binary" ] || {
    echo "release: cargo reported no executable" >&2
    exit 1
}

# "$PWD/" alone would also match inside relative paths, where the repository lies in /src.
paths=("$PWD/src/" "$PWD/target/" "${CARGO_HOME:-$HOME/.cargo}/" "$(rustc --print sysroot)/")
if LC_ALL=C grep -aobF "${paths[@]/#/--regexp=}" "$binary" >&2; then
    echo "release: $binary contains the paths above, each behind its offset" >&2
    exit 1
fi
printf 'release: %s (%s bytes) contains no path of this machine\n' \
    "$binary" "$(stat -c %s "$binary")"

# Sourced: exports the settings that release binaries are built with, for scripts/release.sh and
# `make bench`, so that what is measured is what is released. The working directory must be the
# root of the repository.
# shellcheck shell=bash

# Source paths stand in panic messages. Without this they would name the builder's directories.
remap=("--remap-path-prefix=$PWD=pgsteward")
for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
    remap+=("--remap-path-prefix=$registry=registry")
done
# The standard library's paths are local ones where the component rust-src is installed.
remap+=("--remap-path-prefix=$(rustc --print sysroot)/lib/rustlib/src/rust=rust")
# Separated by the unit separator, so that a path may contain spaces.
CARGO_ENCODED_RUSTFLAGS=$(printf '%s\x1f' "${remap[@]}")
export CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%$'\x1f'}

# See build.rs. An older glibc refuses to start a binary with packed relocations.
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed -n 's/^glibc //p') || true
if [ -z "${PGSTEWARD_PACK_RELOCATIONS:-}" ] && [ -n "$glibc" ] &&
    [ "$(printf '2.36\n%s\n' "$glibc" | sort -V | head -n 1)" = 2.36 ]; then
    export PGSTEWARD_PACK_RELOCATIONS=1
fi

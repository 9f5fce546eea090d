//! Packs the OpenAPI document, and links the binary with packed relative relocations (DT_RELR) where the system can load them.
//!
//! Unpacked, relocations are 24 bytes each, all of them read at every start and resident from then on; packed they are
//! a few bits. glibc loads them from
//! 2.36 on (Debian 12, Ubuntu 22.10), and an older one refuses the binary: so a binary that is to run
//! on such a system is built on one, as for every other symbol of glibc.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    pack_document();
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let native = std::env::var("HOST") == std::env::var("TARGET");
    if native && target("OS") == "linux" && target("ENV") == "gnu" && glibc() >= Some((2, 36)) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Writes the OpenAPI document without what only people need, for the binary to hold.
fn pack_document() {
    const DOCUMENT: &str = "src/http/openapi.json";
    println!("cargo:rerun-if-changed={DOCUMENT}");
    let text =
        std::fs::read_to_string(DOCUMENT).unwrap_or_else(|error| panic!("{DOCUMENT}: {error}"));
    let (mut packed, mut in_text, mut escaped) = (String::with_capacity(text.len()), false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = in_text,
            '"' => in_text = !in_text,
            _ => {}
        }
        if in_text || !c.is_whitespace() {
            packed.push(c);
        }
    }
    let folder = std::env::var("OUT_DIR").unwrap_or_else(|error| panic!("OUT_DIR: {error}"));
    let path = format!("{folder}/openapi.json");
    std::fs::write(&path, packed).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// The version of this system's glibc.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

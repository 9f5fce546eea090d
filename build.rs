//! Links the binary with packed relative relocations (DT_RELR) where the system can load them.
//!
//! The tables of time zones alone need 29,000 relocations. Unpacked they are 0.9 MB of the file, all
//! of it read at every start and resident from then on; packed they are 17 KB. glibc loads them from
//! 2.36 on (Debian 12, Ubuntu 22.10), and an older one refuses the binary: so a binary that is to run
//! on such a system is built on one, as for every other symbol of glibc.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let native = std::env::var("HOST") == std::env::var("TARGET");
    if native && target("OS") == "linux" && target("ENV") == "gnu" && glibc() >= Some((2, 36)) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this system's glibc.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

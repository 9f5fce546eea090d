//! Packs the OpenAPI document into the form that the binary embeds, and links with packed relative
//! relocations (DT_RELR) when `PGSTEWARD_PACK_RELOCATIONS=1` asks for them.
//!
//! An unpacked relocation takes 24 bytes. All of them are read at every start and stay resident, so
//! packing them into bitmaps saves memory. A binary packed this way needs glibc 2.36 or later
//! (Debian 12, Ubuntu 22.10) to start, so that packing is a choice of whoever builds for a known
//! system: `scripts/release.sh` and `make bench` set the variable, `cargo build` alone does not.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=PGSTEWARD_PACK_RELOCATIONS");
    pack_openapi_document();
    if std::env::var("PGSTEWARD_PACK_RELOCATIONS").is_ok_and(|value| value == "1") {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Writes the OpenAPI document without the white space between its tokens to `OUT_DIR`.
fn pack_openapi_document() {
    const DOCUMENT: &str = "src/http/openapi.json";
    println!("cargo:rerun-if-changed={DOCUMENT}");
    let text =
        std::fs::read_to_string(DOCUMENT).unwrap_or_else(|error| panic!("{DOCUMENT}: {error}"));
    let (mut packed, mut in_string, mut escaped) =
        (String::with_capacity(text.len()), false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = in_string,
            '"' => in_string = !in_string,
            _ => {}
        }
        if in_string || !c.is_whitespace() {
            packed.push(c);
        }
    }
    let directory = std::env::var("OUT_DIR").unwrap_or_else(|error| panic!("OUT_DIR: {error}"));
    let path = format!("{directory}/openapi.json");
    std::fs::write(&path, packed).unwrap_or_else(|error| panic!("{path}: {error}"));
}

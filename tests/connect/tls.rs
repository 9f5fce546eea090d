//! Each sslmode means what it means to libpq.

use pgsteward::db::Kind;

use crate::server::{Server, shared};
use crate::{connect, text, try_connect};

const ENCRYPTED: &str = "SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()";

#[tokio::test]
async fn modes_encrypt_as_they_say() {
    let server = shared();
    for (user, mode, encrypted) in [
        ("worker", "disable", "false"),
        ("worker", "allow", "false"),
        ("worker", "prefer", "true"),
        ("worker", "require", "true"),
        // What pg_hba.conf refuses one way is tried the other way, where the mode allows it.
        ("tls_only", "allow", "true"),
        ("tls_only", "prefer", "true"),
        ("plain_only", "prefer", "false"),
        ("plain_only", "allow", "false"),
    ] {
        let conn = connect(&format!("{} sslmode={mode}", server.tcp(user))).await;
        assert_eq!(text(&conn, ENCRYPTED).await, encrypted, "{user} by {mode}");
    }
    for (user, mode) in [("tls_only", "disable"), ("plain_only", "require")] {
        let error = try_connect(&format!("{} sslmode={mode}", server.tcp(user))).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Hba, "{user} by {mode}: {error}");
    }
    let conn = connect(&format!("{} sslmode=require", server.socket())).await;
    assert_eq!(text(&conn, ENCRYPTED).await, "false", "as libpq, no TLS on a Unix socket");
}

#[tokio::test]
async fn certificates_are_verified_as_the_mode_says() {
    let server = shared();
    let (ca, other) = (server.path("ca.crt"), server.path("other.crt"));
    let tcp = server.tcp("worker");
    for rest in [
        format!("sslmode=verify-ca sslrootcert={ca}"),
        format!("sslmode=require sslrootcert={ca}"),
        format!("sslmode=verify-full sslrootcert={ca} host=localhost hostaddr=127.0.0.1"),
    ] {
        let conn = connect(&format!("{tcp} {rest}")).await;
        assert_eq!(text(&conn, ENCRYPTED).await, "true", "{rest}");
    }
    for (rest, kind, says) in [
        (format!("sslmode=verify-full sslrootcert={ca}"), Kind::Tls, "not for 127.0.0.1"),
        (format!("sslmode=verify-ca sslrootcert={other}"), Kind::Tls, "signed by nobody in"),
        (format!("sslmode=require sslrootcert={other}"), Kind::Tls, "signed by nobody in"),
        (
            "sslmode=verify-full sslrootcert=system host=localhost".to_owned(),
            Kind::Tls,
            "sslrootcert=system",
        ),
        ("sslmode=verify-ca sslrootcert=/nonexistent".to_owned(), Kind::Config, "/nonexistent"),
        (
            format!("sslmode=verify-ca sslrootcert={}", server.path("server.key")),
            Kind::Config,
            "not a PEM file",
        ),
    ] {
        let error = try_connect(&format!("{tcp} {rest}")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{rest}: {error}");
        assert!(error.to_string().contains(says), "{rest}: {error}");
    }
    let error = try_connect(&format!("{tcp} sslmode=verify-full sslrootcert={ca}"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("localhost"), "the names that it has are told: {error}");
    assert!(error.contains("SHA-256"), "{error}");
}

#[tokio::test]
async fn client_certificates() {
    let server = shared();
    let tls = format!(
        "host=127.0.0.1 port={} user=cert_user dbname=postgres sslmode=require",
        server.port
    );
    let with = |cert: &str, key: &str| {
        format!("{tls} sslcert={} sslkey={}", server.path(cert), server.path(key))
    };
    let conn = connect(&with("client.crt", "client.key")).await;
    assert_eq!(text(&conn, "current_user").await, "cert_user");

    let error = try_connect(&tls).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Hba, "{error}");
    // Signed by nobody whom the server knows.
    let error = try_connect(&with("self.crt", "self.key")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Tls, "{error}");
    assert!(error.to_string().contains("sslcert"), "{error}");
    let error = try_connect(&with("client.crt", "self.key")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config, "{error}");

    let dir = crate::server::scratch();
    let open = dir.path().join("open.key");
    std::fs::copy(server.path("client.key"), &open).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = try_connect(&format!(
        "{tls} sslcert={} sslkey={}",
        server.path("client.crt"),
        open.display()
    ))
    .await
    .unwrap_err();
    assert!(error.kind() == Kind::Config && error.to_string().contains("0644"), "{error}");
}

#[tokio::test]
async fn channel_binding_is_really_used() {
    let tcp = shared().tcp("worker");
    // tokio-postgres fails a login under `require` that did not bind to the channel.
    connect(&format!("{tcp} sslmode=require channel_binding=require")).await;
    let error =
        try_connect(&format!("{tcp} sslmode=disable channel_binding=require")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Auth, "{error}");
    assert!(error.to_string().contains("channel binding"), "{error}");
}

#[tokio::test]
async fn a_self_signed_certificate_may_be_its_own_root_and_no_tls_is_named() {
    let server = Server::start("");
    for ext in ["crt", "key"] {
        // In place, so that owner and mode stay.
        std::fs::write(
            server.path(&format!("server.{ext}")),
            std::fs::read(server.path(&format!("self.{ext}"))).unwrap(),
        )
        .unwrap();
    }
    server.run("SELECT pg_reload_conf()");
    let own = server.path("self.crt");
    let full = format!(
        "{} host=localhost hostaddr=127.0.0.1 sslmode=verify-full sslrootcert={own}",
        server.tcp("postgres")
    );
    crate::wait_until("the server presents its new certificate", async || {
        try_connect(&full).await.is_ok()
    })
    .await;
    let error =
        try_connect(&format!("{} sslmode=verify-full sslrootcert={own}", server.tcp("postgres")))
            .await
            .unwrap_err();
    assert_eq!(error.kind(), Kind::Tls, "the name still counts: {error}");
    let error = try_connect(&format!(
        "{} sslmode=verify-ca sslrootcert={}",
        server.tcp("postgres"),
        server.path("other.crt")
    ))
    .await
    .unwrap_err();
    assert_eq!(error.kind(), Kind::Tls, "another root: {error}");

    server.run("ALTER SYSTEM SET ssl = off");
    server.run("SELECT pg_reload_conf()");
    let plain = server.tcp("postgres");
    crate::wait_until("the server offers no TLS", async || {
        try_connect(&format!("{plain} sslmode=require")).await.is_err()
    })
    .await;
    let error = try_connect(&format!("{plain} sslmode=require")).await.unwrap_err();
    assert!(
        error.kind() == Kind::Tls && error.to_string().contains("does not offer TLS"),
        "{error}"
    );
    let conn = connect(&format!("{plain} sslmode=prefer")).await;
    assert_eq!(text(&conn, ENCRYPTED).await, "false");
}

/// What a peer receives first, by these settings.
async fn first_bytes(rest: &str) -> Vec<u8> {
    use tokio::io::AsyncReadExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url =
        format!("host=db.test hostaddr=127.0.0.1 port={port} user=worker sslmode=require {rest}");
    let (error, bytes) = tokio::join!(try_connect(&url), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 4096];
        let read = stream.read(&mut bytes).await.unwrap();
        bytes.truncate(read);
        bytes
    });
    assert_eq!(
        error.unwrap_err().kind(),
        if rest.contains("direct") { Kind::Tls } else { Kind::ConnectionLost }
    );
    bytes
}

#[tokio::test]
async fn direct_negotiation_begins_with_the_handshake() {
    let contains =
        |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert_eq!(first_bytes("").await, [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f], "asked first");
    let hello = first_bytes("sslnegotiation=direct").await;
    assert_eq!(hello[0], 0x16, "a TLS handshake record");
    assert!(contains(&hello, b"postgresql"), "ALPN");
    assert!(contains(&hello, b"db.test"), "SNI");
    let hello = first_bytes("sslnegotiation=direct sslsni=0").await;
    assert!(!contains(&hello, b"db.test"), "no SNI");
}

//! Forms of address that work, and every way to be refused: each by its kind, none with the password.

use std::time::{Duration, Instant};

use pgsteward::config::{Secret, SecretSource};
use pgsteward::db::{Kind, Purpose, Route};
use tokio::net::TcpListener;

use crate::server::{PASSWORD, free_port, shared};
use crate::{config, connect, server_of, text, try_connect};

#[tokio::test]
async fn urls_and_words_and_sockets_reach_the_server() {
    let server = shared();
    let password = "s3cr%3At%2Fw%40rd";
    let socket = server.socket_dir.display();
    for url in [
        format!(
            "postgresql://worker:{password}@127.0.0.1:{}/postgres?application_name=shop",
            server.port
        ),
        format!(
            "postgres://worker:{password}@localhost:{}/postgres?application_name=shop&sslmode=disable",
            server.port
        ),
        format!(
            "postgres://worker:{password}@/postgres?host={socket}&port={}&application_name=shop",
            server.port
        ),
        format!("{} application_name=shop", server.tcp("worker")),
        format!("{} application_name=shop options='-c geqo=off'", server.tcp("worker")),
    ] {
        let conn = connect(&url).await;
        assert_eq!(
            text(&conn, "current_setting('application_name')").await,
            "pgsteward/check shop",
            "{url}"
        );
        assert_eq!(text(&conn, "current_user").await, "worker", "{url}");
        let timings = conn.timings();
        assert!(timings.tcp > Duration::ZERO && timings.auth > Duration::ZERO, "{timings:?}");
        assert_eq!(
            timings.tls > Duration::ZERO,
            text(&conn, "SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()")
                .await
                == "true"
        );
    }
}

#[tokio::test]
async fn the_session_is_pinned() {
    let conn = connect(&shared().tcp("worker")).await;
    for (name, value) in [
        ("search_path", "pg_catalog, pg_temp"),
        ("statement_timeout", "30s"),
        ("lock_timeout", "5s"),
        ("idle_in_transaction_session_timeout", "1min"),
        ("TimeZone", "UTC"),
        ("DateStyle", "ISO, MDY"),
        ("IntervalStyle", "postgres"),
        ("client_connection_check_interval", "1s"),
    ] {
        assert_eq!(text(&conn, &format!("current_setting('{name}')")).await, value, "{name}");
    }
    assert!(conn.has_session_state());
    assert_eq!(conn.announced_pid().to_string(), text(&conn, "pg_backend_pid()").await);
}

#[tokio::test]
async fn passwords_come_from_config_files_and_passfiles() {
    let server = shared();
    let dir = crate::server::scratch();
    let file = dir.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();

    // The configuration's wins over the URL's; the file is read anew at every connect.
    let mut wrong_url = config(&format!("{} password=wrong", server.tcp("worker")));
    wrong_url.password = Some(SecretSource::File(file.clone()));
    let db = server_of(wrong_url);
    db.connect(Purpose::Check, Route::Pooled).await.unwrap();
    std::fs::write(&file, "rotated").unwrap();
    assert_eq!(db.connect(Purpose::Check, Route::Pooled).await.unwrap_err().kind(), Kind::Auth);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(db.connect(Purpose::Check, Route::Pooled).await.unwrap_err().kind(), Kind::Config);

    let passfile = dir.path().join("pgpass");
    let escaped = PASSWORD.replace(':', "\\:");
    std::fs::write(&passfile, format!("127.0.0.1:{}:postgres:worker:{escaped}\n", server.port))
        .unwrap();
    let url = format!(
        "host=127.0.0.1 port={} user=worker dbname=postgres passfile={}",
        server.port,
        passfile.display()
    );
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
    connect(&url).await;
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = try_connect(&url).await.unwrap_err();
    assert!(error.kind() == Kind::Config && error.to_string().contains("chmod 600"), "{error}");
}

#[tokio::test]
async fn each_refusal_has_its_kind() {
    let server = shared();
    let tcp = |user: &str| server.tcp(user);
    for (url, kind, says) in [
        (format!("{} password=wrong", tcp("worker")), Kind::Auth, "28P01"),
        (format!("{} password=wrong", tcp("nobody_like_this")), Kind::Auth, "28P01"),
        (
            format!("host=127.0.0.1 port={} user=worker dbname=postgres", server.port),
            Kind::Auth,
            "none is configured",
        ),
        (format!("{} dbname=missing", tcp("worker")), Kind::UnknownDatabase, "3D000"),
        (tcp("rejected"), Kind::Hba, "pg_hba.conf"),
        (format!("{} port={}", tcp("worker"), free_port()), Kind::Refused, "refused"),
        (format!("{} host=/nonexistent", tcp("worker")), Kind::Refused, "no such socket"),
        (
            format!("{} host=no-such-host.invalid", tcp("worker")),
            Kind::Unreachable,
            "no-such-host.invalid",
        ),
        ("user=worker sslmode=verify-full".to_owned(), Kind::Config, "sslrootcert"),
        (format!("{} options='-c no_such_setting=1'", tcp("worker")), Kind::Sql, "no_such_setting"),
    ] {
        let error = try_connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{url}: {error}");
        assert!(error.to_string().contains(says), "{url}: {error}");
        for text in [format!("{error}"), format!("{error:?}")] {
            assert!(
                !text.contains(PASSWORD) && !text.contains("wrong"),
                "the password is shown: {text}"
            );
        }
    }
    let error = server_of(pgsteward::config::Database { url: None, ..config("") })
        .connect(Purpose::Check, Route::Pooled)
        .await
        .unwrap_err();
    assert!(error.kind() == Kind::Config && error.to_string().contains("DATABASE_URL"), "{error}");
}

#[tokio::test]
async fn too_many_connections() {
    let server = shared();
    let first = connect(&server.tcp("single")).await;
    let error = try_connect(&server.tcp("single")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::TooManyConnections, "{error}");
    drop(first);
    crate::wait_until("the slot is free again", async || {
        try_connect(&server.tcp("single")).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_takes_nobody_in_now_is_starting_up() {
    let server = crate::server::Server::start("");
    // Keeps it from ending; the code is one for start-up, shutdown and crash recovery.
    let last = connect(&server.tcp("postgres")).await;
    server.shut_down_when_left();
    crate::wait_until("it takes in nobody", async || {
        try_connect(&server.tcp("postgres")).await.is_err()
    })
    .await;
    let error = try_connect(&server.tcp("postgres")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::StartingUp, "{error}");
    assert_eq!(text(&last, "1").await, "1");
}

#[tokio::test]
async fn silence_is_bounded_and_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut config = config("");
    config.connect_timeout = Duration::from_millis(300);
    for (mode, says) in [("disable", "stayed silent for"), ("require", "when asked for TLS")] {
        let url = format!("host=127.0.0.1 port={port} user=worker sslmode={mode}");
        config.url = Some(SecretSource::Inline(Secret::new(url)));
        let started = Instant::now();
        let error =
            server_of(config.clone()).connect(Purpose::Check, Route::Pooled).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_peer_that_is_no_postgresql_is_named() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer = tokio::spawn(async move {
        for answer in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b"Ecould not fork\0",
            b"S not a handshake",
            b"",
        ] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 64]).await.unwrap();
            stream.write_all(answer).await.unwrap();
        }
    });
    let url = format!("host=127.0.0.1 port={port} user=worker sslmode=require");
    for (kind, says) in [
        (Kind::Protocol, "is it a PostgreSQL server"),
        (Kind::Protocol, "see its log"),
        (Kind::Tls, "TLS handshake"),
        (Kind::ConnectionLost, "ask for TLS"),
    ] {
        let error = try_connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    peer.await.unwrap();
}

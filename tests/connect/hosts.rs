//! Several hosts: which is taken, and what is told of the others.

use pgsteward::config::{Secret, SecretSource};
use pgsteward::db::{Kind, Purpose, Route};
use tokio::net::TcpListener;

use crate::server::{Server, free_port, shared};
use crate::{config, connect, server_of, text, try_connect};

#[tokio::test]
async fn the_next_host_is_tried_after_one_that_cannot_be_reached() {
    let server = shared();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ports = format!("{},{},{}", free_port(), silent.local_addr().unwrap().port(), server.port);
    let url = format!("{} host=127.0.0.1,127.0.0.1,127.0.0.1 port={ports}", server.tcp("worker"));
    let mut config = config(&url);
    config.connect_timeout = std::time::Duration::from_millis(500);
    let conn = server_of(config.clone()).connect(Purpose::Check, Route::Pooled).await.unwrap();
    assert_eq!(text(&conn, "current_setting('port')").await, server.port.to_string());

    // The last one refuses the credentials: its kind tells most, and every host is named.
    config.url = Some(SecretSource::Inline(Secret::new(format!("{url} password=wrong"))));
    let error = server_of(config).connect(Purpose::Check, Route::Pooled).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Auth, "{error}");
    for port in ports.split(',') {
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    }
}

#[tokio::test]
async fn wrong_credentials_end_the_search() {
    let server = shared();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let behind = silent.local_addr().unwrap().port();
    let url = format!(
        "{} password=wrong host=127.0.0.1,127.0.0.1 port={},{behind}",
        server.tcp("worker"),
        server.port
    );
    let error = try_connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Auth, "{error}");
    assert!(!error.to_string().contains(&behind.to_string()), "the second was tried: {error}");
}

#[tokio::test]
async fn target_session_attrs_choose_the_server() {
    let primary = shared();
    let standby = Server::standby();
    let both = format!(
        "{} host=127.0.0.1,127.0.0.1 port={},{}",
        primary.tcp("postgres"),
        standby.port,
        primary.port
    );
    let swapped = both.replace(
        &format!("{},{}", standby.port, primary.port),
        &format!("{},{}", primary.port, standby.port),
    );
    for (url, attrs, port) in [
        (&both, "any", standby.port),
        (&both, "read-write", primary.port),
        (&both, "primary", primary.port),
        (&swapped, "read-only", standby.port),
        (&swapped, "standby", standby.port),
        (&swapped, "prefer-standby", standby.port),
    ] {
        let conn = connect(&format!("{url} target_session_attrs={attrs}")).await;
        assert_eq!(text(&conn, "current_setting('port')").await, port.to_string(), "{attrs}");
    }
    let alone = primary.tcp("postgres");
    connect(&format!("{alone} target_session_attrs=prefer-standby")).await;
    for (url, attrs, kind) in [
        (alone.clone(), "standby", Kind::Unreachable),
        (alone, "read-only", Kind::Unreachable),
        (standby.tcp("postgres"), "primary", Kind::InRecovery),
        (standby.tcp("postgres"), "read-write", Kind::ReadOnly),
    ] {
        let error = try_connect(&format!("{url} target_session_attrs={attrs}")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{attrs}: {error}");
        assert!(error.to_string().contains("target_session_attrs"), "{error}");
    }
}

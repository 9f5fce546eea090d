//! The harness does what the tests that stand on it believe.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod harness;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use harness::{
    BOUND, PrivateServer, Proxy, Template, TestDatabase, connect, http, server, wait_until,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn databases_are_apart_and_go_with_their_handle() {
    let (one, two) =
        (TestDatabase::create(Template::Empty).await, TestDatabase::create(Template::Empty).await);
    one.client().await.batch_execute("CREATE TABLE only_here (id int)").await.unwrap();
    assert_eq!(two.client().await.text("SELECT to_regclass('only_here')").await, "NULL");

    let open = one.client().await;
    let name = one.name().to_owned();
    drop(one);
    let admin = connect(&server().url("postgres")).await.unwrap();
    assert_eq!(
        admin.number(&format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'")).await,
        0
    );
    wait_until("the connection that was left open is ended", BOUND, async || open.is_closed())
        .await;
}

#[tokio::test]
async fn the_migrated_template_is_built_once_by_many() {
    let both = tokio::join!(
        TestDatabase::create(Template::Migrated),
        TestDatabase::create(Template::Migrated)
    );
    assert_ne!(both.0.name(), both.1.name());
    assert_eq!(both.0.client().await.number("SELECT 1").await, 1);
}

#[tokio::test]
async fn a_role_logs_in_and_goes_with_its_database() {
    let mut database = TestDatabase::create(Template::Empty).await;
    let role = database.role("reader", "CONNECTION LIMIT 3").await;
    let client = connect(&role.url).await.unwrap();
    assert_eq!(client.text("SELECT current_user").await, role.name);
    assert!(client.batch_execute("CREATE ROLE another").await.is_err(), "it is no superuser");
    drop(database);
    let admin = connect(&server().url("postgres")).await.unwrap();
    assert_eq!(
        admin
            .number(&format!("SELECT count(*) FROM pg_roles WHERE rolname = '{}'", role.name))
            .await,
        0
    );
}

#[tokio::test]
async fn a_wrong_password_is_refused_on_both_doors() {
    let server = server();
    for url in [
        server.url_as("postgres", "wrong", "postgres"),
        format!("postgresql://postgres:wrong@{}/postgres", server.address()),
    ] {
        let Err(error) = connect(&url).await else { panic!("logged in by {url}") };
        assert_eq!(error.code().map(|code| code.code()), Some("28P01"), "{error:?}");
    }
}

/// Sends back what it gets, a connection after the other.
async fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn round_trip(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

#[tokio::test]
async fn the_proxy_passes_and_counts() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut stream).await.unwrap();
    wait_until("both directions are counted", BOUND, async || proxy.bytes() == (4, 4)).await;
    assert_eq!((proxy.accepted(), proxy.open()), (1, 1));
    drop(stream);
    wait_until("an end is passed on", BOUND, async || proxy.open() == 0).await;
}

#[tokio::test]
async fn the_proxy_cuts_and_mends() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut stream).await.unwrap();
    proxy.cut().await;
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(
        TcpStream::connect(proxy.address()).await.unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    proxy.pass().await;
    round_trip(&mut TcpStream::connect(proxy.address()).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn the_proxy_falls_silent_and_gives_back_what_it_held() {
    let proxy = Proxy::start(echo().await).await;
    let mut open = TcpStream::connect(proxy.address()).await.unwrap();
    round_trip(&mut open).await.unwrap();
    proxy.blackhole().await;
    let mut fresh = TcpStream::connect(proxy.address()).await.unwrap();
    for stream in [&mut open, &mut fresh] {
        let waited = tokio::time::timeout(Duration::from_millis(200), round_trip(stream)).await;
        assert!(waited.is_err(), "an answer from a silent proxy: {waited:?}");
    }
    proxy.pass().await;
    for stream in [&mut open, &mut fresh] {
        let mut held = [0; 4];
        stream.read_exact(&mut held).await.unwrap();
        assert_eq!(&held, b"ping");
    }
}

#[tokio::test]
async fn the_proxy_delays() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.delay(Duration::from_millis(100)).await;
    let start = Instant::now();
    round_trip(&mut stream).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(200), "there and back: {:?}", start.elapsed());
}

#[tokio::test]
async fn the_client_reads_lengths_chunks_and_what_is_cut_short() {
    for (answer, wanted) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Ok((200, "hi"))),
        (
            "HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            Ok((503, "abcde")),
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", Err("2 of 9 bytes arrived")),
        ("HTTP/1.1 200 OK\r\n", Err("no whole head")),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            let _ = stream.read(&mut request).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        match (http::try_request(address, "GET", "/", &[], "").await, wanted) {
            (Ok(response), Ok((status, body))) => {
                assert_eq!((response.status, response.body.as_str()), (status, body));
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (got, wanted) => panic!("{got:?} is not {wanted:?}"),
        }
    }
}

#[tokio::test]
async fn a_private_server_is_killed_configured_and_comes_back() {
    let mut server = PrivateServer::start(&[("max_connections", "17")]).await;
    let client = server.client().await;
    assert_eq!(client.text("SHOW max_connections").await, "17");
    client.batch_execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)").await.unwrap();

    server.append_conf("work_mem = '5MB'");
    server.reload().await;
    assert_eq!(server.client().await.text("SHOW work_mem").await, "5MB");

    let address = server.address();
    server.kill().await;
    assert!(connect(&server.url()).await.is_err(), "a killed server answers");
    wait_until("the client sees the end", BOUND, async || client.is_closed()).await;

    server.restart().await;
    assert_eq!(server.address(), address);
    assert_eq!(server.client().await.number("SELECT count(*) FROM kept").await, 1);

    server.prepend_hba("local all postgres reject");
    server.reload().await;
    assert!(connect(&server.url()).await.is_err(), "pg_hba.conf refuses");
    assert!(connect(&server.url_at(address, "postgres")).await.is_ok(), "only on the socket");

    server.stop().await;
    assert!(
        connect(&server.url_at(address, "postgres")).await.is_err(),
        "a stopped server answers"
    );
}

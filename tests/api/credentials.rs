//! Credentials end to end: JSON Web Tokens as Supabase makes them, certificates that are renewed, and what never goes
//! over a network in the clear.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{BOUND, Daemon, Setup, Template, TestDatabase, wait_until};
use crate::{House, http, problem, tokens};

const SECRET: &str = "super-secret-jwt-token-with-at-least-32-characters";

/// A token of HS256, as Supabase signs them.
fn jwt(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "alg": "HS256", "typ": "JWT" })), part(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = ring::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn soon() -> i64 {
    chrono::Utc::now().timestamp() + 600
}

#[tokio::test]
async fn the_tokens_of_supabase_are_who_they_say() {
    let db = TestDatabase::create(Template::Migrated).await;
    let service_key = jwt(
        &json!({ "iss": "supabase", "ref": "x", "role": "service_role", "iat": 1, "exp": soon() }),
    );
    let setup = Setup::new()
        .database(&db.url())
        .config(&format!(
            "{}{}[auth.jwt.roles]\nauthenticated = \"user\"\nservice_role = \"admin\"\nbilling = \"service\"\n",
            crate::QUICK,
            tokens()
        ))
        .env("SUPABASE_JWT_SECRET", SECRET);
    let daemon = Daemon::spawn(setup).await;
    daemon.wait_ready().await;
    let house = House { daemon, db };
    let events = json!({ "events": [{ "action": "a", "user_id": "user-1" }, { "action": "a", "user_id": "user-2" }] });
    assert_eq!(
        house.send("service", "POST", "/audit/events", &events.to_string()).await.status,
        201
    );
    let get = async |token: &str, path: &str| {
        let bearer = format!("Bearer {token}");
        http::request(
            house.daemon.address(),
            "GET",
            path,
            &[("authorization", bearer.as_str())],
            "",
        )
        .await
    };

    let user = jwt(
        &json!({ "sub": "user-1", "role": "authenticated", "aud": "authenticated", "exp": soon() }),
    );
    let who = get(&user, "/whoami").await.json();
    assert_eq!(who, json!({ "actor": "jwt:user-1", "role": "user", "user": "user-1" }));
    let own = get(&user, "/health/audit").await.json();
    let items = own["items"].as_array().unwrap();
    assert_eq!(
        (&own["scope"], items.len(), &items[0]["user_id"]),
        (&json!("own"), 1, &json!("user-1")),
        "{own}"
    );
    assert_eq!(problem(&get(&user, "/health/audit?user_id=user-2").await).0, 403);
    assert_eq!(problem(&get(&user, "/health/database").await), (403, "forbidden".to_owned()));

    // A service that is somebody reads what it wrote, not what is told of somebody of that name.
    let service = jwt(&json!({ "sub": "billing", "role": "billing", "exp": soon() }));
    let bearer = format!("Bearer {service}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let address = house.daemon.address();
    let written =
        http::request(address, "POST", "/audit/events", &headers, "{\"action\":\"billed\"}").await;
    assert_eq!(written.status, 201, "{}", written.body);
    let own = get(&service, "/health/audit").await.json();
    assert_eq!(
        (&own["scope"], &own["items"][0]["action"]),
        (&json!("own"), &json!("billed")),
        "{own}"
    );

    assert_eq!(get(&service_key, "/whoami").await.json()["role"], "admin");
    for refused in [
        jwt(&json!({ "role": "anon", "exp": soon() })),
        jwt(&json!({ "sub": "user-1", "role": "authenticated", "exp": 1 })),
        jwt(&json!({ "sub": "user-1", "role": "authenticated" })),
        jwt(&json!({ "sub": "user-1", "role": "postgres", "exp": soon() })),
        user.replace(
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9",
            &URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#),
        ),
    ] {
        assert_eq!(
            problem(&get(&refused, "/whoami").await),
            (401, "invalid_credentials".to_owned()),
            "{refused}"
        );
    }
}

/// A certificate for 127.0.0.1 and its key, as PEM.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// GETs over TLS by whoever trusts this certificate alone.
async fn get_by(pem: &str, daemon: &Daemon, path: &str) -> Result<String, std::io::Error> {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(daemon.address()).await?;
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let mut stream =
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream
        .write_all(
            format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .await?;
    let mut answer = String::new();
    // Whoever closes a connection after its answer need not say good-bye.
    let _ = stream.read_to_string(&mut answer).await;
    Ok(answer)
}

#[tokio::test]
async fn a_certificate_is_renewed_without_a_restart_and_a_broken_one_changes_nothing() {
    let db = TestDatabase::create(Template::Migrated).await;
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let write = |(cert_pem, key_pem): &(String, String)| {
        std::fs::write(&cert, cert_pem).unwrap();
        std::fs::write(&key, key_pem).unwrap();
    };
    let first = certificate();
    write(&first);
    let config = format!(
        "{}{}[http]\ntls_cert_file = {cert:?}\ntls_key_file = {key:?}\n",
        crate::QUICK,
        tokens()
    );
    let daemon = Daemon::launch(Setup::new().database(&db.url()).config(&config));
    wait_until("an answer over TLS", BOUND, async || {
        get_by(&first.0, &daemon, "/livez")
            .await
            .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    })
    .await;
    let refused = get_by(&first.0, &daemon, "/health/database").await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    // Plain text is no TLS, and is told nothing.
    let plain = tokio::time::timeout(
        BOUND,
        http::raw(daemon.address(), b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"),
    )
    .await;
    let plain = plain
        .unwrap()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    assert!(!plain.contains("HTTP/1.1 200"), "{plain}");

    std::fs::write(&cert, "nonsense").unwrap();
    daemon.wait_log("cannot be used: the one before goes on").await;
    assert!(get_by(&first.0, &daemon, "/livez").await.is_ok());
    let second = certificate();
    write(&second);
    wait_until("the new certificate", Duration::from_secs(20), async || {
        get_by(&second.0, &daemon, "/livez").await.is_ok()
    })
    .await;
    assert!(get_by(&first.0, &daemon, "/livez").await.is_err(), "the old one is gone");
}

#[tokio::test]
async fn credentials_do_not_cross_a_network_in_the_clear_unless_that_is_said() {
    let db = TestDatabase::create(Template::Migrated).await;
    for (allow, wanted) in [("false", 403), ("true", 200)] {
        let config = format!("{}{}[http]\nallow_plain_http = {allow}\n", crate::QUICK, tokens());
        let daemon =
            Daemon::spawn(Setup::new().database(&db.url()).config(&config).everywhere()).await;
        let address = daemon.address();
        let bearer = format!("Bearer {}", crate::token_of("viewer"));
        let answer =
            http::request(address, "GET", "/whoami", &[("authorization", bearer.as_str())], "")
                .await;
        assert_eq!(answer.status, wanted, "{allow}: {}", answer.body);
        if wanted == 403 {
            assert_eq!(problem(&answer).1, "plain_http");
        }
        assert_eq!(http::request(address, "GET", "/health/", &[], "").await.status / 100, 2);
        daemon.terminate().await;
    }
}

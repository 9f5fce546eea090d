use std::fs;
use std::os::unix::fs::symlink;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use super::*;

/// A certificate for localhost and its key, as PEM.
struct Pair {
    cert: String,
    key: String,
    der: CertificateDer<'static>,
}

fn pair() -> Pair {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    Pair {
        cert: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        der: made.cert.der().clone(),
    }
}

struct Files(TempDir);

impl Files {
    fn with(pair: &Pair) -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        files.write(&pair.cert, &pair.key);
        files
    }

    fn write(&self, cert: &str, key: &str) {
        fs::write(self.cert(), cert).unwrap();
        fs::write(self.key(), key).unwrap();
    }

    fn cert(&self) -> PathBuf {
        self.0.path().join("tls.crt")
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("tls.key")
    }

    async fn load(&self) -> Result<Tls, TlsError> {
        Tls::load(&self.cert(), &self.key(), &Arc::new(Metrics::new().unwrap())).await
    }
}

/// Whether a client that trusts this certificate alone is served; and by which protocol.
async fn served(tls: &Tls, pair: &Pair) -> Option<Vec<u8>> {
    let mut roots = RootCertStore::empty();
    roots.add(pair.der.clone()).unwrap();
    let mut config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = TlsConnector::from(Arc::new(config));
    let client = async {
        let mut stream =
            connector.connect(ServerName::try_from("localhost").unwrap(), near).await.ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await.ok()?;
        assert_eq!(said, "hello");
        stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)
    };
    let server = async {
        let Ok(mut stream) = tls.accept(far).await else { return };
        // The client may have gone.
        let _ = stream.write_all(b"hello").await;
        let _ = stream.shutdown().await;
    };
    tokio::join!(client, server).0
}

#[tokio::test]
async fn a_new_certificate_is_taken_in_and_a_bad_one_is_not() {
    let (old, new) = (pair(), pair());
    let files = Files::with(&old);
    let tls = files.load().await.unwrap();
    let successful =
        || tls.metrics.http_tls_last_reload_successful.with_label_values::<&str>(&[]).get();
    assert_eq!(served(&tls, &old).await, Some(b"http/1.1".to_vec()));
    assert_eq!(served(&tls, &new).await, None);
    assert_eq!(successful(), 1);
    assert_eq!(tls.reload_if_changed().await, ReloadResult::Unchanged);

    // Half of the pair is there: refused once, and not again until something changes.
    fs::write(files.cert(), format!("{}\n", new.cert)).unwrap();
    assert_eq!(tls.reload_if_changed().await, ReloadResult::Refused);
    assert_eq!(tls.reload_if_changed().await, ReloadResult::Unchanged);
    assert!(served(&tls, &old).await.is_some());
    assert_eq!(successful(), 0);
    fs::write(files.key(), format!("{}\n", new.key)).unwrap();
    assert_eq!(tls.reload_if_changed().await, ReloadResult::Loaded);
    assert_eq!(successful(), 1);
    assert!(served(&tls, &new).await.is_some() && served(&tls, &old).await.is_none());

    fs::remove_file(files.key()).unwrap();
    assert_eq!(tls.reload_if_changed().await, ReloadResult::Refused);
    assert_eq!(tls.reload_if_changed().await, ReloadResult::Unchanged);
    assert!(served(&tls, &new).await.is_some());
    let count = |outcome| tls.metrics.http_tls_reloads_total.with_label_values(&[outcome]).get();
    assert_eq!((count("taken"), count("refused")), (1, 2));
}

/// `tls.crt` → `..data/tls.crt`, `..data` → a folder of a date: a renewal swaps the one link in the middle.
#[tokio::test]
async fn a_secret_of_kubernetes_is_renewed_behind_its_links() {
    let (old, new) = (pair(), pair());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (name, pair) in [("..1", &old), ("..2", &new)] {
        fs::create_dir(path(name)).unwrap();
        fs::write(path(name).join("tls.crt"), &pair.cert).unwrap();
        fs::write(path(name).join("tls.key"), &pair.key).unwrap();
    }
    symlink("..1", path("..data")).unwrap();
    symlink("..data/tls.crt", path("tls.crt")).unwrap();
    symlink("..data/tls.key", path("tls.key")).unwrap();
    let tls = Tls::load(&path("tls.crt"), &path("tls.key"), &Arc::new(Metrics::new().unwrap()))
        .await
        .unwrap();
    assert!(served(&tls, &old).await.is_some());
    symlink("..2", path("..data_tmp")).unwrap();
    fs::rename(path("..data_tmp"), path("..data")).unwrap();
    assert_eq!(tls.reload_if_changed().await, ReloadResult::Loaded);
    assert!(served(&tls, &new).await.is_some());
}

#[tokio::test]
async fn what_cannot_be_used_is_told_without_its_content() {
    let (one, other) = (pair(), pair());
    let files = Files::with(&one);
    let hint = one.key.lines().nth(1).unwrap();
    let (cert, key) = (files.cert().display().to_string(), files.key().display().to_string());
    let encrypted = one.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let garbled = one.cert.replace("MII", "!!!");
    let big = " ".repeat(1024 * 1024 + 1);
    for (cert_text, key_text, said) in [
        (
            "",
            one.key.as_str(),
            format!(
                "http.tls_cert_file = {cert}: no certificate in it (-----BEGIN CERTIFICATE-----)"
            ),
        ),
        (
            &one.key,
            &one.key,
            format!(
                "http.tls_cert_file = {cert}: no certificate in it (-----BEGIN CERTIFICATE-----)"
            ),
        ),
        (
            &garbled,
            &one.key,
            format!(
                "http.tls_cert_file = {cert}: no certificate in it (-----BEGIN CERTIFICATE-----)"
            ),
        ),
        (
            &big,
            &one.key,
            format!("http.tls_cert_file = {cert}: not a regular file of at most 1 MiB"),
        ),
        (
            &one.cert,
            &one.cert,
            format!(
                "http.tls_key_file = {key}: no private key in it (-----BEGIN PRIVATE KEY-----)"
            ),
        ),
        (
            &one.cert,
            &encrypted,
            format!(
                "http.tls_key_file = {key}: the key is encrypted; decrypt it, and let nobody else read it"
            ),
        ),
        (
            &one.cert,
            &other.key,
            format!(
                "http.tls_key_file = {key} is not the key of the first certificate in http.tls_cert_file = {cert}"
            ),
        ),
    ] {
        files.write(cert_text, key_text);
        let error = files.load().await.unwrap_err();
        assert_eq!(error.to_string(), said);
        assert!(!format!("{error:?}").contains(hint), "{error:?}");
    }
    fs::remove_file(files.cert()).unwrap();
    let error = files.load().await.unwrap_err();
    assert_eq!(error.to_string(), format!("http.tls_cert_file = {cert}: cannot be read"));
    fs::create_dir(files.cert()).unwrap();
    assert!(matches!(files.load().await, Err(TlsError::Unfit { .. })));
}

//! TLS to a receiver, by rustls: the only file of `webhook` that names it.
//!
//! Chain and name are always verified, and nothing can turn that off: who could answer in the
//! receiver's place would read its credentials. TLS 1.2 and 1.3 only. The roots are the system's
//! (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others), read at every attempt, so that a renewed
//! authority needs no restart.

use std::io;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Encrypts a stream to the host of this name. `extra` are roots besides the system's, as DER.
pub(super) async fn handshake(
    host: &str,
    stream: TcpStream,
    extra: &[Vec<u8>],
) -> io::Result<TlsStream<TcpStream>> {
    // A name in DNS' absolute form; certificates have it without the dot.
    let name = ServerName::try_from(host.trim_end_matches('.').to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let mut config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots(extra).await?)
            .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn roots(extra: &[Vec<u8>]) -> io::Result<RootCertStore> {
    // They are files: reading them may block.
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
        .await
        .map_err(io::Error::other)?;
    let mut store = RootCertStore::empty();
    let extra = extra.iter().map(|der| CertificateDer::from(der.as_slice()).into_owned());
    // Systems carry old roots that rustls cannot use; without the right one the handshake says so.
    store.add_parsable_certificates(found.certs.into_iter().chain(extra));
    if store.is_empty() {
        return Err(io::Error::other("the system has no trusted roots; install ca-certificates"));
    }
    Ok(store)
}

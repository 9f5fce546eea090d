//! TLS to a receiver: the only file of `webhook` that names rustls.
//!
//! Chain and name of the certificate are always verified, and no setting turns that off: an impostor
//! would read the receiver's credentials. TLS 1.2 and 1.3 only. The roots are those of the system
//! (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others) and are read at every attempt, so that a renewed
//! root needs no restart.

use std::io;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Encrypts a stream to the host of this name. `extra` are DER roots in addition to the system's.
pub(super) async fn handshake(
    host: &str,
    stream: TcpStream,
    extra: &[Vec<u8>],
) -> io::Result<TlsStream<TcpStream>> {
    // Certificates have a name without the trailing dot of its absolute form in DNS.
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
    // Reads files, which may block.
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
        .await
        .map_err(io::Error::other)?;
    let mut store = RootCertStore::empty();
    let extra = extra.iter().map(|der| CertificateDer::from(der.as_slice()).into_owned());
    // Old roots that rustls cannot parse are skipped; if the needed one is among them, the handshake
    // fails and says so.
    store.add_parsable_certificates(found.certs.into_iter().chain(extra));
    if store.is_empty() {
        return Err(io::Error::other("the system has no trusted roots; install ca-certificates"));
    }
    Ok(store)
}

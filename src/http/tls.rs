//! TLS for the listener, by rustls: the only file of `http` that names it.
//!
//! TLS 1.2 and 1.3, HTTP/1.1 by ALPN, no client certificates. Certificate and key are read again when what their paths
//! lead to has changed (time, size or inode, behind symbolic links, which is how a Kubernetes Secret is renewed). What
//! cannot be used is logged once for each change, and the one before goes on: a half-written pair takes nothing down.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{InconsistentKeys, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_rustls::TlsAcceptor;
pub use tokio_rustls::server::TlsStream;

use crate::telemetry::Metrics;

/// The largest file that is read.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// Why certificate and key cannot be used. Shows paths, nothing of what is in the files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{key} = {}: cannot be read", path.display())]
    Unreadable { key: &'static str, path: PathBuf, source: io::Error },
    #[error("{key} = {}: not a regular file of at most 1 MiB", path.display())]
    Unfit { key: &'static str, path: PathBuf },
    #[error("{CERT} = {}: no certificate in it (-----BEGIN CERTIFICATE-----)", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{KEY} = {}: no private key in it (-----BEGIN PRIVATE KEY-----)", path.display())]
    NoKey { path: PathBuf },
    #[error("{KEY} = {}: the key is encrypted; decrypt it, and let nobody else read it", path.display())]
    Encrypted { path: PathBuf },
    #[error("{KEY} = {} is not the key of the first certificate in {CERT} = {}", key.display(), cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error("{CERT} = {} with {KEY} = {} cannot be used", cert.display(), key.display())]
    Unusable { cert: PathBuf, key: PathBuf, source: rustls::Error },
}

const CERT: &str = "http.tls_cert_file";
const KEY: &str = "http.tls_key_file";

/// What came of looking at the files again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadResult {
    /// They are as they were.
    Unchanged,
    /// New connections have the new certificate.
    Loaded,
    /// They have changed and cannot be used: the certificate before goes on.
    Refused,
}

/// The listener's certificate and its key, as they are on the disk.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    metrics: Arc<Metrics>,
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    /// What was looked at last, used or not.
    seen: [Option<Identity>; 2],
}

impl Tls {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// When one of them is missing or cannot be used, or they do not belong together.
    pub async fn load(cert: &Path, key: &Path, metrics: &Arc<Metrics>) -> Result<Tls, TlsError> {
        for outcome in ["taken", "refused"] {
            metrics.http_tls_reloads_total.with_label_values(&[outcome]);
        }
        metrics.http_tls_last_reload_successful.with_label_values::<&str>(&[]).set(1);
        // Before the content: what changes in between is then read again.
        let seen = identities(cert, key).await;
        let current = Mutex::new(Current { acceptor: acceptor(cert, key).await?, seen });
        Ok(Tls {
            cert: cert.to_owned(),
            key: key.to_owned(),
            metrics: Arc::clone(metrics),
            current,
        })
    }

    /// Encrypts a stream by the current certificate. Without a bound in time, which is the caller's.
    ///
    /// # Errors
    /// When the client does not speak TLS, or not one that is spoken here.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        self.acceptor().accept(stream).await
    }

    /// The current certificate's.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).acceptor.clone()
    }

    /// Looks whether the files have changed, and takes them in if they can be used. Connections that are open go on
    /// as they are.
    pub async fn reload_if_changed(&self) -> ReloadResult {
        let seen = identities(&self.cert, &self.key).await;
        {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.seen == seen {
                return ReloadResult::Unchanged;
            }
            current.seen = seen;
        }
        let (outcome, reloaded) = match acceptor(&self.cert, &self.key).await {
            Ok(acceptor) => {
                self.current.lock().unwrap_or_else(PoisonError::into_inner).acceptor = acceptor;
                tracing::info!(cert = %self.cert.display(), "the listener's certificate has changed and is taken in");
                ("taken", ReloadResult::Loaded)
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(
                    error,
                    "the listener's certificate has changed and cannot be used: the one before goes on"
                );
                ("refused", ReloadResult::Refused)
            }
        };
        self.metrics.http_tls_reloads_total.with_label_values(&[outcome]).inc();
        let successful =
            self.metrics.http_tls_last_reload_successful.with_label_values::<&str>(&[]);
        successful.set(i64::from(reloaded == ReloadResult::Loaded));
        reloaded
    }
}

/// Paths only.
impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("cert", &self.cert)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// What tells one content from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// None: not there, or not to be looked at.
async fn identities(cert: &Path, key: &Path) -> [Option<Identity>; 2] {
    [identity(cert).await, identity(key).await]
}

async fn identity(path: &Path) -> Option<Identity> {
    let meta = tokio::fs::metadata(path).await.ok()?;
    let modified = (meta.mtime(), meta.mtime_nsec());
    Some(Identity { device: meta.dev(), inode: meta.ino(), size: meta.size(), modified })
}

async fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates(cert).await?;
    let key_der = private_key(key).await?;
    let unusable = |source| match source {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsError::Mismatch { cert: cert.to_owned(), key: key.to_owned() }
        }
        source => TlsError::Unusable { cert: cert.to_owned(), key: key.to_owned(), source },
    };
    let mut config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key_der)
            .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path, CERT).await?;
    let chain =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    if chain.is_empty() {
        Err(TlsError::NoCertificate { path: path.to_owned() })
    } else {
        Ok(chain)
    }
}

async fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(path, KEY).await?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        let path = path.to_owned();
        let encrypted = String::from_utf8_lossy(&pem).contains("ENCRYPTED");
        if encrypted { TlsError::Encrypted { path } } else { TlsError::NoKey { path } }
    })
}

async fn read(path: &Path, key: &'static str) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Unreadable { key, path: path.to_owned(), source };
    let unfit = || TlsError::Unfit { key, path: path.to_owned() };
    // A pipe without a writer would hold a thread for ever.
    if !tokio::fs::metadata(path).await.map_err(failed)?.is_file() {
        return Err(unfit());
    }
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() as u64 > PEM_BYTES_MAX { Err(unfit()) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests;

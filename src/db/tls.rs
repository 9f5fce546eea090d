//! TLS to a server, by rustls: the only file of `db` that names it.
//!
//! Each `sslmode` means what it means to libpq:
//!
//! | mode | encrypted | certificate must be signed by `sslrootcert` | and be for the host's name |
//! |---|---|---|---|
//! | `disable` | never | | |
//! | `allow`, `prefer` | perhaps | no | no |
//! | `require` | yes | only if `sslrootcert` is given | no |
//! | `verify-ca` | yes | yes | no |
//! | `verify-full` | yes | yes | yes |
//!
//! Differences to libpq, which uses OpenSSL:
//! - a name is looked for among the certificate's subject alternative names only, never in its CN;
//! - X.509 version 1 certificates are not accepted when verified;
//! - `~/.postgresql/` is not looked into, and revocation lists are not supported;
//! - an encrypted client key cannot be used;
//! - TLS 1.2 and 1.3 only;
//! - with `sslnegotiation=direct` ALPN is offered, and left to the server to insist on
//!   (PostgreSQL 17 and later do).
//!
//! A self-signed certificate that is its own `sslrootcert` is accepted if it is the same, byte by
//! byte, and valid today: webpki would refuse it as an authority used as a server.
//!
//! Files are read at every connect, so that a renewed certificate needs no restart.

use std::fmt::Write;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{Error, Kind};
use crate::config::conninfo::{RootCert, SslMode, TlsOptions};

/// An encrypted stream.
pub(super) type TlsTcp = <MakeRustlsConnect as MakeTlsConnect<TcpStream>>::Stream;

/// The largest certificate file that is read.
const PEM_SIZE_MAX: u64 = 4 * 1024 * 1024;

/// How to encrypt the streams of one connect.
pub(super) struct Tls {
    connect: MakeRustlsConnect,
    mode: SslMode,
    root: Option<RootCert>,
    /// The fingerprint of the certificate that was presented last, for errors.
    presented: Arc<Mutex<Option<String>>>,
}

impl Tls {
    /// Reads the files that `options` name.
    pub(super) async fn prepare(options: &TlsOptions) -> Result<Tls, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let presented = Arc::new(Mutex::new(None));
        // libpq's require verifies the chain where a root is given.
        let check = match (options.mode, &options.root) {
            (SslMode::VerifyFull, _) => Check::ChainAndName,
            (SslMode::VerifyCa, _) | (SslMode::Require, Some(_)) => Check::Chain,
            _ => Check::Nothing,
        };
        let (chain, pinned) = match &options.root {
            Some(root) if check != Check::Nothing => {
                let certificates = roots(root).await?;
                (Some(chain_verifier(&provider, root, &certificates)?), certificates)
            }
            _ => (None, Vec::new()),
        };
        let verifier = Verifier {
            provider: Arc::clone(&provider),
            check,
            chain,
            pinned,
            presented: Arc::clone(&presented),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::with_source(Kind::Tls, "set up TLS", error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &options.client {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates(cert, "sslcert").await?;
                let key_der = private_key(key).await?;
                builder.with_client_auth_cert(chain, key_der).map_err(|error| {
                    let files = format!("sslcert={} with sslkey={}", cert.display(), key.display());
                    Error::with_source(Kind::Config, files, error)
                })?
            }
        };
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        config.enable_sni = options.sni;
        Ok(Tls {
            connect: MakeRustlsConnect::new(config),
            mode: options.mode,
            root: options.root.clone(),
            presented,
        })
    }

    /// Encrypts a stream to the server of this name.
    pub(super) async fn handshake(&self, name: &str, stream: TcpStream) -> Result<TlsTcp, Error> {
        // A name in DNS' absolute form; certificates have it without the dot.
        let name = name.trim_end_matches('.');
        let mut connect = self.connect.clone();
        let Ok(connector) = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut connect, name);
        connector.connect(stream).await.map_err(|error| self.explain(name, error))
    }

    fn explain(&self, name: &str, error: io::Error) -> Error {
        let presented = self.presented.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let presented = presented
            .map_or_else(String::new, |print| format!(" (certificate with SHA-256 {print})"));
        let root = match &self.root {
            Some(RootCert::System) => "the system's roots (sslrootcert=system)".to_owned(),
            Some(RootCert::File(path)) => format!("sslrootcert={}", path.display()),
            None => "no root".to_owned(),
        };
        let mode = self.mode.as_str();
        let what = match rustls_cause(&error) {
            Some(rustls::Error::InvalidCertificate(fault)) => match fault {
                CertificateError::UnknownIssuer => format!(
                    "the server's certificate{presented} is signed by nobody in {root}; set sslrootcert to the \
                     certificate authority that signed it"
                ),
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
                    "the server's certificate{presented} is not for {name}; connect by a name that it has, or use \
                     sslmode=verify-ca to accept any name"
                ),
                _ => format!("the server's certificate{presented} is not accepted under sslmode={mode} with {root}"),
            },
            Some(rustls::Error::AlertReceived(_)) => {
                "the server refused the TLS handshake; if it wants a client certificate, check sslcert and sslkey"
                    .to_owned()
            }
            Some(_) => "the TLS handshake failed".to_owned(),
            None if error.kind() == io::ErrorKind::InvalidInput => {
                format!("{name} is neither a DNS name nor an address, as TLS wants it")
            }
            None => "the server ended the connection during the TLS handshake".to_owned(),
        };
        Error::with_source(Kind::Tls, what, error)
    }
}

/// Whether an error of the stream came from TLS: with version 1.3 the server judges the client's
/// certificate only after the handshake has ended for us.
pub(super) fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<rustls::Error>()
            || error.downcast_ref::<io::Error>().is_some_and(|io| rustls_cause(io).is_some())
        {
            return true;
        }
        cause = error.source();
    }
    false
}

fn rustls_cause(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
}

async fn roots(root: &RootCert) -> Result<Vec<CertificateDer<'static>>, Error> {
    match root {
        RootCert::File(path) => certificates(path, "sslrootcert").await,
        RootCert::System => {
            let found =
                tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await.map_err(
                    |error| Error::with_source(Kind::Tls, "read the system's roots", error),
                )?;
            if found.certs.is_empty() {
                return Err(Error::new(
                    Kind::Config,
                    "sslrootcert=system, but the system has no trusted roots; install ca-certificates, or name a file",
                ));
            }
            Ok(found.certs)
        }
    }
}

fn chain_verifier(
    provider: &Arc<CryptoProvider>,
    root: &RootCert,
    certificates: &[CertificateDer<'static>],
) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(certificates.iter().cloned());
    if added == 0 {
        let what =
            format!("no certificate in {root:?} can be used as a root; wanted X.509 version 3");
        return Err(Error::new(Kind::Config, what));
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
        .build()
        .map_err(|error| {
            Error::with_source(Kind::Tls, "set up the verification of certificates", error)
        })
}

async fn certificates(path: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = read(path, key).await?;
    let wanted = || {
        format!(
            "{key}={}: not a PEM file with a certificate (-----BEGIN CERTIFICATE-----)",
            path.display()
        )
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::with_source(Kind::Config, wanted(), error))?;
    if certificates.is_empty() { Err(Error::new(Kind::Config, wanted())) } else { Ok(certificates) }
}

async fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let meta =
            tokio::fs::metadata(path).await.map_err(|error| unreadable(path, "sslkey", error))?;
        // As libpq: nobody else may read it, but root may lend it to a group.
        let allowed = if meta.uid() == 0 { 0o740 } else { 0o700 };
        let mode = meta.mode() & 0o777;
        if mode & !allowed != 0 {
            let what = format!(
                "sslkey={}: its mode is {mode:04o}; wanted 0600, or 0640 where root owns it (chmod 600)",
                path.display()
            );
            return Err(Error::new(Kind::Config, what));
        }
    }
    let pem = read(path, "sslkey").await?;
    let encrypted = String::from_utf8_lossy(&pem).contains("ENCRYPTED");
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let what = if encrypted {
            format!(
                "sslkey={}: the key is encrypted; decrypt it and protect it with mode 0600",
                path.display()
            )
        } else {
            format!("sslkey={}: not a PEM file with a private key", path.display())
        };
        Error::with_source(Kind::Config, what, error)
    })
}

async fn read(path: &Path, key: &str) -> Result<Vec<u8>, Error> {
    let meta = tokio::fs::metadata(path).await.map_err(|error| unreadable(path, key, error))?;
    if !meta.is_file() || meta.len() > PEM_SIZE_MAX {
        let what = format!("{key}={}: not a regular file of at most 4 MiB", path.display());
        return Err(Error::new(Kind::Config, what));
    }
    tokio::fs::read(path).await.map_err(|error| unreadable(path, key, error))
}

fn unreadable(path: &Path, key: &str, error: io::Error) -> Error {
    Error::with_source(Kind::Config, format!("{key}={}: cannot be read", path.display()), error)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

/// Judges the server's certificate; the signatures of the handshake are always checked, so that the
/// server at least holds the key of what it presents.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    check: Check,
    chain: Option<Arc<WebPkiServerVerifier>>,
    pinned: Vec<CertificateDer<'static>>,
    presented: Arc<Mutex<Option<String>>>,
}

impl Verifier {
    fn judge(
        &self,
        server: &CertificateDer<'_>,
        name: &ServerName<'_>,
        verdict: Verdict,
    ) -> Verdict {
        let Err(rustls::Error::InvalidCertificate(fault)) = &verdict else { return verdict };
        match fault {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
                if self.check == Check::Chain =>
            {
                Ok(ServerCertVerified::assertion())
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                verdict
            }
            // webpki looks at the dates before it looks at anything else, so these are still to count.
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
            | CertificateError::BadEncoding => verdict,
            _ if self.pinned.iter().any(|pinned| pinned.as_ref() == server.as_ref()) => {
                if self.check == Check::ChainAndName {
                    let parsed = rustls::server::ParsedCertificate::try_from(server)?;
                    rustls::client::verify_server_name(&parsed, name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            _ => verdict,
        }
    }
}

type Verdict = Result<ServerCertVerified, rustls::Error>;

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Verdict {
        *self.presented.lock().unwrap_or_else(PoisonError::into_inner) = Some(fingerprint(server));
        match &self.chain {
            None => Ok(ServerCertVerified::assertion()),
            Some(chain) => {
                let verdict = chain.verify_server_cert(server, intermediates, name, ocsp, now);
                self.judge(server, name, verdict)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// As `openssl x509 -fingerprint -sha256` prints it.
fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let mut text = String::with_capacity(95);
    for (at, byte) in Sha256::digest(certificate.as_ref()).iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}{byte:02X}", if at == 0 { "" } else { ":" });
    }
    text
}

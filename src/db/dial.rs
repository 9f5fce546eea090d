//! From a host to an open stream: name lookup, TCP or Unix socket, the request for TLS, the handshake.
//!
//! All of it by ourselves, since tokio-postgres' `connect_raw` does none of it, and since each step is
//! timed. tokio-postgres is handed a stream on which its own protocol begins.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use super::connect::ConnectTimings;
use super::error::{Error, Kind};
use super::tls::{Tls, TlsTcp};
use crate::config::conninfo::{ConnInfo, Host, Keepalive, SslMode, SslNegotiation};

/// The addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Code 1234.5679: "may we speak TLS?"
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// How far a connect has come, for the timings and for saying where it stuck.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) step: Step,
    pub(super) timings: ConnectTimings,
    /// Whether the stream of the last login was encrypted.
    pub(super) encrypted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Step {
    #[default]
    Lookup,
    Connect,
    Tls,
    Login,
    Session,
}

/// One address of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp(addr) => write!(f, "{addr}"),
            Place::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What to ask of the server about encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    Plain,
    /// TLS if the server has it.
    Offered,
    Required,
}

impl Encryption {
    /// What to try in turn. The second is for when the first was refused because of it.
    pub(super) fn plan(mode: SslMode, place: &Place) -> &'static [Encryption] {
        match (place, mode) {
            // libpq ignores sslmode on a Unix socket.
            (Place::Unix(_), _) | (_, SslMode::Disable) => &[Encryption::Plain],
            (_, SslMode::Allow) => &[Encryption::Plain, Encryption::Required],
            (_, SslMode::Prefer) => &[Encryption::Offered, Encryption::Plain],
            _ => &[Encryption::Required],
        }
    }
}

/// A way to a server that can be taken again, for a cancel request or a second look.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) place: Place,
    /// The host's name, as certificates know it.
    pub(super) name: String,
    pub(super) encryption: Encryption,
    pub(super) negotiation: SslNegotiation,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) keepalive: Option<Keepalive>,
    pub(super) tcp_user_timeout: Duration,
}

impl Address {
    /// Opens a stream. The caller bounds it.
    pub(super) async fn dial(&self, progress: &mut Progress) -> Result<Stream, Error> {
        progress.step = Step::Connect;
        // Of this attempt, not of one before it.
        progress.timings.tls = Duration::ZERO;
        let started = tokio::time::Instant::now();
        let tcp = match &self.place {
            Place::Unix(path) => {
                let stream =
                    UnixStream::connect(path).await.map_err(|error| self.no_socket(error))?;
                progress.timings.tcp = started.elapsed();
                return Ok(Stream::Unix(stream));
            }
            Place::Tcp(addr) => {
                TcpStream::connect(addr).await.map_err(|error| Error::from_io("connect", error))?
            }
        };
        self.tune(&tcp).map_err(|error| Error::from_io("set up the socket", error))?;
        progress.timings.tcp = started.elapsed();
        let Some(tls) = self.tls.as_ref().filter(|_| self.encryption != Encryption::Plain) else {
            return Ok(Stream::Tcp(tcp));
        };
        progress.step = Step::Tls;
        let started = tokio::time::Instant::now();
        let mut tcp = tcp;
        if self.negotiation == SslNegotiation::Postgres && !self.ask_for_tls(&mut tcp).await? {
            return Ok(Stream::Tcp(tcp));
        }
        let stream = tls.handshake(&self.name, tcp).await?;
        progress.timings.tls = started.elapsed();
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// Whether the server is ready for a handshake. Reads exactly one byte: whatever an attacker
    /// slipped in behind it goes into the handshake and breaks it.
    async fn ask_for_tls(&self, tcp: &mut TcpStream) -> Result<bool, Error> {
        tcp.write_all(&SSL_REQUEST).await.map_err(|error| Error::from_io("ask for TLS", error))?;
        let answer = tcp.read_u8().await.map_err(|error| Error::from_io("ask for TLS", error))?;
        match answer {
            b'S' => Ok(true),
            b'N' if self.encryption == Encryption::Offered => Ok(false),
            b'N' => Err(Error::new(
                Kind::Tls,
                "the server does not offer TLS, and sslmode wants it; set ssl = on on the server, or lower sslmode",
            )),
            // Not authenticated, so its text is not to be shown.
            b'E' => Err(Error::new(
                Kind::Protocol,
                "the server answered the request for TLS with an error; most often it cannot start another process: \
                 see its log",
            )),
            other => Err(Error::new(
                Kind::Protocol,
                format!(
                    "the peer answered the request for TLS with byte {other:#04x}; is it a PostgreSQL server?"
                ),
            )),
        }
    }

    fn tune(&self, tcp: &TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        if let Some(keepalive) = self.keepalive {
            use rustix::net::sockopt;
            sockopt::set_socket_keepalive(tcp, true)?;
            sockopt::set_tcp_keepidle(tcp, keepalive.idle)?;
            sockopt::set_tcp_keepintvl(tcp, keepalive.interval)?;
            sockopt::set_tcp_keepcnt(tcp, keepalive.count)?;
        }
        #[cfg(target_os = "linux")]
        rustix::net::sockopt::set_tcp_user_timeout(tcp, self.tcp_user_timeout.as_millis() as u32)?;
        Ok(())
    }

    fn no_socket(&self, error: io::Error) -> Error {
        let what = match error.kind() {
            io::ErrorKind::NotFound => {
                "no such socket; does the server run here, and with this port and directory?"
            }
            _ => "connect",
        };
        Error::from_io(what, error)
    }
}

/// The addresses of a host, in the order to try.
pub(super) async fn lookup(
    host: &Host,
    info: &ConnInfo,
    progress: &mut Progress,
) -> Result<Vec<Place>, Error> {
    progress.step = Step::Lookup;
    let (name, addr, port) = match host {
        Host::Unix { dir, port } => {
            return Ok(vec![Place::Unix(dir.join(format!(".s.PGSQL.{port}")))]);
        }
        Host::Tcp { name, addr, port } => (name, addr, *port),
    };
    if let Some(addr) = addr {
        return Ok(vec![Place::Tcp(SocketAddr::new(*addr, port))]);
    }
    let started = tokio::time::Instant::now();
    let found = tokio::net::lookup_host((name.as_str(), port)).await;
    progress.timings.dns = started.elapsed();
    let mut addrs: Vec<SocketAddr> = found
        .map_err(|error| {
            Error::with_source(Kind::Unreachable, "the host's name has no address", error)
        })?
        .take(ADDRESSES_MAX)
        .collect();
    if addrs.is_empty() {
        return Err(Error::new(Kind::Unreachable, "the host's name has no address"));
    }
    if info.load_balance {
        fastrand::shuffle(&mut addrs);
    }
    Ok(addrs.into_iter().map(Place::Tcp).collect())
}

/// A stream to a server, encrypted or not.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsTcp>),
}

impl Stream {
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }
}

/// Runs the same call on whichever stream it is.
macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($inner) => $call,
            Stream::Unix($inner) => $call,
            Stream::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(&mut *self, inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(&mut *self, inner => Pin::new(inner).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut *self, inner => Pin::new(inner).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, inner => inner.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, inner => Pin::new(inner).poll_shutdown(cx))
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        match self {
            Stream::Tls(inner) => inner.channel_binding(),
            Stream::Tcp(_) | Stream::Unix(_) => ChannelBinding::none(),
        }
    }
}

/// Tells tokio-postgres that the stream is as encrypted as it is going to be: used with its
/// `sslmode=require` and `sslnegotiation=direct` it asks for nothing, "connects" at once, and takes
/// the channel binding from our stream.
pub(super) struct Ready;

impl<S: TlsStream + Unpin> TlsConnect<S> for Ready {
    type Stream = S;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<S>>;

    fn connect(self, stream: S) -> Self::Future {
        std::future::ready(Ok(stream))
    }
}

//! A wire with a fault in it: TCP to TCP.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{BOUND, wait_until};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    Delay(Duration),
    Blackhole,
    Cut,
}

/// Listens on a loopback port of its own and forwards to one address. Dropping it resets what is open.
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    open: AtomicU64,
    to_upstream: AtomicU64,
    to_client: AtomicU64,
    listening: AtomicU64,
}

impl Proxy {
    /// Passes everything, until told otherwise.
    pub async fn start(upstream: SocketAddr) -> Proxy {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port for the proxy");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (mode, modes) = watch::channel(Mode::Pass);
        let counts = Arc::new(Counts::default());
        tokio::spawn(accept(listener, address, upstream, modes, Arc::clone(&counts)));
        let proxy = Proxy { address, mode, counts };
        proxy.wait_listening(true).await;
        proxy
    }

    /// Where to connect instead of to the upstream.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards at once again, also what was held back.
    pub async fn pass(&self) {
        self.mode.send_replace(Mode::Pass);
        self.wait_listening(true).await;
    }

    /// Holds back each piece of data, in both directions, for so long.
    pub async fn delay(&self, by: Duration) {
        self.mode.send_replace(Mode::Delay(by));
        self.wait_listening(true).await;
    }

    /// Accepts and stays silent; what is open goes silent too, and stays open.
    pub async fn blackhole(&self) {
        self.mode.send_replace(Mode::Blackhole);
        self.wait_listening(true).await;
    }

    /// Resets every connection and refuses new ones. Returns when that is so.
    pub async fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
        self.wait_listening(false).await;
        wait_until("the proxy's connections are reset", BOUND, async || self.open() == 0).await;
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// Bytes forwarded so far: to the upstream, to the clients.
    pub fn bytes(&self) -> (u64, u64) {
        (
            self.counts.to_upstream.load(Ordering::SeqCst),
            self.counts.to_client.load(Ordering::SeqCst),
        )
    }

    async fn wait_listening(&self, wanted: bool) {
        wait_until("the proxy opens or closes its port", BOUND, async || {
            (self.counts.listening.load(Ordering::SeqCst) == 1) == wanted
        })
        .await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.mode.send_replace(Mode::Cut);
    }
}

/// Ends when the proxy is dropped.
async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    upstream: SocketAddr,
    mut modes: watch::Receiver<Mode>,
    counts: Arc<Counts>,
) {
    let mut listener = Some(listener);
    loop {
        let cut = *modes.borrow_and_update() == Mode::Cut;
        if cut {
            listener = None;
        } else if listener.is_none() {
            listener = Some(bind_again(address).await);
        }
        counts.listening.store(u64::from(listener.is_some()), Ordering::SeqCst);
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = modes.changed() => if changed.is_err() { return },
            accepted = accepted => if let Ok((client, _)) = accepted {
                counts.accepted.fetch_add(1, Ordering::SeqCst);
                counts.open.fetch_add(1, Ordering::SeqCst);
                let (modes, counts) = (modes.clone(), Arc::clone(&counts));
                tokio::spawn(async move {
                    forward(client, upstream, modes, &counts).await;
                    counts.open.fetch_sub(1, Ordering::SeqCst);
                });
            },
        }
    }
}

/// The port was ours, and what took it meanwhile is short-lived.
async fn bind_again(address: SocketAddr) -> TcpListener {
    let start = Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if start.elapsed() > BOUND => {
                panic!("the proxy's port {address} again: {error}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn forward(
    mut client: TcpStream,
    upstream: SocketAddr,
    modes: watch::Receiver<Mode>,
    counts: &Counts,
) {
    let mut flowing = modes.clone();
    let open = flowing.wait_for(|mode| *mode != Mode::Blackhole).await.map(|mode| *mode);
    let upstream = match open {
        Ok(Mode::Pass | Mode::Delay(_)) => TcpStream::connect(upstream).await.ok(),
        _ => None,
    };
    let Some(mut upstream) = upstream else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
    let ended = {
        let ((client_in, client_out), (upstream_in, upstream_out)) =
            (client.split(), upstream.split());
        let there = pump(client_in, upstream_out, modes.clone(), &counts.to_upstream);
        let back = pump(upstream_in, client_out, modes.clone(), &counts.to_client);
        tokio::try_join!(there, back)
    };
    // An orderly end of both directions closes in order; anything else is a reset.
    if ended.is_err() {
        let _ = (client.set_zero_linger(), upstream.set_zero_linger());
    }
}

/// One direction. Errs when cut, or when either side breaks.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut modes: watch::Receiver<Mode>,
    count: &AtomicU64,
) -> io::Result<()> {
    let cut = || io::Error::from(io::ErrorKind::ConnectionReset);
    let mut buffer = vec![0; 64 * 1024];
    let mut watching = modes.clone();
    let moving = async {
        loop {
            if *modes.wait_for(|mode| *mode != Mode::Blackhole).await.map_err(|_| cut())?
                == Mode::Cut
            {
                return Err(cut());
            }
            let read = tokio::select! {
                read = from.read(&mut buffer) => read?,
                changed = modes.changed() => { changed.map_err(|_| cut())?; continue }
            };
            // What was read before the silence is held back too.
            let mode = *modes.wait_for(|mode| *mode != Mode::Blackhole).await.map_err(|_| cut())?;
            match mode {
                Mode::Delay(by) => tokio::time::sleep(by).await,
                // What the silence has swallowed never arrives.
                Mode::Cut => return Err(cut()),
                Mode::Pass | Mode::Blackhole => {}
            }
            if read == 0 {
                return to.shutdown().await;
            }
            to.write_all(&buffer[..read]).await?;
            count.fetch_add(read as u64, Ordering::SeqCst);
        }
    };
    tokio::select! {
        moved = moving => moved,
        _ = watching.wait_for(|mode| *mode == Mode::Cut) => Err(cut()),
    }
}

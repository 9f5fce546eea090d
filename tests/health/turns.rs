//! A relay that counts round trips, which is how often the client speaks after the server did, and
//! that can lose a connection at the moment it is used.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

pub struct Turns {
    address: SocketAddr,
    watch: Arc<Watch>,
    task: AbortHandle,
}

#[derive(Default)]
struct Watch {
    count: AtomicU64,
    lose_next: AtomicBool,
}

impl Turns {
    /// Relays to `upstream`.
    pub async fn start(upstream: SocketAddr) -> Turns {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let watch = Arc::new(Watch::default());
        let watching = Arc::clone(&watch);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(upstream).await.unwrap();
                let watch = Arc::clone(&watching);
                tokio::spawn(async move { relay(client, server, &watch).await });
            }
        });
        Turns { address, watch, task: task.abort_handle() }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Round trips so far.
    pub fn count(&self) -> u64 {
        self.watch.count.load(Ordering::SeqCst)
    }

    /// Loses the first connection whose client speaks from now on, before the server hears it.
    pub fn lose_next(&self) {
        self.watch.lose_next.store(true, Ordering::SeqCst);
    }

    /// Whether that has happened.
    pub fn lost(&self) -> bool {
        !self.watch.lose_next.load(Ordering::SeqCst)
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(mut client: TcpStream, mut server: TcpStream, watch: &Watch) {
    let server_spoke = AtomicBool::new(true);
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = async {
        let mut data = vec![0; 16 * 1024];
        while let Ok(size @ 1..) = from_client.read(&mut data).await {
            if watch.lose_next.swap(false, Ordering::SeqCst) {
                break;
            }
            if server_spoke.swap(false, Ordering::SeqCst) {
                watch.count.fetch_add(1, Ordering::SeqCst);
            }
            if to_server.write_all(&data[..size]).await.is_err() {
                break;
            }
        }
    };
    let down = async {
        let mut data = vec![0; 16 * 1024];
        while let Ok(size @ 1..) = from_server.read(&mut data).await {
            server_spoke.store(true, Ordering::SeqCst);
            if to_client.write_all(&data[..size]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

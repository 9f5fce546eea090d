//! A relay that counts round trips: how often the client speaks after the server did.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

pub struct Turns {
    address: SocketAddr,
    count: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Turns {
    /// Relays one connection after the other to `upstream`.
    pub async fn start(upstream: SocketAddr) -> Turns {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                relay(client, TcpStream::connect(upstream).await.unwrap(), &counted).await;
            }
        });
        Turns { address, count, task: task.abort_handle() }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Round trips so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(mut client: TcpStream, mut server: TcpStream, count: &AtomicU64) {
    let server_spoke = AtomicBool::new(true);
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = async {
        let mut data = [0; 16 * 1024];
        while let Ok(size @ 1..) = from_client.read(&mut data).await {
            if server_spoke.swap(false, Ordering::SeqCst) {
                count.fetch_add(1, Ordering::SeqCst);
            }
            if to_server.write_all(&data[..size]).await.is_err() {
                break;
            }
        }
    };
    let down = async {
        let mut data = [0; 16 * 1024];
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

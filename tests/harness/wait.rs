//! Waiting for a state instead of for a time.

use std::time::{Duration, Instant};

/// Long enough for a loaded machine; a test that passes never waits so long.
pub const BOUND: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(10);

/// Asks again and again until `condition` holds; panics naming `what` after `bound`.
pub async fn wait_until(what: &str, bound: Duration, mut condition: impl AsyncFnMut() -> bool) {
    wait_for(what, bound, async || condition().await.then_some(())).await;
}

/// Asks again and again until there is a value; panics naming `what` after `bound`.
pub async fn wait_for<T>(
    what: &str,
    bound: Duration,
    mut attempt: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    let asking = async {
        loop {
            if let Some(value) = attempt().await {
                return value;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout(bound, asking).await {
        Ok(value) => value,
        Err(_) => panic!("waited {:.1} s for this, in vain: {what}", start.elapsed().as_secs_f64()),
    }
}

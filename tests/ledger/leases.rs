//! The observer's place: a leased row on the database's clock.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use pgsteward::store::leases::{self, Lease};

use crate::harness::{BOUND, wait_until};
use crate::{Bench, LEASE};

async fn acquire(bench: &Bench, holder: &str, ttl: Duration) -> Lease {
    leases::acquire(&mut bench.conn().await, "observer", holder, ttl, BOUND).await.unwrap().lease
}

#[tokio::test]
async fn one_of_ten_gets_the_lease() {
    let bench = Bench::new().await;
    let names: Vec<String> = (0..10).map(|n| format!("instance-{n}")).collect();
    let got = join_all(names.iter().map(|name| acquire(&bench, name, LEASE))).await;
    assert_eq!(
        got.iter().filter(|lease| matches!(lease, Lease::Held { epoch: 1 })).count(),
        1,
        "{got:?}"
    );
    let holders: BTreeSet<&str> = got
        .iter()
        .filter_map(|lease| match lease {
            Lease::Other { holder, .. } => Some(holder.as_str()),
            Lease::Held { .. } => None,
        })
        .collect();
    assert_eq!(holders.len(), 1, "all others are told the same holder: {got:?}");
}

#[tokio::test]
async fn a_lease_is_renewed_expires_by_the_servers_clock_and_is_taken_over() {
    let bench = Bench::new().await;
    let client = bench.client().await;
    assert_eq!(acquire(&bench, "one", LEASE).await, Lease::Held { epoch: 1 });
    let since = client.text("SELECT acquired_at FROM steward.leases").await;
    assert_eq!(
        acquire(&bench, "one", LEASE * 2).await,
        Lease::Held { epoch: 1 },
        "renewed, not taken anew"
    );
    assert_eq!(client.text("SELECT acquired_at FROM steward.leases").await, since);
    match acquire(&bench, "two", LEASE).await {
        Lease::Other { holder, left } => {
            assert_eq!(holder, "one");
            assert!(left > LEASE && left <= LEASE * 2, "{left:?}");
        }
        held => panic!("{held:?}"),
    }
    let expire = "UPDATE steward.leases SET renewed_at = clock_timestamp() - interval '2 ms', \
                  expires_at = clock_timestamp() - interval '1 ms'";
    client.batch_execute(expire).await.unwrap();
    assert_eq!(acquire(&bench, "two", LEASE).await, Lease::Held { epoch: 2 });
    assert!(
        matches!(acquire(&bench, "one", LEASE).await, Lease::Other { holder, .. } if holder == "two")
    );

    client.batch_execute(expire).await.unwrap();
    assert_eq!(
        acquire(&bench, "two", LEASE).await,
        Lease::Held { epoch: 2 },
        "its own, though it had passed"
    );

    let short = Duration::from_millis(50);
    assert_eq!(acquire(&bench, "two", short).await, Lease::Held { epoch: 2 });
    wait_until("a short lease passes by itself", BOUND, async || {
        acquire(&bench, "three", LEASE).await == Lease::Held { epoch: 3 }
    })
    .await;
}

/// Caught: a take-over by `expires_at <= clock_timestamp()` alone. Nobody would observe until the clock
/// has caught up with what it showed before.
#[tokio::test]
async fn a_lease_from_before_the_clock_was_set_back_holds_nobody_up() {
    let bench = Bench::new().await;
    acquire(&bench, "one", LEASE).await;
    let ahead = |by: &str| {
        format!(
            "UPDATE steward.leases SET renewed_at = clock_timestamp() + interval '{by}', \
             expires_at = clock_timestamp() + interval '{by}'"
        )
    };
    bench.sql(&ahead("9 min")).await;
    assert!(
        matches!(acquire(&bench, "two", LEASE).await, Lease::Other { .. }),
        "that may be a lease"
    );
    bench.sql(&ahead("1 day")).await;
    assert_eq!(acquire(&bench, "two", LEASE).await, Lease::Held { epoch: 2 });
    let sane = "SELECT count(*) FROM steward.leases WHERE expires_at < clock_timestamp() + interval '10 min' \
                AND renewed_at <= clock_timestamp()";
    assert_eq!(bench.number(sane).await, 1);
}

#[tokio::test]
async fn a_lease_given_up_is_free_at_once_and_only_by_its_holder() {
    let bench = Bench::new().await;
    acquire(&bench, "one", LEASE).await;
    leases::release(&mut bench.conn().await, "observer", "two", BOUND).await.unwrap();
    assert!(matches!(acquire(&bench, "two", LEASE).await, Lease::Other { .. }));
    leases::release(&mut bench.conn().await, "observer", "one", BOUND).await.unwrap();
    assert_eq!(acquire(&bench, "two", LEASE).await, Lease::Held { epoch: 2 });
}

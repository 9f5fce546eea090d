//! The fire ledger and the observer's lease on a real server: who may run what, and who may not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod harness;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use harness::{BOUND, Template, TestClient, TestDatabase, wait_until};
use pgsteward::config::{self, Pooler, Secret, SecretSource};
use pgsteward::db::{Conn, Database, Error, Kind, Purpose, Route, TxOptions};
use pgsteward::lifecycle::Tasks;
use pgsteward::store::leases::{self, Lease};
use pgsteward::store::pauses::{self, Pause};
use pgsteward::store::runs::{self, Claim, Ending, Fire, Missed, State};
use pgsteward::telemetry::Metrics;
use tokio::sync::oneshot;
use uuid::Uuid;

const JOB: &str = "vacuum";
const SPEC: &str = "spec-1";
/// Longer than any test.
const LEASE: Duration = Duration::from_secs(600);
const INSTANCE: &str = "here/1/one";

/// A migrated database with one job registered.
struct Bench {
    database: TestDatabase,
    db: Arc<Database>,
    /// Of [`JOB`], when it was registered.
    floor: DateTime<Utc>,
}

impl Bench {
    async fn new() -> Bench {
        let database = TestDatabase::create(Template::Migrated).await;
        let url = Some(SecretSource::Inline(Secret::new(database.url())));
        let config = config::Database { url, pooler: Pooler::None, ..config::Database::default() };
        let db = Database::new("main", &config, 1, &Tasks::new(), &Arc::new(Metrics::new().unwrap()));
        let mut bench = Bench { database, db, floor: DateTime::UNIX_EPOCH };
        bench.floor = bench.register(SPEC).await;
        bench
    }

    async fn conn(&self) -> Conn {
        self.db.connect(Purpose::Control, Route::Pooled).await.unwrap()
    }

    async fn client(&self) -> TestClient {
        self.database.client().await
    }

    async fn register(&self, spec: &str) -> DateTime<Utc> {
        let floors = runs::register(&mut self.conn().await, &[(JOB, spec.to_owned())], BOUND).await.unwrap();
        assert_eq!(floors.len(), 1);
        floors[0].1
    }

    /// So many seconds after the job was first seen.
    fn due(&self, seconds: i64) -> DateTime<Utc> {
        self.floor + chrono::TimeDelta::seconds(seconds)
    }

    fn fire(&self, seconds: i64) -> Fire {
        Fire { job: JOB, due_at: self.due(seconds), spec_hash: SPEC.to_owned(), paused: false }
    }

    async fn claim(&self, fire: &Fire) -> Claim {
        runs::claim(&mut self.conn().await, fire, INSTANCE, LEASE, BOUND).await.unwrap()
    }

    async fn running(&self, seconds: i64) -> (Uuid, i64) {
        match self.claim(&self.fire(seconds)).await {
            Claim::Run { id, epoch } => (id, epoch),
            other => panic!("{other:?}"),
        }
    }

    async fn finish(&self, id: Uuid, epoch: i64, state: State) -> bool {
        let ending = Ending {
            state,
            reason: None,
            rows: 3,
            error: (state != State::Succeeded).then(|| "it broke".to_owned()),
            detail: serde_json::json!({ "tables": 3 }),
            warnings: Vec::new(),
        };
        runs::finish(&mut self.conn().await, JOB, id, epoch, &ending, BOUND).await.unwrap()
    }

    /// One line per run: `state reason`.
    async fn states(&self) -> String {
        let sql = "SELECT coalesce(string_agg(state || coalesce(' ' || reason, ''), ', ' ORDER BY due_at), '') \
                   FROM steward.job_runs";
        self.client().await.text(sql).await
    }

    async fn slot(&self) -> String {
        self.client().await.text("SELECT running_run_id FROM steward.job_state WHERE job = 'vacuum'").await
    }

    async fn floor_is(&self, seconds: i64) -> bool {
        let floor = self.register(SPEC).await;
        floor == self.due(seconds)
    }

    /// As if its instance had stopped renewing it.
    async fn let_expire(&self, id: Uuid) {
        let sql =
            format!("UPDATE steward.job_runs SET lease_until = clock_timestamp() - interval '1 ms' WHERE id = '{id}'");
        self.client().await.batch_execute(&sql).await.unwrap();
    }
}

/// Runs the fence in a transaction of its own.
async fn fence(conn: &mut Conn, id: Uuid, epoch: i64) -> Result<(), Error> {
    conn.transaction(&TxOptions::within(BOUND), |tx| Box::pin(async move { runs::fence(tx, id, epoch).await })).await
}

fn is_fenced(outcome: Result<(), Error>) -> bool {
    match outcome {
        Ok(()) => false,
        Err(error) if error.kind() == Kind::Fenced => true,
        Err(error) => panic!("neither passed nor fenced: {error}"),
    }
}

#[tokio::test]
async fn ten_instances_claim_each_instant_once() {
    let bench = Bench::new().await;
    for round in 1..=5 {
        let fire = bench.fire(round);
        let claims = join_all((0..10).map(|_| bench.claim(&fire))).await;
        let ran: Vec<(Uuid, i64)> = claims
            .iter()
            .filter_map(|claim| match claim {
                Claim::Run { id, epoch } => Some((*id, *epoch)),
                _ => None,
            })
            .collect();
        assert_eq!(ran.len(), 1, "{claims:?}");
        assert_eq!(claims.iter().filter(|claim| **claim == Claim::Taken).count(), 9, "{claims:?}");
        assert_eq!(bench.slot().await, ran[0].0.to_string());
        assert!(bench.floor_is(round).await);
        assert!(bench.finish(ran[0].0, ran[0].1, State::Succeeded).await);
    }
    assert_eq!(bench.states().await, ["succeeded"; 5].join(", "));
}

#[tokio::test]
async fn a_run_that_lives_keeps_the_next_instant_from_running() {
    let bench = Bench::new().await;
    let (id, epoch) = bench.running(1).await;
    let fire = bench.fire(2);
    let claims = join_all((0..10).map(|_| bench.claim(&fire))).await;
    let skipped = claims.iter().filter(|claim| matches!(claim, Claim::Skipped { reason: "overlap", .. })).count();
    assert_eq!((skipped, claims.len()), (1, 10), "{claims:?}");
    assert_eq!(bench.states().await, "running, skipped overlap");
    assert_eq!(bench.slot().await, id.to_string(), "the slot stays the first run's");
    assert!(bench.finish(id, epoch, State::Succeeded).await);
    bench.running(3).await;
}

#[tokio::test]
async fn a_slot_whose_run_has_ended_holds_nobody_up() {
    let bench = Bench::new().await;
    let (id, _) = bench.running(1).await;
    // As by hand, or by an instance that died between two statements of another version.
    let sql = format!(
        "UPDATE steward.job_runs SET state = 'lost', finished_at = now(), lease_until = NULL WHERE id = '{id}'"
    );
    bench.client().await.batch_execute(&sql).await.unwrap();
    let (second, _) = bench.running(2).await;
    assert_eq!(bench.slot().await, second.to_string());
}

#[tokio::test]
async fn nothing_at_or_below_the_floor_runs_also_when_its_row_is_gone() {
    let bench = Bench::new().await;
    let (id, epoch) = bench.running(10).await;
    bench.finish(id, epoch, State::Succeeded).await;
    bench.client().await.batch_execute("DELETE FROM steward.job_runs").await.unwrap();
    for seconds in [-5, 0, 1, 10] {
        assert_eq!(bench.claim(&bench.fire(seconds)).await, Claim::Taken, "{seconds}");
    }
    assert_eq!(bench.states().await, "");
    bench.running(11).await;
}

#[tokio::test]
async fn the_floor_of_a_job_is_when_it_was_first_seen() {
    let bench = Bench::new().await;
    let seen =
        bench.client().await.number("SELECT extract(epoch FROM first_seen)::bigint FROM steward.job_state").await;
    assert!((bench.floor.timestamp() - seen).abs() <= 1);
    assert_eq!(bench.register("spec-2").await, bench.floor, "another specification does not move it");
}

#[tokio::test]
async fn an_instance_with_an_older_specification_stands_aside() {
    let bench = Bench::new().await;
    bench.register("spec-2").await;
    assert_eq!(bench.claim(&bench.fire(1)).await, Claim::Taken);
    assert_eq!(bench.states().await, "");
    let newer = Fire { spec_hash: "spec-2".to_owned(), ..bench.fire(1) };
    assert!(matches!(bench.claim(&newer).await, Claim::Run { .. }), "the instant was left for the newer one");
}

async fn set_paused(bench: &Bench, paused: bool) -> bool {
    let mut conn = bench.conn().await;
    let options = TxOptions::within(BOUND);
    let work = conn.transaction(&options, |tx| {
        Box::pin(async move { pauses::set(tx, paused, "cli:ann", Some("a fail-over")).await })
    });
    work.await.unwrap()
}

#[tokio::test]
async fn what_is_due_while_paused_is_recorded_as_skipped() {
    let bench = Bench::new().await;
    assert!(set_paused(&bench, true).await);
    assert!(!set_paused(&bench, true).await, "paused already");
    let Some(Pause { by, reason, .. }) = pauses::read(&mut bench.conn().await, BOUND).await.unwrap() else {
        panic!("not paused")
    };
    assert_eq!((by.as_str(), reason.as_deref()), ("cli:ann", Some("a fail-over")));
    assert!(matches!(bench.claim(&bench.fire(1)).await, Claim::Skipped { reason: "paused", .. }));
    assert!(set_paused(&bench, false).await);
    assert!(!set_paused(&bench, false).await, "running already");
    assert_eq!(pauses::read(&mut bench.conn().await, BOUND).await.unwrap(), None);
    let by_file = Fire { paused: true, ..bench.fire(2) };
    assert!(matches!(bench.claim(&by_file).await, Claim::Skipped { reason: "paused", .. }));
    assert_eq!(bench.slot().await, "NULL");
    bench.running(3).await;
    assert_eq!(bench.states().await, "skipped paused, skipped paused, running");
}

#[tokio::test]
async fn missed_instants_are_one_row_and_raise_the_floor() {
    let bench = Bench::new().await;
    let missed = Missed { first: bench.due(1), last: bench.due(5), count: 5 };
    let record =
        async |missed| runs::record_missed(&mut bench.conn().await, JOB, missed, INSTANCE, BOUND).await.unwrap();
    assert!(record(missed).await);
    assert!(bench.floor_is(5).await);
    assert_eq!(bench.states().await, "skipped misfire");
    let sql = "SELECT kind || ' ' || missed_count || ' ' || extract(epoch FROM last_due_at - due_at)::int FROM steward.job_runs";
    assert_eq!(bench.client().await.text(sql).await, "missed 5 4");
    // An instance that read the floor before must neither double the row nor lower the floor.
    assert!(!record(missed).await);
    assert!(!record(Missed { first: bench.due(3), last: bench.due(4), count: 2 }).await);
    assert!(bench.floor_is(5).await);
    assert_eq!(bench.states().await, "skipped misfire");
    bench.running(6).await;
}

#[tokio::test]
async fn the_fence_passes_for_the_run_that_holds_its_lease_and_for_no_other() {
    let bench = Bench::new().await;
    let (id, epoch) = bench.running(1).await;
    let conn = &mut bench.conn().await;
    assert!(!is_fenced(fence(conn, id, epoch).await));
    assert!(is_fenced(fence(conn, Uuid::now_v7(), epoch).await), "another run");
    assert!(is_fenced(fence(conn, id, epoch + 1).await), "an epoch to come");

    let client = bench.client().await;
    client.batch_execute("UPDATE steward.job_runs SET epoch = epoch + 1").await.unwrap();
    assert!(is_fenced(fence(conn, id, epoch).await), "an epoch that has passed, though running and leased");
    assert!(!is_fenced(fence(conn, id, epoch + 1).await));

    bench.let_expire(id).await;
    assert!(is_fenced(fence(conn, id, epoch + 1).await), "a lease that has passed, though not reaped yet");
    assert_eq!(runs::renew(conn, &[(id, epoch + 1)], LEASE, BOUND).await.unwrap(), [id]);
    assert!(!is_fenced(fence(conn, id, epoch + 1).await), "renewed before anybody reaped it");

    assert!(bench.finish(id, epoch + 1, State::Succeeded).await);
    assert!(is_fenced(fence(conn, id, epoch + 1).await), "an ended run");
}

/// The lease passes while a fenced transaction is open: the run may not be declared lost before that
/// transaction has ended, else what it commits would be a lost run's.
#[tokio::test]
async fn a_run_is_not_reaped_under_an_open_fenced_transaction() {
    let bench = Bench::new().await;
    let (id, epoch) = bench.running(1).await;
    bench.client().await.batch_execute("CREATE TABLE public.effect (n int)").await.unwrap();
    let mut zombie = bench.conn().await;
    let (inside, is_inside) = oneshot::channel();
    let (go, may_go) = oneshot::channel::<()>();
    let mut doors = Some((inside, may_go));
    let options = TxOptions::within(BOUND);
    let writing = async {
        let work = zombie.transaction(&options, |tx| {
            let doors = doors.take();
            Box::pin(async move {
                runs::fence(tx, id, epoch).await?;
                let (inside, may_go) = doors.expect("it runs once");
                inside.send(()).expect("the test waits");
                may_go.await.expect("the test lets it go");
                tx.execute("write", "INSERT INTO public.effect VALUES (1)", &[]).await
            })
        });
        work.await
    };
    let reaping = async {
        is_inside.await.unwrap();
        bench.let_expire(id).await;
        let mut conn = bench.conn().await;
        assert_eq!(runs::reap(&mut conn, BOUND).await.unwrap(), [], "reaped under an open fenced transaction");
        assert_eq!(bench.states().await, "running");
        go.send(()).unwrap();
    };
    let (written, ()) = tokio::join!(writing, reaping);
    assert_eq!(written.unwrap(), 1, "it was fenced in time: its effect stands");

    let orphans = runs::reap(&mut bench.conn().await, BOUND).await.unwrap();
    assert_eq!(orphans.len(), 1);
    assert_eq!((orphans[0].id, orphans[0].job.as_str(), orphans[0].instance.as_str()), (id, JOB, INSTANCE));
    assert!(is_fenced(fence(&mut zombie, id, epoch).await), "the dead run writes no more");
    assert!(!bench.finish(id, epoch, State::Succeeded).await, "nor does it end");
    assert_eq!(bench.states().await, "lost lease_expired");
    assert_eq!(bench.slot().await, "NULL");
    assert_eq!(bench.client().await.number("SELECT epoch FROM steward.job_runs").await, epoch + 1);
    bench.running(2).await;
}

/// The other order: a take-over that is not committed yet. A fence that took no lock would read the
/// old row and pass.
#[tokio::test]
async fn a_fence_waits_for_a_take_over_and_then_refuses() {
    let bench = Bench::new().await;
    let (id, epoch) = bench.running(1).await;
    let taker = bench.client().await;
    let take_over = format!(
        "BEGIN; SELECT FROM steward.job_runs WHERE id = '{id}' FOR UPDATE; \
         UPDATE steward.job_runs SET epoch = epoch + 1 WHERE id = '{id}'"
    );
    taker.batch_execute(&take_over).await.unwrap();
    let taker_pid = taker.number("SELECT pg_backend_pid()").await;

    let mut zombie = bench.conn().await;
    let fencing = fence(&mut zombie, id, epoch);
    let committing = async {
        let watcher = bench.client().await;
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE {taker_pid} = ANY (pg_blocking_pids(pid))");
        wait_until("the fence waits for the take-over", BOUND, async || watcher.number(&sql).await == 1).await;
        taker.batch_execute("COMMIT").await.unwrap();
    };
    let (fenced, ()) = tokio::join!(fencing, committing);
    assert!(is_fenced(fenced));
}

/// A run that was cut off may have a statement left on the server: its end waits for what that still
/// commits, and nothing after it passes the fence.
#[tokio::test]
async fn the_end_of_a_run_waits_for_what_it_still_commits() {
    let bench = Bench::new().await;
    let (id, epoch) = bench.running(1).await;
    let zombie = bench.client().await;
    let open = format!("BEGIN; SELECT FROM steward.job_runs WHERE id = '{id}' AND epoch = {epoch} FOR KEY SHARE");
    zombie.batch_execute(&open).await.unwrap();
    let zombie_pid = zombie.number("SELECT pg_backend_pid()").await;
    let finishing = bench.finish(id, epoch, State::TimedOut);
    let committing = async {
        let watcher = bench.client().await;
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE {zombie_pid} = ANY (pg_blocking_pids(pid))");
        wait_until("the end waits for the open transaction", BOUND, async || watcher.number(&sql).await == 1).await;
        zombie.batch_execute("COMMIT").await.unwrap();
    };
    let (finished, ()) = tokio::join!(finishing, committing);
    assert!(finished);
    assert!(is_fenced(fence(&mut bench.conn().await, id, epoch).await), "nothing of it is written any more");
    assert_eq!(bench.client().await.number("SELECT epoch FROM steward.job_runs").await, epoch + 1);
}

#[tokio::test]
async fn a_lease_that_lasts_is_not_reaped_and_a_freed_slot_is_the_dead_runs_only() {
    let bench = Bench::new().await;
    let (id, _) = bench.running(1).await;
    assert_eq!(runs::reap(&mut bench.conn().await, BOUND).await.unwrap(), []);
    // The slot belongs to a newer run by now: reaping the older must leave it.
    let other = Uuid::now_v7();
    let client = bench.client().await;
    client.batch_execute(&format!("UPDATE steward.job_state SET running_run_id = '{other}'")).await.unwrap();
    bench.let_expire(id).await;
    assert_eq!(runs::reap(&mut bench.conn().await, BOUND).await.unwrap().len(), 1);
    assert_eq!(bench.slot().await, other.to_string());
}

#[tokio::test]
async fn renewing_extends_what_is_ours_and_says_what_is_not() {
    let bench = Bench::new().await;
    let (id, epoch) = bench.running(1).await;
    let left = "SELECT extract(epoch FROM lease_until - clock_timestamp())::bigint FROM steward.job_runs";
    let conn = &mut bench.conn().await;
    assert_eq!(runs::renew(conn, &[(Uuid::now_v7(), 1), (id, epoch)], LEASE * 2, BOUND).await.unwrap(), [id]);
    assert!(bench.client().await.number(left).await > 1000);
    assert_eq!(runs::renew(conn, &[(id, epoch + 1)], LEASE * 10, BOUND).await.unwrap(), Vec::<Uuid>::new());
    assert!(bench.client().await.number(left).await <= 1200, "another epoch's renewal changes nothing");
    assert!(bench.finish(id, epoch, State::Succeeded).await);
    assert_eq!(runs::renew(conn, &[(id, epoch)], LEASE, BOUND).await.unwrap(), Vec::<Uuid>::new());
}

#[tokio::test]
async fn a_run_is_ended_once_and_only_under_its_epoch() {
    let bench = Bench::new().await;
    let (id, epoch) = bench.running(1).await;
    assert!(!bench.finish(id, epoch + 1, State::Succeeded).await);
    assert_eq!((bench.states().await.as_str(), bench.slot().await), ("running", id.to_string()));
    assert!(bench.finish(id, epoch, State::Failed).await);
    assert_eq!((bench.states().await.as_str(), bench.slot().await.as_str()), ("failed", "NULL"));
    assert!(!bench.finish(id, epoch, State::Succeeded).await, "an end is an end");
    let sql = "SELECT concat_ws('|', rows_affected, error, detail, lease_until, finished_at > started_at) FROM steward.job_runs";
    assert_eq!(bench.client().await.text(sql).await, r#"3|it broke|{"tables": 3}|t"#);
}

#[tokio::test]
async fn the_last_runs_tell_failures_in_a_row() {
    let bench = Bench::new().await;
    let outcomes = [State::Failed, State::Succeeded, State::Failed, State::TimedOut, State::Cancelled];
    for (at, state) in outcomes.into_iter().enumerate() {
        let (id, epoch) = bench.running(1 + at as i64).await;
        assert!(bench.finish(id, epoch, state).await);
    }
    let last = runs::last_runs(&mut bench.conn().await, BOUND).await.unwrap();
    assert_eq!(last.len(), 1);
    assert_eq!((last[0].job.as_str(), last[0].state.as_str(), last[0].failures), (JOB, "cancelled", 2));
    assert!(last[0].last_success_at.is_some_and(|at| at < last[0].finished_at));
}

async fn acquire(bench: &Bench, holder: &str, ttl: Duration) -> Lease {
    leases::acquire(&mut bench.conn().await, "observer", holder, ttl, BOUND).await.unwrap().lease
}

#[tokio::test]
async fn one_of_ten_gets_the_lease() {
    let bench = Bench::new().await;
    let names: Vec<String> = (0..10).map(|n| format!("instance-{n}")).collect();
    let got = join_all(names.iter().map(|name| acquire(&bench, name, LEASE))).await;
    assert_eq!(got.iter().filter(|lease| matches!(lease, Lease::Held { epoch: 1 })).count(), 1, "{got:?}");
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
    assert_eq!(acquire(&bench, "one", LEASE * 2).await, Lease::Held { epoch: 1 }, "renewed, not taken anew");
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
    assert!(matches!(acquire(&bench, "one", LEASE).await, Lease::Other { holder, .. } if holder == "two"));

    client.batch_execute(expire).await.unwrap();
    assert_eq!(acquire(&bench, "two", LEASE).await, Lease::Held { epoch: 2 }, "its own, though it had passed");

    let short = Duration::from_millis(50);
    assert_eq!(acquire(&bench, "two", short).await, Lease::Held { epoch: 2 });
    wait_until("a short lease passes by itself", BOUND, async || {
        acquire(&bench, "three", LEASE).await == Lease::Held { epoch: 3 }
    })
    .await;
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

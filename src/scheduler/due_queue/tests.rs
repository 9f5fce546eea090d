use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::config::{CatchUp, Schedule, SqlWork, Windows, Zone};
use crate::store::claims::{MissedRange, Run};
use crate::store::requests::{LastSuccess, QueuedRun};

const JOB: &str = "report";

fn at(text: &str) -> DateTime<Utc> {
    format!("2026-11-22T{text}Z").parse().unwrap()
}

fn hourly() -> Job {
    let work = SqlWork {
        sql: "SELECT 1".to_owned(),
        transaction: true,
        role: None,
        login: None,
        search_path: "public".to_owned(),
        lock_timeout: Duration::from_secs(1),
    };
    Job { trigger: Trigger::Schedule(Schedule::parse("@hourly").unwrap()), ..Job::sql(work) }
}

fn after(upstream_jobs: &[&str]) -> Job {
    Job {
        trigger: Trigger::After(upstream_jobs.iter().map(|name| JobName::new(name)).collect()),
        ..hourly()
    }
}

fn config(jobs: &[(&str, Job)]) -> Config {
    let mut config = Config::default();
    config.jobs.all = jobs.iter().map(|(name, job)| (JobName::new(name), job.clone())).collect();
    config
}

fn row(job: &str, watermark: &str) -> RegisteredJob {
    RegisteredJob {
        job: job.to_owned(),
        watermark: at(watermark),
        last_success_at: None,
        above: Vec::new(),
    }
}

/// Jobs that are all accounted for up to midnight.
fn due_queue(jobs: &[(&str, Job)]) -> DueQueue {
    let mut due_queue = DueQueue::default();
    due_queue.adopt(
        &config(jobs),
        "main",
        jobs.iter().map(|(name, _)| row(name, "00:00:00")).collect(),
    );
    due_queue
}

fn one(change: impl FnOnce(&mut Job)) -> DueQueue {
    let mut job = hourly();
    change(&mut job);
    due_queue(&[(JOB, job)])
}

/// The only ask.
#[track_caller]
fn ask(due_queue: &mut DueQueue, now: &str) -> ClaimRequest {
    let mut asks = due_queue.look(at(now), false);
    assert_eq!(asks.len(), 1, "{asks:?}");
    asks.remove(0)
}

fn fires(ask: &ClaimRequest) -> Option<DateTime<Utc>> {
    match &ask.kind {
        ClaimKind::Due { fire, .. } => fire.map(|fire| fire.due_at),
        other => panic!("{other:?}"),
    }
}

fn missed(ask: &ClaimRequest) -> &[MissedRange] {
    match &ask.kind {
        ClaimKind::Due { missed, .. } => missed,
        other => panic!("{other:?}"),
    }
}

fn answer(ask: &ClaimRequest, verdict: Verdict, watermark: DateTime<Utc>) -> ClaimResult {
    ClaimResult { job: ask.job.clone(), verdict, watermark, run: None }
}

fn queued(job: &str, due_at: &str, manual: bool) -> PendingRequests {
    let queued =
        QueuedRun { job: job.to_owned(), id: Uuid::from_u128(7), due_at: at(due_at), manual };
    PendingRequests { queued: vec![queued], ..PendingRequests::default() }
}

fn succeeded(job: &str, time: &str) -> PendingRequests {
    PendingRequests {
        succeeded: vec![LastSuccess { job: job.to_owned(), at: at(time) }],
        ..PendingRequests::default()
    }
}

#[test]
fn what_is_due_is_asked_for_until_it_is_answered() {
    let mut due_queue = one(|_| {});
    assert_eq!(due_queue.look(at("00:59:59.999"), false), []);
    assert_eq!(due_queue.next(), Some(at("01:00:00")));
    let first = ask(&mut due_queue, "01:00:00");
    assert_eq!(
        (first.job.as_str(), first.watermark, fires(&first)),
        (JOB, at("00:00:00"), Some(at("01:00:00")))
    );
    assert_eq!(ask(&mut due_queue, "01:00:01"), first, "nobody answered");
    due_queue.answered(&first, &answer(&first, Verdict::Run, at("01:00:00")), at("01:00:01"));
    assert_eq!(due_queue.look(at("01:59:59"), false), []);
    assert_eq!(due_queue.next(), Some(at("02:00:00")));
    let late = ask(&mut due_queue, "05:30:00");
    assert_eq!((late.watermark, fires(&late)), (at("01:00:00"), Some(at("05:00:00"))));
    let [range] = missed(&late) else { panic!("{late:?}") };
    assert_eq!(
        (range.first, range.last, range.count, range.reason),
        (at("02:00:00"), at("04:00:00"), 3, SkipReason::Misfire)
    );
    assert!(
        due_queue.look(at("05:30:00"), true)[0].paused,
        "a pause is told along, and judged by the ledger"
    );
}

#[test]
fn what_the_ledger_holds_back_is_asked_for_a_second_later() {
    let mut due_queue = one(|_| {});
    let held = ask(&mut due_queue, "01:00:00");
    due_queue.answered(&held, &answer(&held, Verdict::Defer, at("00:00:00")), at("01:00:00.2"));
    assert_eq!(due_queue.look(at("01:00:01.1"), false), []);
    assert_eq!(due_queue.next(), Some(at("01:00:01.2")));
    assert_eq!(fires(&ask(&mut due_queue, "01:00:01.2")), Some(at("01:00:00")));
}

/// Somebody else was there: the watermark that is told is the one to go on from.
#[test]
fn an_old_plan_is_made_again_from_the_floor_that_is_told() {
    let mut due_queue = one(|_| {});
    let stale = ask(&mut due_queue, "02:30:00");
    let told = answer(&stale, Verdict::Stale, at("01:00:00"));
    due_queue.answered(&stale, &told, at("02:30:00"));
    let again = ask(&mut due_queue, "02:30:00");
    assert_eq!(
        (again.watermark, fires(&again), missed(&again)),
        (at("01:00:00"), Some(at("02:00:00")), &[][..])
    );
}

/// It was cancelled meanwhile, say.
#[test]
fn what_waits_no_more_makes_way_for_what_is_due() {
    let mut due_queue = one(|_| {});
    due_queue.poll_requests(&queued(JOB, "01:00:00", true));
    let waiting = ask(&mut due_queue, "01:00:00");
    due_queue.answered(
        &waiting,
        &answer(&waiting, Verdict::Stale, waiting.watermark),
        at("01:00:00"),
    );
    assert_eq!(fires(&ask(&mut due_queue, "01:00:00")), Some(at("01:00:00")));
}

#[test]
fn a_floor_in_the_future_is_waited_for_or_taken_back() {
    for (watermark, rewinds) in
        [("01:00:59", false), ("01:01:00", false), ("01:01:00.001", true), ("23:00:00", true)]
    {
        let mut due_queue = DueQueue::default();
        due_queue.adopt(&config(&[(JOB, hourly())]), "main", vec![row(JOB, watermark)]);
        let asks = due_queue.look(at("01:00:00"), false);
        let expected = ClaimKind::Rewind { to: at("01:00:00"), cut: None };
        assert_eq!(asks.iter().any(|ask| ask.kind == expected), rewinds, "{watermark}: {asks:?}");
        assert_eq!(asks.len(), usize::from(rewinds), "{watermark}");
    }
    let mut due_queue = DueQueue::default();
    due_queue.adopt(&config(&[(JOB, hourly())]), "main", vec![row(JOB, "23:00:00")]);
    let rewind = ask(&mut due_queue, "01:00:00.123456");
    assert_eq!(
        rewind.kind,
        ClaimKind::Rewind { to: at("01:00:00.123"), cut: None },
        "to whole milliseconds"
    );
    assert_eq!(
        due_queue.cut(&rewind.job, at("00:00:00"), at("01:30:00")),
        Some((at("01:00:00"), 2))
    );
    assert_eq!(due_queue.cut(&JobName::new("nobody"), at("00:00:00"), at("01:30:00")), None);
    due_queue.answered(
        &rewind,
        &answer(&rewind, Verdict::Record, at("01:00:00.123")),
        at("01:00:01"),
    );
    assert_eq!(fires(&ask(&mut due_queue, "02:00:00")), Some(at("02:00:00")));
}

#[test]
fn instants_above_the_floor_that_have_run_are_passed_over() {
    let mut due_queue = DueQueue::default();
    let above = vec![at("02:00:00"), at("04:00:00")];
    let all = Job { catch_up: CatchUp::All, ..hourly() };
    due_queue.adopt(
        &config(&[(JOB, all)]),
        "main",
        vec![RegisteredJob { above, ..row(JOB, "00:00:00") }],
    );
    for due in ["01:00:00", "03:00:00", "05:00:00"] {
        let next = ask(&mut due_queue, "05:30:00");
        assert_eq!(fires(&next), Some(at(due)));
        due_queue.answered(&next, &answer(&next, Verdict::Run, at(due)), at("05:30:00"));
    }
    assert_eq!(due_queue.look(at("05:30:00"), false), []);
}

#[test]
fn a_job_can_be_wanted_at_once() {
    let partitions = JobName::from(Builtin::Partitions);
    let mut due_queue = due_queue(&[(partitions.as_str(), Job::of(Builtin::Partitions))]);
    assert_eq!(due_queue.look(at("00:20:00"), false), []);
    due_queue.at_once(Builtin::Partitions);
    due_queue.at_once(Builtin::Vacuum);
    let now = ask(&mut due_queue, "00:20:00.123456");
    assert_eq!(
        fires(&now),
        Some(at("00:20:00.123")),
        "an instant of its own, in whole milliseconds"
    );
    due_queue.answered(&now, &answer(&now, Verdict::Defer, now.watermark), at("00:20:00.2"));
    let again = ask(&mut due_queue, "00:20:02");
    assert_eq!(fires(&again), Some(at("00:20:02")), "held back, it is still wanted");
    due_queue.answered(&again, &answer(&again, Verdict::Run, at("00:20:02")), at("00:20:02"));
    assert_eq!(due_queue.look(at("00:20:02"), false), []);
    assert_eq!(due_queue.next(), Some(at("01:00:00")), "its schedule goes on");

    due_queue.at_once(Builtin::Partitions);
    let due = ask(&mut due_queue, "01:00:05");
    assert_eq!(fires(&due), Some(at("01:00:00")), "what is due anyway is at once");
    due_queue.answered(&due, &answer(&due, Verdict::Run, at("01:00:00")), at("01:00:05"));
    assert_eq!(due_queue.look(at("01:00:05"), false), []);

    // The clock stands a little before the watermark: an instant after it all the same.
    due_queue.at_once(Builtin::Partitions);
    let early = ask(&mut due_queue, "00:59:59");
    assert_eq!(fires(&early), Some(at("01:00:00.001")));
}

#[test]
fn what_finds_no_lane_is_wanted_at_once_still() {
    let job = Job { deadline: Some(Duration::from_secs(60)), ..Job::of(Builtin::Partitions) };
    let mut due_queue = due_queue(&[(Builtin::Partitions.as_str(), job)]);
    due_queue.at_once(Builtin::Partitions);
    let mut without_lane = ask(&mut due_queue, "02:30:00");
    let ClaimKind::Due { missed, fire } = &mut without_lane.kind else {
        panic!("{without_lane:?}")
    };
    assert!(!missed.is_empty() && fire.take().is_some());
    due_queue.answered(
        &without_lane,
        &answer(&without_lane, Verdict::Record, at("02:00:00")),
        at("02:30:00"),
    );
    assert_eq!(fires(&ask(&mut due_queue, "02:30:01")), Some(at("02:30:01")));
}

#[test]
fn a_disabled_job_is_not_wanted_at_once() {
    let off = Job { enabled: false, ..Job::of(Builtin::Partitions) };
    let mut due_queue = due_queue(&[(Builtin::Partitions.as_str(), off)]);
    due_queue.at_once(Builtin::Partitions);
    assert_eq!(due_queue.look(at("00:00:30"), false), []);
}

#[test]
fn what_waits_is_begun_whatever_the_schedule_and_given_up_when_it_is_too_late() {
    let weekend =
        || ["Sat,Sun"].iter().map(|text| Windows::parse_one(text).unwrap()).collect::<Windows>();
    type Change = fn(&mut Job);
    let never: Change = |job| job.trigger = Trigger::Request;
    let disabled: Change = |job| job.enabled = false;
    let short: Change = |job| job.deadline = Some(Duration::from_secs(600));
    let rest: Change = |_| {};
    // 2026-11-22 is a Sunday: the window of the last ones is closed by a blackout.
    for (change, manual, now, skip) in [
        (rest, true, "10:00:30", None),
        (never, true, "10:00:30", None),
        (disabled, true, "10:00:30", None),
        (rest, true, "11:00:00", None),
        (rest, true, "11:00:00.001", Some(SkipReason::Expired)),
        (short, true, "10:59:00", None),
        (rest, false, "23:00:00", None),
        (short, false, "10:10:00", None),
        (short, false, "10:10:00.001", Some(SkipReason::Expired)),
    ] {
        let mut due_queue = one(change);
        due_queue.poll_requests(&queued(JOB, "10:00:00", manual));
        let begin = ask(&mut due_queue, now);
        assert_eq!(
            begin.kind,
            ClaimKind::Queued { id: Uuid::from_u128(7), skip },
            "{manual} {now}"
        );
    }
    for (manual, skip) in [(true, None), (false, Some(SkipReason::Window))] {
        let mut due_queue = one(|job| job.blackout = weekend());
        due_queue.poll_requests(&queued(JOB, "10:00:00", manual));
        assert_eq!(
            ask(&mut due_queue, "10:00:30").kind,
            ClaimKind::Queued { id: Uuid::from_u128(7), skip },
            "{manual}"
        );
    }
}

#[test]
fn what_waits_goes_before_what_is_due_and_is_forgotten_when_it_is_heard_of_no_more() {
    let mut due_queue = one(|_| {});
    due_queue.poll_requests(&queued("another", "01:00:00", true));
    assert_eq!(fires(&ask(&mut due_queue, "01:00:00")), Some(at("01:00:00")));
    due_queue.poll_requests(&queued(JOB, "00:59:00", true));
    let waiting = ask(&mut due_queue, "01:00:00");
    assert!(matches!(waiting.kind, ClaimKind::Queued { .. }));
    due_queue.answered(
        &waiting,
        &answer(&waiting, Verdict::Defer, waiting.watermark),
        at("01:00:00"),
    );
    assert!(
        fires(&ask(&mut due_queue, "01:00:00.1")).is_some(),
        "while it is held back, what is due is recorded"
    );
    assert!(
        matches!(ask(&mut due_queue, "01:00:01").kind, ClaimKind::Queued { .. }),
        "it still waits"
    );
    due_queue.answered(
        &waiting,
        &answer(&waiting, Verdict::Defer, waiting.watermark),
        at("01:00:01"),
    );
    due_queue.freed(&JobName::new(JOB));
    assert!(
        matches!(ask(&mut due_queue, "01:00:01.1").kind, ClaimKind::Queued { .. }),
        "the slot is free"
    );
    due_queue.answered(
        &waiting,
        &answer(&waiting, Verdict::Run, waiting.watermark),
        at("01:00:00"),
    );
    assert!(fires(&ask(&mut due_queue, "01:00:01")).is_some());
    due_queue.poll_requests(&queued(JOB, "00:59:00", true));
    due_queue.poll_requests(&PendingRequests::default());
    assert!(fires(&ask(&mut due_queue, "01:00:01")).is_some());
}

#[test]
fn a_follower_is_due_once_when_all_its_leaders_have_succeeded() {
    let mut due_queue = due_queue(&[("a", hourly()), ("b", hourly()), ("c", after(&["a", "b"]))]);
    assert_eq!(due_queue.upstream_jobs(), ["a", "b"]);
    let chained = |due_queue: &mut DueQueue| due_queue.look(at("00:40:00"), false);
    due_queue.poll_requests(&succeeded("a", "00:10:00"));
    assert_eq!(chained(&mut due_queue), []);
    due_queue.poll_requests(&succeeded("b", "00:20:00"));
    let asks = chained(&mut due_queue);
    let ClaimKind::Due { fire: Some(fire), .. } = &asks[0].kind else { panic!("{asks:?}") };
    assert_eq!(
        (asks.len(), asks[0].job.as_str(), fire.due_at, fire.cause),
        (1, "c", at("00:20:00"), Cause::Chained)
    );
    due_queue.answered(&asks[0], &answer(&asks[0], Verdict::Run, at("00:20:00")), at("00:40:00"));
    assert_eq!(chained(&mut due_queue), [], "the same successes make it due once");
    due_queue.poll_requests(&succeeded("b", "00:30:00"));
    assert_eq!(chained(&mut due_queue), [], "the other has not succeeded again");
    due_queue.poll_requests(&succeeded("a", "00:35:00"));
    assert_eq!(chained(&mut due_queue).len(), 1);
}

#[test]
fn a_success_from_before_the_start_counts_when_the_follower_has_not_run_since() {
    let mut due_queue = DueQueue::default();
    let config = config(&[("a", hourly()), ("b", after(&["a"]))]);
    let rows = |success: &str| {
        vec![
            RegisteredJob { last_success_at: Some(at(success)), ..row("a", "00:30:00") },
            row("b", "00:20:00"),
        ]
    };
    due_queue.adopt(&config, "main", rows("00:30:00"));
    assert_eq!(fires(&ask(&mut due_queue, "00:40:00")), Some(at("00:30:00")));
    due_queue.forget();
    due_queue.adopt(&config, "main", rows("00:10:00"));
    assert_eq!(due_queue.look(at("00:40:00"), false), []);
}

#[test]
fn only_what_runs_by_itself_has_leaders_and_a_next_instant() {
    let off = |job: Job| Job { enabled: false, ..job };
    let mut due_queue = due_queue(&[
        ("a", hourly()),
        ("b", off(hourly())),
        ("c", off(after(&["a"]))),
        ("d", Job { trigger: Trigger::Request, ..hourly() }),
    ]);
    assert_eq!(due_queue.upstream_jobs(), Vec::<String>::new());
    due_queue.poll_requests(&succeeded("a", "00:10:00"));
    assert_eq!(due_queue.look(at("00:30:00"), false), []);
    let next: Vec<_> = due_queue.next_of_each().map(|(name, next)| (name.as_str(), next)).collect();
    assert_eq!(next, [("a", Some(at("01:00:00"))), ("b", None), ("c", None), ("d", None)]);
}

#[test]
fn in_mode_observe_ones_own_sql_does_not_run() {
    let mut config = config(&[(JOB, hourly()), ("vacuum", Job::of(Builtin::Vacuum))]);
    config.mode = Mode::Observe;
    let mut due_queue = DueQueue::default();
    due_queue.adopt(&config, "main", vec![row(JOB, "00:00:00"), row("vacuum", "00:00:00")]);
    let asks = due_queue.look(at("01:00:00"), false);
    assert_eq!(asks.iter().map(|ask| ask.job.as_str()).collect::<Vec<_>>(), ["vacuum"]);
}

#[test]
fn what_only_records_goes_first_then_what_waits_longest() {
    let every =
        |text: &str| Job { trigger: Trigger::Schedule(Schedule::parse(text).unwrap()), ..hourly() };
    let past = Job { deadline: Some(Duration::from_secs(60)), ..every("@hourly") };
    let mut due_queue = due_queue(&[
        ("a-often", every("@every 1m")),
        ("b-seldom", every("@hourly")),
        ("z-late", past),
    ]);
    let asks = due_queue.look(at("01:05:30"), false);
    let order: Vec<_> = asks.iter().map(|ask| (ask.job.as_str(), fires(ask))).collect();
    assert_eq!(
        order,
        [("z-late", None), ("b-seldom", Some(at("01:00:00"))), ("a-often", Some(at("01:05:00")))]
    );
}

#[test]
fn nothing_is_known_after_forgetting() {
    let mut due_queue = one(|_| {});
    assert!(!due_queue.is_empty());
    let due = ask(&mut due_queue, "01:00:00");
    assert_eq!(due_queue.forget(), [JobName::new(JOB)]);
    assert!(
        due_queue.is_empty()
            && due_queue.next().is_none()
            && due_queue.look(at("02:00:00"), false).is_empty()
    );
    let run = Some(Run { id: Uuid::nil(), epoch: 1, due_at: at("01:00:00") });
    due_queue.answered(
        &due,
        &ClaimResult { run, ..answer(&due, Verdict::Run, at("01:00:00")) },
        at("01:00:00"),
    );
    assert!(due_queue.is_empty(), "a late answer brings nothing back");
}

#[test]
fn a_row_of_a_job_that_is_configured_no_more_is_none_of_ours() {
    let mut due_queue = DueQueue::default();
    due_queue.adopt(&config(&[(JOB, hourly())]), "main", vec![row("gone", "00:00:00")]);
    assert!(due_queue.is_empty());
}

#[test]
fn measurements_and_jobs_of_other_databases_are_not_in_the_ledger() {
    let elsewhere = Job { databases: vec!["other".to_owned()], ..hourly() };
    let config = config(&[
        ("health-probe", Job::of(Builtin::HealthProbe)),
        ("a", elsewhere),
        ("b", hourly()),
    ]);
    let names = |database| {
        DueQueue::specs(&config, database)
            .into_iter()
            .map(|(name, _)| name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("main"), ["b"]);
    assert_eq!(names("other"), ["a", "b"]);
}

/// What stands before the dash moves the watermark of a job; see `store::runs::register`.
#[test]
fn a_specification_names_everything_that_is_said_of_a_job_and_its_schedule_apart() {
    let of = |change: fn(&mut Job)| {
        let mut job = hourly();
        change(&mut job);
        spec_hash(&job, Mode::Maintain)
    };
    let sql = |change: fn(&mut SqlWork)| {
        let mut job = hourly();
        if let Work::Sql(work) = &mut job.work {
            change(work);
        }
        spec_hash(&job, Mode::Maintain)
    };
    let plain = spec_hash(&hourly(), Mode::Maintain);
    let (when, how) = plain.split_once('-').unwrap();
    assert_eq!((when.len(), how.len()), (12, 12));
    for (place, hash) in [
        of(|job| job.trigger = Trigger::Schedule(Schedule::parse("@daily").unwrap())),
        of(|job| job.trigger = Trigger::After(vec![JobName::new("a")])),
        of(|job| job.trigger = Trigger::Request),
        of(|job| job.timezone = Zone::named("Europe/Berlin").unwrap()),
        of(|job| job.enabled = false),
    ]
    .iter()
    .enumerate()
    {
        let (changed, same) = hash.split_once('-').unwrap();
        assert!(changed != when && same == how, "{place}");
    }
    for (place, hash) in [
        of(|job| job.timeout = Duration::from_secs(1)),
        of(|job| job.retries = 9),
        of(|job| job.overlap = Overlap::Queue),
        of(|job| job.catch_up = CatchUp::All),
        of(|job| job.catch_up_max = 9),
        of(|job| job.deadline = Some(Duration::from_secs(1))),
        of(|job| job.jitter = Duration::from_secs(1)),
        of(|job| {
            job.window = ["Sat"].iter().map(|text| Windows::parse_one(text).unwrap()).collect();
        }),
        of(|job| {
            job.blackout = ["Sat"].iter().map(|text| Windows::parse_one(text).unwrap()).collect();
        }),
        of(|job| job.on_failure = AfterFailure::Pause),
        of(|job| job.on_failure = AfterFailure::Ignore),
        sql(|work| work.sql.push(';')),
        sql(|work| work.transaction = false),
        sql(|work| work.role = Some("r".to_owned())),
        sql(|work| work.login = Some(crate::config::SecretSource::File("f".into()))),
        sql(|work| work.search_path = "app".to_owned()),
        sql(|work| work.lock_timeout = Duration::from_secs(2)),
        spec_hash(&Job { work: Work::Builtin(Builtin::Vacuum), ..hourly() }, Mode::Maintain),
    ]
    .iter()
    .enumerate()
    {
        let (same, changed) = hash.split_once('-').unwrap();
        assert!(same == when && changed != how, "{place}");
    }
}

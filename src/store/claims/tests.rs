//! Every decision on an ask, as a table.

use chrono::TimeDelta;

use super::*;

const SPEC: &str = "when-how";

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// A job at rest, accounted for up to 100.
fn slot(change: impl FnOnce(&mut JobSlot)) -> JobSlot {
    let mut slot = JobSlot {
        watermark: at(100),
        spec_hash: Some(SPEC.to_owned()),
        paused: false,
        running_since: None,
        queued: None,
        quarantined: false,
    };
    change(&mut slot);
    slot
}

fn ask(wanted: ClaimKind) -> ClaimRequest {
    ClaimRequest {
        job: JobName::new("job"),
        spec_hash: SPEC.to_owned(),
        watermark: at(100),
        paused: false,
        kind: wanted,
    }
}

fn fire(due: i64, overlap: Overlap) -> ClaimKind {
    ClaimKind::Due {
        missed: Vec::new(),
        fire: Some(Fire { due_at: at(due), cause: Cause::Scheduled, overlap }),
    }
}

/// One of each kind.
fn each_wanted() -> [ClaimKind; 6] {
    let missed =
        vec![MissedRange { first: at(101), last: at(105), count: 5, reason: SkipReason::Misfire }];
    [
        fire(110, Overlap::Skip),
        fire(110, Overlap::Queue),
        ClaimKind::Due { missed, fire: None },
        ClaimKind::Queued { id: id(7), skip: None },
        ClaimKind::Queued { id: id(7), skip: Some(SkipReason::Expired) },
        ClaimKind::Rewind { to: at(50), cut: None },
    ]
}

#[test]
fn an_old_plan_is_stale_whatever_it_wants() {
    type Change = fn(&mut JobSlot);
    let changes: [Change; 3] = [
        |slot| slot.watermark = at(101),
        |slot| slot.watermark = at(99),
        |slot| slot.spec_hash = Some("when-otherwise".to_owned()),
    ];
    for wanted in each_wanted() {
        for (place, change) in changes.iter().enumerate() {
            let slot = slot(|slot| {
                slot.queued = Some(id(7));
                change(slot);
            });
            assert_eq!(judge(&slot, &ask(wanted.clone())), Verdict::Stale, "{place} {wanted:?}");
        }
    }
}

/// Its row was made by who paused it, or ran it, before any instance knew it.
#[test]
fn a_job_without_a_specification_goes_by_any() {
    let slot = slot(|slot| (slot.queued, slot.spec_hash) = (Some(id(7)), None));
    let wanted = ClaimKind::Queued { id: id(7), skip: None };
    assert_eq!(judge(&slot, &ask(wanted)), Verdict::Run);
}

#[test]
fn every_state_of_the_slot_has_its_verdict() {
    use Overlap::{Queue as Q, Skip as S};
    use Verdict::{Defer, Queue, Record, Run};
    const OVERLAP: Verdict = Verdict::Skip(SkipReason::Overlap);
    type Change = fn(&mut JobSlot);
    let rest: Change = |_| {};
    let ran_before: Change = |slot| slot.running_since = Some(at(105));
    let began_later: Change = |slot| slot.running_since = Some(at(111));
    let quarantined: Change = |slot| slot.quarantined = true;
    let waits: Change = |slot| slot.queued = Some(id(8));
    let runs_and_waits: Change =
        |slot| (slot.running_since, slot.queued) = (Some(at(105)), Some(id(8)));
    let later_and_waits: Change =
        |slot| (slot.running_since, slot.queued) = (Some(at(111)), Some(id(8)));
    let suspect_and_waits: Change = |slot| (slot.quarantined, slot.queued) = (true, Some(id(8)));
    for (name, change, skip, queue) in [
        ("at rest", rest, Run, Run),
        ("runs since before it was due", ran_before, OVERLAP, Queue),
        ("runs since after it was due", began_later, Defer, Defer),
        ("may still be at work", quarantined, OVERLAP, Queue),
        ("another waits, and goes first", waits, Defer, Defer),
        ("runs, and another waits", runs_and_waits, OVERLAP, OVERLAP),
        ("runs since after it was due, and another waits", later_and_waits, Defer, Defer),
        ("may still be at work, and another waits", suspect_and_waits, OVERLAP, OVERLAP),
    ] {
        let slot = slot(change);
        assert_eq!(judge(&slot, &ask(fire(110, S))), skip, "skip: {name}");
        assert_eq!(judge(&slot, &ask(fire(110, Q))), queue, "queue: {name}");
        let [.., record, _, _, rewind] = each_wanted();
        assert_eq!(judge(&slot, &ask(record)), Record, "{name}: what is not run needs no slot");
        assert_eq!(judge(&slot, &ask(rewind)), Record, "{name}");
    }
    let began_with_it = slot(|slot| slot.running_since = Some(at(110)));
    assert_eq!(judge(&began_with_it, &ask(fire(110, S))), OVERLAP, "due when it began");
}

#[test]
fn what_waits_begins_when_the_slot_is_free() {
    type Change = fn(&mut JobSlot);
    let begin = || ask(ClaimKind::Queued { id: id(7), skip: None });
    let give_up = |reason| ask(ClaimKind::Queued { id: id(7), skip: Some(reason) });
    let cases: [(&str, Change, Verdict, Verdict); 6] = [
        ("free", |_| {}, Verdict::Run, Verdict::Skip(SkipReason::Expired)),
        (
            "runs",
            |slot| slot.running_since = Some(at(1)),
            Verdict::Defer,
            Verdict::Skip(SkipReason::Expired),
        ),
        (
            "may still be at work",
            |slot| slot.quarantined = true,
            Verdict::Defer,
            Verdict::Skip(SkipReason::Expired),
        ),
        (
            "paused",
            |slot| slot.paused = true,
            Verdict::Skip(SkipReason::Paused),
            Verdict::Skip(SkipReason::Expired),
        ),
        ("another waits", |slot| slot.queued = Some(id(8)), Verdict::Stale, Verdict::Stale),
        ("nothing waits", |slot| slot.queued = None, Verdict::Stale, Verdict::Stale),
    ];
    for (name, change, begins, ends) in cases {
        let slot = slot(|slot| {
            slot.queued = Some(id(7));
            change(slot);
        });
        assert_eq!(judge(&slot, &begin()), begins, "{name}");
        assert_eq!(judge(&slot, &give_up(SkipReason::Expired)), ends, "{name}");
    }
    let free = slot(|slot| slot.queued = Some(id(7)));
    assert_eq!(judge(&free, &give_up(SkipReason::Window)), Verdict::Skip(SkipReason::Window));
}

#[test]
fn a_pause_goes_before_the_slot_and_never_before_the_record() {
    for (in_database, here) in [(true, false), (false, true), (true, true)] {
        for running_since in [None, Some(at(105)), Some(at(111))] {
            let slot = slot(|slot| {
                (slot.paused, slot.running_since, slot.queued) =
                    (in_database, running_since, Some(id(7)));
            });
            let verdict = |wanted: &ClaimKind| {
                judge(&slot, &ClaimRequest { paused: here, ..ask(wanted.clone()) })
            };
            let [skip, queue, record, begin, give_up, rewind] = each_wanted();
            for wanted in [skip, queue, begin] {
                assert_eq!(verdict(&wanted), Verdict::Skip(SkipReason::Paused), "{wanted:?}");
            }
            assert_eq!(verdict(&give_up), Verdict::Skip(SkipReason::Expired));
            assert_eq!((verdict(&record), verdict(&rewind)), (Verdict::Record, Verdict::Record));
        }
    }
}

#[test]
fn reasons_and_kinds_are_as_the_schema_knows_them() {
    let reasons = [
        SkipReason::Overlap,
        SkipReason::Misfire,
        SkipReason::Paused,
        SkipReason::Window,
        SkipReason::Expired,
    ]
    .map(SkipReason::as_str);
    assert_eq!(reasons, ["overlap", "misfire", "paused", "window", "expired"]);
    assert_eq!([Cause::Scheduled, Cause::Chained].map(Cause::as_str), ["scheduled", "chained"]);
}

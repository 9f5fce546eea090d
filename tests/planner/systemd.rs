//! The oracle that others wrote: `systemd-analyze calendar`.
//!
//! What both can say: lists of seconds, minutes, hours, months, and either days or weekdays (both
//! in one line mean "either" to cron and "both" to systemd). Where clocks change they differ by
//! intent: systemd 252 leaves out a wall time that does not exist, and what it makes of one that
//! comes twice is up to mktime(3), which may take either. So instants within the size of a change
//! around it are left to `walk.rs`, and everything else must be the same. Now and then systemd loses
//! itself in a gap: it says nothing of that line ("Infinite loop in calendar calculation"), or ends
//! it there ("never").
//!
//! Needs systemd-analyze: apt-get install -y --no-install-recommends systemd

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use chrono::{DateTime, Duration, NaiveDateTime, TimeZone, Utc};
use fastrand::Rng;
use pgsteward::config::{Schedule, Zone};

use super::drawn::{Cron, Days, Field};
use super::zones::{Change, changes_everywhere, day, each};

const SEED: u64 = 0x5eed_0002;

/// Lines for each zone and change, asked in one process.
const LINES: usize = 6;
/// Instants for each line.
const ITERATIONS: usize = 40;

/// The line as systemd writes it; see systemd.time(7).
fn calendar(cron: &Cron) -> String {
    let list = |field: &Field| match field.is_star() {
        true => "*".to_owned(),
        false => field.numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
    };
    let mut text = String::new();
    if !cron.weekday.is_star() {
        let names = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
        let named: Vec<&str> =
            cron.weekday.numbers.iter().map(|number| names[*number as usize]).collect();
        write!(text, "{} ", named.join(",")).unwrap();
    }
    let [month, day, hour, minute, second] =
        [&cron.month, &cron.day, &cron.hour, &cron.minute, &cron.second].map(list);
    write!(text, "*-{month}-{day} {hour}:{minute}:{second}").unwrap();
    text
}

/// An instant, and what the wall clock showed.
type Shown = (DateTime<Utc>, NaiveDateTime);

/// The next instants of each expression; none where systemd loses itself.
fn ask(tz: Zone, base: DateTime<Utc>, expressions: &[String]) -> Vec<Vec<Shown>> {
    let output = Command::new("systemd-analyze")
        .args([
            "calendar",
            &format!("--iterations={ITERATIONS}"),
            &format!("--base-time=@{}", base.timestamp()),
        ])
        .args(expressions)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C")
        .env("TZ", tz.name())
        .output();
    let output = output.unwrap_or_else(|error| {
        panic!("systemd-analyze: {error}; install it: apt-get install -y --no-install-recommends systemd")
    });
    let said = String::from_utf8(output.stdout).unwrap();
    // An expression that it loses itself in is told of on stderr, and not at all on stdout.
    let complaints = String::from_utf8(output.stderr).unwrap();
    let is_lost = |expression: &&String| {
        complaints.contains(&format!(
            "Failed to determine next elapse for '{expression}': Resource deadlock avoided"
        ))
    };
    let lost = expressions.iter().filter(is_lost).count();
    assert!(output.status.success() == (lost == 0), "{expressions:?}: {complaints}");
    // "Sat 2026-03-28 02:30:00 CET", of which the name of the offset says nothing.
    let read = |text: &str| {
        let text: Vec<&str> = text.split_whitespace().skip(1).take(2).collect();
        NaiveDateTime::parse_from_str(&text.join(" "), "%F %T")
            .unwrap_or_else(|error| panic!("{text:?}: {error}"))
    };
    let mut found: Vec<Vec<Shown>> = Vec::new();
    let mut lines = said.lines().filter_map(|line| line.trim().split_once(": ")).peekable();
    while let Some((key, value)) = lines.next() {
        match key {
            "Normalized form" => found.push(Vec::new()),
            "Next elapse" if value == "never" => {}
            _ if key == "Next elapse" || key.starts_with("Iter. #") => {
                let wall = read(value);
                // Left out where mktime(3) takes the zone for UTC, as in Africa.
                let at = match lines.next_if(|(key, _)| *key == "(in UTC)") {
                    Some((_, value)) => Some(read(value).and_utc()),
                    None => {
                        tz.from_local_datetime(&wall).earliest().map(|at| at.with_timezone(&Utc))
                    }
                };
                found.last_mut().unwrap().extend(at.map(|at| (at, wall)));
            }
            _ => {}
        }
    }
    assert_eq!(found.len() + lost, expressions.len(), "{said}{complaints}");
    let mut found = found.into_iter();
    expressions
        .iter()
        .map(|expression| if is_lost(&expression) { Vec::new() } else { found.next().unwrap() })
        .collect()
}

/// What one zone came to.
enum Told {
    /// Instants beyond the change that were compared.
    Same(usize),
    /// systemd reads its clocks otherwise here than we do: other data, or none.
    OtherData,
}

/// Asks both for lines that begin shortly before a change.
fn compare(changes: &[Change], rng: &mut Rng, seed: u64) -> Told {
    let change = &changes[rng.usize(..changes.len())];
    let tz = change.tz;
    if !Path::new("/usr/share/zoneinfo").join(tz.name()).exists() {
        return Told::OtherData;
    }
    let base = change.at - Duration::minutes(rng.i64(0..5 * 24 * 60));
    let near = change.reading_before();
    let lines: Vec<Cron> = (0..LINES)
        .map(|_| {
            let six = rng.u8(0..4) == 0;
            Cron::draw(rng, near, six, Days::One)
        })
        .collect();
    let expressions: Vec<String> = lines.iter().map(calendar).collect();
    let answers = ask(tz, base, &expressions);
    let reads_otherwise = |(at, wall): &Shown| at.with_timezone(&tz).naive_local() != *wall;
    if answers.iter().flatten().any(reads_otherwise) {
        return Told::OtherData;
    }
    let mut compared = 0;
    for ((cron, expression), answer) in lines.iter().zip(&expressions).zip(answers) {
        let text = cron.text();
        let schedule = Schedule::parse(&text).unwrap();
        let Some((last, _)) = answer.last() else { continue };
        // Beyond this, no change is known here.
        let end = (*last).min(day("2028-01-01"));
        let is_clear = |at: &DateTime<Utc>| {
            changes.iter().all(|change| (*at - change.at).abs() > change.size())
        };
        let theirs: BTreeSet<DateTime<Utc>> =
            answer.into_iter().map(|(at, _)| at).filter(|at| *at <= end && is_clear(at)).collect();
        let mut ours = BTreeSet::new();
        let mut after = base;
        while let Some(next) = schedule.next_after(after, tz).filter(|next| *next <= end) {
            ours.insert(next);
            after = next;
        }
        ours.retain(is_clear);
        assert!(
            ours == theirs,
            "{text:?} in {tz} after {base} (seed {seed:#x}), of systemd {expression:?}:\n only ours {:?}\n only theirs {:?}",
            ours.difference(&theirs).collect::<Vec<_>>(),
            theirs.difference(&ours).collect::<Vec<_>>()
        );
        compared += ours.iter().filter(|at| **at > change.at).count();
    }
    Told::Same(compared)
}

#[test]
fn systemd_says_the_same_in_every_zone() {
    let mut zones: Vec<Vec<Change>> = Vec::new();
    for change in changes_everywhere() {
        match zones.last_mut() {
            Some(zone) if zone[0].tz == change.tz => zone.push(change),
            _ => zones.push(vec![change]),
        }
    }
    let other_data = Mutex::new(BTreeSet::new());
    let compared = each(&zones, |index, zone| {
        let seed = SEED + index;
        let mut rng = Rng::with_seed(seed);
        let told: Vec<Told> = (0..2).map(|_| compare(zone, &mut rng, seed)).collect();
        told.into_iter()
            .map(|told| match told {
                Told::Same(compared) => compared,
                Told::OtherData => {
                    other_data.lock().unwrap().insert(zone[0].tz.name());
                    0
                }
            })
            .sum()
    });
    // A release of the zones' data changes a few; a missing package of them is more.
    let other_data = other_data.into_inner().unwrap();
    assert!(
        other_data.len() <= zones.len() / 10,
        "the system knows these zones otherwise than we do, or not at all: {other_data:?}; \
         install them: apt-get install -y --no-install-recommends tzdata"
    );
    assert!(compared > 20_000, "{compared} instants are too few to tell");
}

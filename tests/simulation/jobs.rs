//! The jobs of the simulated world, as an operator writes them, and what each schedule means, said a
//! second time and differently: by a walk over wall clocks instead of the daemon's own arithmetic.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, Duration, NaiveTime, TimeZone, Timelike, Utc};
use pgsteward::config::load::load_or_default;
use pgsteward::config::{Args, Config, Zone};

/// How often the configuration of one job differs: `toggled`, and with it what it means.
pub const VARIANTS: usize = 3;

/// What a schedule means.
#[derive(Debug, Clone)]
pub enum Rule {
    /// Every so many seconds since 1970.
    Every(i64),
    /// At these times of the day, on these days of the week from Monday, by the wall clock: once at the
    /// end of the gap where clocks go forward, and at the first of two where they go back.
    Daily { hours: Vec<u32>, minutes: Vec<u32>, second: u32, days: [bool; 7] },
    /// In every hour at these minutes (multiples of five), whenever the wall clock shows them.
    Hourly { minutes: Vec<u32>, second: u32 },
}

const EVERY_DAY: [bool; 7] = [true; 7];
const WORKDAYS: [bool; 7] = [true, true, true, true, true, false, false];

fn named(zone: &str) -> Zone {
    Zone::named(zone).unwrap()
}

/// What goes by a schedule, in the variant of the configuration; `None` for a job that is disabled.
pub fn rules(variant: usize) -> BTreeMap<&'static str, Option<(Rule, Zone)>> {
    let daily = |hours: &[u32], minutes: &[u32], second, days| Rule::Daily {
        hours: hours.to_vec(),
        minutes: minutes.to_vec(),
        second,
        days,
    };
    let hourly = |minutes: &[u32], second| Rule::Hourly { minutes: minutes.to_vec(), second };
    let toggled = match variant {
        0 => Some((Rule::Every(35 * 60), Zone::UTC)),
        1 => Some((Rule::Every(55 * 60), Zone::UTC)),
        _ => None,
    };
    BTreeMap::from([
        ("ticks", Some((Rule::Every(15 * 60), Zone::UTC))),
        ("berlin", Some((daily(&[2], &[30], 0, EVERY_DAY), named("Europe/Berlin")))),
        (
            "office",
            Some((
                daily(&[9, 10, 11, 12, 13, 14, 15, 16, 17], &[0], 0, WORKDAYS),
                named("America/New_York"),
            )),
        ),
        ("howe", Some((hourly(&[15, 45], 0), named("Australia/Lord_Howe")))),
        ("casablanca", Some((daily(&[3], &[0], 30, EVERY_DAY), named("Africa/Casablanca")))),
        ("samoa", Some((daily(&[0], &[0], 0, EVERY_DAY), named("Pacific/Apia")))),
        (
            "nights",
            Some((
                daily(&[0, 1, 2, 3, 21, 22, 23], &[0, 20, 40], 0, EVERY_DAY),
                named("Europe/Berlin"),
            )),
        ),
        ("queued", Some((hourly(&[0, 30], 10), named("America/New_York")))),
        ("partitions", Some((hourly(&[0], 0), Zone::UTC))),
        ("toggled", toggled),
    ])
}

/// The configuration in a variant, read as the daemon reads it.
pub fn config(variant: usize, lease: i64) -> Config {
    let toggled = [
        "schedule = \"@every 35m\"",
        "schedule = \"@every 55m\"",
        "schedule = \"@every 35m\"\nenabled = false",
    ][variant];
    let text = format!(
        r#"
[jobs]
max_concurrent = 4
lease = "{lease}s"

[jobs.retention]
enabled = false
[jobs.vacuum]
enabled = false
[jobs.refresh]
enabled = false
[jobs.audit-seal]
enabled = false

[jobs.partitions]
schedule = "@hourly"
jitter = "20m"

[jobs.ticks]
sql = "SELECT 1"
schedule = "@every 15m"

[jobs.berlin]
sql = "SELECT 1"
schedule = "30 2 * * *"
timezone = "Europe/Berlin"
deadline = "6h"

[jobs.office]
sql = "SELECT 1"
schedule = "0 9-17 * * MON-FRI"
timezone = "America/New_York"
catch_up = "none"

[jobs.howe]
sql = "SELECT 1"
schedule = "15,45 * * * *"
timezone = "Australia/Lord_Howe"
overlap = "queue"
catch_up = "all"
catch_up_max = 12
deadline = "8h"

[jobs.casablanca]
sql = "SELECT 1"
schedule = "30 0 3 * * *"
timezone = "Africa/Casablanca"
catch_up = "all"
catch_up_max = 3

[jobs.samoa]
sql = "SELECT 1"
schedule = "@daily"
timezone = "Pacific/Apia"
jitter = "2h"

[jobs.nights]
sql = "SELECT 1"
schedule = "*/20 0-3,21-23 * * *"
timezone = "Europe/Berlin"
window = ["22:00-03:00"]
blackout = ["Sun 00:00-01:00"]

[jobs.queued]
sql = "SELECT 1"
schedule = "10 0,30 * * * *"
timezone = "America/New_York"
overlap = "queue"
jitter = "90s"

[jobs.toggled]
sql = "SELECT 1"
{toggled}

[jobs.chained]
sql = "SELECT 1"
after = ["berlin", "casablanca"]

[jobs.asked]
sql = "SELECT 1"
"#
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    let env =
        BTreeMap::from([("DATABASE_URL".to_owned(), "postgresql://steward@db/app".to_owned())]);
    let args = Args { path: Some(path.clone()), ..Args::default() };
    load_or_default(&args, &env, &path).unwrap_or_else(|problems| panic!("{problems}")).config
}

/// Whether a run may begin, by the windows of `nights`, by the wall clock of Berlin.
pub fn nights_are_open(at: DateTime<Utc>) -> bool {
    let wall = at.with_timezone(&named("Europe/Berlin"));
    let night = wall.hour() >= 22 || wall.hour() < 3;
    night && !(wall.weekday() == chrono::Weekday::Sun && wall.hour() == 0)
}

/// All instants of a schedule from one moment up to another.
pub fn instants(
    rule: &Rule,
    zone: Zone,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> BTreeSet<DateTime<Utc>> {
    let mut instants = BTreeSet::new();
    match rule {
        Rule::Every(seconds) => {
            let first = from.timestamp().div_euclid(*seconds) + 1;
            let all = (first..).map(|n| DateTime::from_timestamp(n * seconds, 0).unwrap());
            instants.extend(all.take_while(|at| *at <= to));
        }
        Rule::Hourly { minutes, second } => {
            // No zone here is off by other than multiples of five minutes.
            let mut at = from.with_minute(0).unwrap().with_second(0).unwrap();
            while at <= to {
                if minutes.contains(&at.with_timezone(&zone).minute()) {
                    instants.insert(at + Duration::seconds(i64::from(*second)));
                }
                at += Duration::minutes(5);
            }
        }
        Rule::Daily { hours, minutes, second, days } => {
            let days = from
                .date_naive()
                .iter_days()
                .take_while(|day| *day <= to.date_naive() + Duration::days(1))
                .filter(|day| days[day.weekday().num_days_from_monday() as usize]);
            for day in days {
                for (hour, minute) in
                    hours.iter().flat_map(|hour| minutes.iter().map(move |minute| (*hour, *minute)))
                {
                    instants.insert(first_at(
                        zone,
                        day,
                        NaiveTime::from_hms_opt(hour, minute, *second).unwrap(),
                    ));
                }
            }
        }
    }
    instants.retain(|at| *at > from && *at <= to);
    instants
}

/// The instant at which a wall clock shows a time first, or jumps over it.
fn first_at(zone: Zone, day: chrono::NaiveDate, time: NaiveTime) -> DateTime<Utc> {
    let mut reading = day.and_time(time);
    loop {
        if let Some(at) = zone.from_local_datetime(&reading).earliest() {
            return at.with_timezone(&Utc);
        }
        // A gap ends at a full minute.
        reading = reading.with_second(0).unwrap() + Duration::minutes(1);
    }
}

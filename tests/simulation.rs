//! Deterministic simulation: ten schedules in five zones over months and years, three instances, and a
//! database that goes, dawdles and loses its clock. The daemon's own decisions (`Agenda`, planner,
//! `judge`, lanes, configuration) run on virtual time against a ledger in memory; an oracle of its own
//! kind reads the ledger afterwards.
//!
//! `PGSTEWARD_SIMULATION_SEEDS=100..200` runs more months than the fixed ones.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "simulation/jobs.rs"]
mod jobs;
#[path = "simulation/ledger.rs"]
mod ledger;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/world.rs"]
mod world;

use ledger::Weakness;
use world::{DAY, HOUR, Plan, SECOND, World, at};

/// A month in spring or autumn, in which clocks change in most of the zones.
fn month(seed: u64) -> Plan {
    let begins = ["2026-02-14T12:00:00Z", "2026-03-15T12:00:00Z", "2026-10-03T00:00:00Z", "2011-12-10T00:00:00Z"];
    Plan {
        seed,
        begin: at(begins[seed as usize % begins.len()]),
        length: 30 * DAY,
        lease: 60 * SECOND,
        fault_every: 5 * HOUR,
        weakness: Weakness::None,
    }
}

fn year(seed: u64, begin: &str) -> Plan {
    Plan { begin: at(begin), length: 365 * DAY, lease: 300 * SECOND, fault_every: 2 * DAY, ..month(seed) }
}

#[track_caller]
fn holds(plan: Plan) -> World {
    let mut world = World::new(plan);
    world.run();
    if let Err(told) = world.verdict() {
        panic!("{told}");
    }
    world
}

#[test]
fn a_year_through_every_change_of_clocks() {
    holds(year(1, "2026-01-01T00:00:00Z"));
}

#[test]
fn a_year_in_which_samoa_lost_a_day() {
    holds(year(2, "2011-01-15T00:00:00Z"));
}

#[test]
fn months_full_of_faults() {
    for seed in 0..4 {
        holds(month(seed));
    }
}

#[test]
fn more_months_full_of_faults() {
    for seed in 4..8 {
        holds(month(seed));
    }
}

/// As many more as somebody has time for.
#[test]
fn months_that_were_asked_for() {
    let Ok(seeds) = std::env::var("PGSTEWARD_SIMULATION_SEEDS") else { return };
    let (first, last) = seeds.split_once("..").expect("PGSTEWARD_SIMULATION_SEEDS is FIRST..LAST");
    for seed in first.parse().expect("a number")..last.parse().expect("a number") {
        holds(month(seed));
    }
}

/// That the simulation holds would mean nothing if it held for any ledger.
#[test]
fn a_ledger_that_is_wrong_is_found_out() {
    for (weakness, said) in [
        (Weakness::ForgetsFloors, "times"),
        (Weakness::ForgetsEpochs, "effect"),
        (Weakness::NeverReaps, ""),
        (Weakness::IgnoresSlots, "two rows run"),
        (Weakness::LosesRanges, "0 times"),
        (Weakness::KeepsRanges, "2 times"),
        (Weakness::HidesAbove, "2 times"),
        (Weakness::NeverRewinds, "lies in the future"),
        (Weakness::RepeatsSuccesses, "chained: its turn"),
    ] {
        let found = (0..6).find_map(|seed| {
            let mut world = World::new(Plan { weakness, length: 15 * DAY, fault_every: 2 * HOUR, ..month(seed) });
            world.run();
            world.verdict().err().filter(|told| told.contains(said))
        });
        assert!(found.is_some(), "{weakness:?} is not found out");
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let story = |seed| {
        let world = holds(Plan { length: 5 * DAY, ..month(seed) });
        (world.faults, world.ledger.story, format!("{:?}", world.ledger.jobs))
    };
    assert_eq!(story(7), story(7));
}

//! Deterministic simulation: ten schedules in five zones over months and years, three instances, and a
//! database that goes, dawdles and loses its clock. The daemon's own decisions (`DueQueue`, planner,
//! `judge`, worker_slots, configuration) run on virtual time against a ledger in memory; an oracle of its own
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
    let begins = [
        "2026-02-14T12:00:00Z",
        "2026-03-15T12:00:00Z",
        "2026-10-03T00:00:00Z",
        "2011-12-10T00:00:00Z",
    ];
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
    Plan {
        begin: at(begin),
        length: 365 * DAY,
        lease: 300 * SECOND,
        fault_every: 2 * DAY,
        ..month(seed)
    }
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
fn months_full_of_faults_0() {
    for seed in [0, 1] {
        holds(month(seed));
    }
}

#[test]
fn months_full_of_faults_1() {
    for seed in [2, 3] {
        holds(month(seed));
    }
}

#[test]
fn months_full_of_faults_2() {
    for seed in [4, 5] {
        holds(month(seed));
    }
}

#[test]
fn months_full_of_faults_3() {
    for seed in [6, 7] {
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

/// That the simulation holds would mean nothing if it held for any ledger: this one is found out.
#[track_caller]
fn is_found_out(weakness: Weakness, said: &str) {
    let found = (0..20).any(|seed| {
        let mut world =
            World::new(Plan { weakness, length: 10 * DAY, fault_every: HOUR, ..month(seed) });
        world.run();
        world.verdict().is_err_and(|told| told.contains(said))
    });
    assert!(found, "{weakness:?} is not found out");
}

#[test]
fn it_matters_that_plans_are_checked_against_the_floor() {
    is_found_out(Weakness::ForgetsFloors, "times");
}

#[test]
fn it_matters_that_runs_are_checked_against_their_epoch() {
    is_found_out(Weakness::ForgetsEpochs, "effect");
}

#[test]
fn it_matters_that_lost_runs_are_ended() {
    is_found_out(Weakness::NeverReaps, "without a lease");
}

#[test]
fn it_matters_that_a_slot_is_for_one_run() {
    is_found_out(Weakness::IgnoresSlots, "two rows run");
}

#[test]
fn it_matters_that_what_is_skipped_has_a_row() {
    is_found_out(Weakness::LosesRanges, "0 times");
}

#[test]
fn it_matters_that_ranges_go_back_with_the_clock() {
    is_found_out(Weakness::KeepsRanges, "2 times");
}

#[test]
fn it_matters_that_rows_above_the_floor_are_known() {
    is_found_out(Weakness::HidesAbove, "2 times");
}

#[test]
fn it_matters_that_floors_go_back_with_the_clock() {
    is_found_out(Weakness::NeverRewinds, "lies in the future");
}

#[test]
fn it_matters_that_a_success_counts_once_for_its_followers() {
    is_found_out(Weakness::RepeatsSuccesses, "chained: its turn");
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let story = |seed| {
        let world = holds(Plan { length: 5 * DAY, ..month(seed) });
        (world.faults, world.ledger.story, format!("{:?}", world.ledger.jobs))
    };
    assert_eq!(story(7), story(7));
}

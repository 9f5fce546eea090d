//! With the database down, or without pgsteward's tables.

use crate::harness::{Setup, Template, TestDatabase};
use crate::{JOBS, job};

#[tokio::test]
async fn without_the_database_the_plan_is_told_and_that_it_is_no_more() {
    let setup = Setup::new().database("postgresql://u:p@127.0.0.1:9/d").config(JOBS);
    let said = job(&setup, &["list"]);
    assert_eq!(said.code, Some(69), "{said:?}");
    assert!(said.err.contains("the ledger cannot be read, this is the plan alone"), "{said:?}");
    assert!(
        said.out.contains("retention")
            && said.out.contains("CE")
            && said.out.contains("on request"),
        "{said:?}"
    );
    let said = job(&setup, &["list", "--json"]);
    assert_eq!(said.code, Some(69), "{said:?}");
    let listed = said.json();
    assert!(listed["ledger_error"].as_str().is_some());
    let retention =
        listed["jobs"].as_array().unwrap().iter().find(|job| job["name"] == "retention").unwrap();
    assert_eq!(retention["next"].as_array().unwrap().len(), 5);
    for arguments in [
        &["run", "quick"][..],
        &["run", "quick", "--wait"],
        &["run", "quick", "--here"],
        &["history", "quick"],
        &["pause", "quick"],
        &["resume", "--all"],
        &["cancel", "01930000-0001-7000-8000-000000000000"],
        &["cancel", "01930000"],
    ] {
        job(&setup, arguments).refused(69, &["database main: "]);
    }
}

#[tokio::test]
async fn without_the_tables_it_is_said_what_makes_them() {
    let database = TestDatabase::create(Template::Empty).await;
    let setup = Setup::new().database(&database.url()).config(JOBS);
    let said = job(&setup, &["list"]);
    assert_eq!(said.code, Some(69), "{said:?}");
    assert!(
        said.err.contains("pgsteward migrate up") && said.out.contains("retention"),
        "{said:?}"
    );
    for arguments in [
        &["run", "quick"][..],
        &["run", "quick", "--wait"],
        &["run", "quick", "--here"],
        &["history", "quick"],
        &["pause", "quick"],
        &["resume", "quick"],
        &["cancel", "01930000-0001-7000-8000-000000000000"],
    ] {
        job(&setup, arguments).refused(69, &["pgsteward migrate up"]);
    }
}

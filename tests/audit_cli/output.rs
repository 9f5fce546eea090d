//! `--output`: a file that appears when it is whole, and replaces nothing unasked.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::Trail;
use crate::harness::{BOUND, wait_until};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_file_appears_when_it_is_whole() {
    let trail = Trail::new().await;
    trail.fill(50).await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("trail.ndjson");
    // An export that was killed left this.
    fs::write(folder.path().join("trail.ndjson.partial"), "x".repeat(100_000)).unwrap();

    trail
        .client
        .batch_execute("BEGIN; LOCK TABLE steward.audit_logs IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let mut child = trail.start(&["export", "--output", target.to_str().unwrap()]);
    let partial = folder.path().join("trail.ndjson.partial");
    wait_until("it is begun", BOUND, async || partial.metadata().unwrap().len() == 0).await;
    assert_eq!(names(folder.path()), ["trail.ndjson.partial"]);
    let other = trail.audit(&["export", "--output", target.to_str().unwrap()]);
    other.refused(64, &["another export writes it"]);
    trail.client.batch_execute("ROLLBACK").await.unwrap();
    wait_until("it ends", BOUND, async || child.try_wait().unwrap().is_some()).await;
    assert_eq!(child.wait().unwrap().code(), Some(0));

    assert_eq!(names(folder.path()), ["trail.ndjson"]);
    assert_eq!(fs::read_to_string(&target).unwrap(), trail.audit(&["export"]).succeeded().out);
}

#[tokio::test]
async fn nothing_is_replaced_unasked() {
    let trail = Trail::new().await;
    trail.fill(5).await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("trail.csv");
    let path = target.to_str().unwrap();
    let export = |arguments: &[&str]| {
        trail.audit(&[&["export", "--format", "csv", "--output"], arguments].concat())
    };

    let said = export(&[path]).succeeded();
    assert!(said.out.is_empty() && said.err.contains("5 events exported"), "{said:?}");
    assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&target, "mine").unwrap();
    export(&[path]).refused(64, &["exists", "--force"]);
    assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
    export(&[path, "--force"]).succeeded();
    assert_eq!(
        fs::read_to_string(&target).unwrap(),
        trail.audit(&["export", "--format", "csv"]).succeeded().out
    );
    assert_eq!(names(folder.path()), ["trail.csv"]);

    export(&[folder.path().to_str().unwrap(), "--force"]).refused(64, &["is no file"]);
    std::os::unix::fs::symlink("/dev/null", folder.path().join("link")).unwrap();
    for device in ["/dev/null", folder.path().join("link").to_str().unwrap()] {
        export(&[device, "--force"]).refused(64, &["is no file"]);
    }
    let elsewhere = folder.path().join("elsewhere");
    fs::write(&elsewhere, "not ours").unwrap();
    std::os::unix::fs::symlink(&elsewhere, folder.path().join("new.csv.partial")).unwrap();
    assert_eq!(
        export(&[folder.path().join("new.csv").to_str().unwrap()]).code,
        Some(64),
        "a link is not followed"
    );
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "not ours");
    export(&[folder.path().join("none/trail.csv").to_str().unwrap()])
        .refused(64, &["No such file"]);
    export(&["/"]).refused(64, &["wanted the name of a file"]);
}

#[tokio::test]
async fn what_fails_leaves_nothing_behind() {
    let trail = Trail::new().await;
    trail.fill(5).await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("trail.ndjson");
    fs::write(&target, "former").unwrap();
    let held = "BEGIN; LOCK TABLE steward.audit_logs IN ACCESS EXCLUSIVE MODE";
    trail.client.batch_execute(held).await.unwrap();
    trail
        .audit(&["export", "--force", "--output", target.to_str().unwrap()])
        .refused(69, &["read events"]);
    assert_eq!(names(folder.path()), ["trail.ndjson"]);
    assert_eq!(fs::read_to_string(&target).unwrap(), "former");

    // A disk that is full.
    trail.client.batch_execute("ROLLBACK").await.unwrap();
    let full = trail.setup.clone().shell("exec > /dev/full");
    let said = crate::Said::of(full.command(&["audit", "export"]));
    said.refused(69, &["write the export", "No space left"]);
}

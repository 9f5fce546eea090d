//! Proofs, checked by a script that shares no code with pgsteward.

use std::io::Write as _;
use std::process::{Command, Stdio};

use pgsteward::audit::prove::{Proof, ProofResult};

use crate::fixture::AuditFixture;

async fn proven(fixture: &AuditFixture, n: u32, to: Option<i64>) -> Proof {
    match fixture.prove(fixture.id(n).await, to).await {
        ProofResult::Proven(proof) => *proof,
        other => panic!("{n}: {other:?}"),
    }
}

#[tokio::test]
async fn a_proof_is_checked_by_an_independent_script_and_survives_the_row() {
    let fixture = AuditFixture::new().await;
    let mut last = 0;
    for rows in [1, 2, 3, 7, 8] {
        fixture.log(last + 1, last + rows).await;
        last += rows;
        fixture.seal().await;
    }
    fixture.sql("SELECT steward.log_audit_event('ü', user_id => 'u99', new_values => '{\"Größe\": 1.50, \"b\": null}', ip_address => '2001:db8::1', request_id => '')").await;
    fixture.seal().await;
    for n in (1..=last).chain([99]) {
        let proof = proven(&fixture, n, None).await;
        assert_eq!(check(&proof, &proof.head), Ok(()), "{n}");
    }
    // A proof for the newest head includes the entries between.
    let proof = proven(&fixture, 2, Some(1000)).await;
    let newest = proof.then.last().unwrap().head.clone();
    assert!(newest.starts_with("6:"), "{newest}");
    assert_eq!(check(&proof, &newest), Ok(()));
    assert_eq!(check(&proof, &proof.head), Ok(()));

    // No altered proof is accepted.
    let wrong = |change: fn(&mut Proof)| {
        let mut wrong = proof.clone();
        change(&mut wrong);
        assert!(check(&wrong, &newest).is_err(), "{wrong:?}");
    };
    wrong(|proof| proof.row[2] = Some("u3".into()));
    wrong(|proof| proof.row[5] = None);
    wrong(|proof| proof.index += 1);
    wrong(|proof| proof.size += 1);
    wrong(|proof| proof.path[0] = "00".repeat(32));
    wrong(|proof| proof.entry[7] = Some("9".into()));
    wrong(|proof| drop(proof.then.remove(0)));
    assert!(check(&proof, &format!("6:{}", "ab".repeat(32))).is_err());

    // The proof needs only the head, so it remains valid when the row is gone.
    fixture.sql("TRUNCATE steward.audit_logs").await;
    assert_eq!(check(&proof, &newest), Ok(()));
    assert_eq!(
        fixture.prove(proof.row[0].as_ref().unwrap().parse().unwrap(), None).await,
        ProofResult::NoRow
    );
}

#[tokio::test]
async fn a_row_that_is_not_sealed_or_was_altered_has_no_proof() {
    let fixture = AuditFixture::new().await;
    fixture.log(1, 3).await;
    let id = fixture.id(2).await;
    assert_eq!(fixture.prove(id, None).await, ProofResult::Unsealed);
    assert_eq!(fixture.prove(uuid::Uuid::now_v7(), None).await, ProofResult::NoRow);
    fixture.seal().await;
    assert!(matches!(fixture.prove(id, None).await, ProofResult::Proven(_)));
    fixture.sql(&format!("UPDATE steward.audit_logs SET actor = 'x' WHERE id = '{id}'")).await;
    assert_eq!(fixture.prove(id, None).await, ProofResult::Refuted { entry: 1 });
}

/// Runs the script that is released with pgsteward.
fn check(proof: &Proof, head: &str) -> Result<(), String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/check-proof.py");
    let mut child = Command::new("python3")
        .args([script, "-", head])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 is there: scripts/install-deps.sh test");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(serde_json::to_string(proof).unwrap().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

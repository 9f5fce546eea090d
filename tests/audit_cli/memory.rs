//! An export holds a page, however long the trail is.

use std::time::{Duration, Instant};

use crate::Trail;

/// Of the unoptimised build, in KiB.
const MOST_KIB: u64 = 40 * 1024;
const GROWTH_KIB: u64 = 6 * 1024;

/// The most that a process held until it ended, in KiB, and how it ended.
async fn most(trail: &Trail, arguments: &[&str]) -> (u64, Option<i32>) {
    let mut child = trail.start(arguments);
    let (status, started) = (format!("/proc/{}/status", child.id()), Instant::now());
    let mut most = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let peak = text
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        most = most.max(peak.unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            return (most, status.code());
        }
        assert!(started.elapsed() < Duration::from_secs(120), "the export takes too long");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn ten_times_the_events_take_the_same_memory() {
    let trail = Trail::new().await;
    let folder = tempfile::tempdir().unwrap();
    let mut peaks = Vec::new();
    for (more, all) in [(10_000, 10_000), (90_000, 100_000)] {
        trail.fill(more).await;
        let file = folder.path().join(format!("{all}.ndjson"));
        let (peak, code) = most(&trail, &["export", "--output", file.to_str().unwrap()]).await;
        assert_eq!(code, Some(0));
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), all);
        peaks.push(peak);
    }
    assert!(peaks[0] > 1024 && peaks[1] < MOST_KIB, "{peaks:?}");
    assert!(peaks[1] < peaks[0] + GROWTH_KIB, "{peaks:?}");
}

#[tokio::test]
async fn large_events_take_no_more() {
    let trail = Trail::new().await;
    // 600 of some 190 KB, after many small ones: a page that was asked for by those would hold them all.
    let sql = "
        INSERT INTO steward.audit_logs (created_at, source, action, details)
        SELECT timestamptz '2026-11-01Z', 'application', 'small', NULL::jsonb FROM generate_series(1, 10000)
        UNION ALL
        SELECT timestamptz '2026-11-02Z', 'application', 'large', jsonb_build_object('text', repeat('0123456789abcdef', 12000))
          FROM generate_series(1, 600)";
    trail.client.batch_execute(sql).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large.ndjson");
    let (peak, code) = most(&trail, &["export", "--output", file.to_str().unwrap()]).await;
    assert_eq!(code, Some(0));
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(written.lines().count(), 10_600);
    assert!(
        written.len() > 100_000_000 && peak < MOST_KIB,
        "{peak} KiB for {} bytes",
        written.len()
    );
}

//! The queue against everything that can happen to its files.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;

use super::*;

const LIMITS: Limits = Limits { max_bytes: 64 * 1024, max_age: Duration::from_secs(7 * 86_400) };
const ALL: usize = 1_000_000;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 250_000_000).unwrap()
}

/// Bodies of different lengths, each its own.
fn record(number: i64) -> Record {
    let table = if number % 5 == 4 { Table::ConnectionMetrics } else { Table::SystemHealth };
    let filler = "é".repeat(usize::try_from(number.rem_euclid(7)).unwrap());
    Record {
        at: at(number),
        table,
        body: format!("{{\"n\":{number},\"filler\":\"{filler}\"}}").into_bytes(),
    }
}

fn filled(dir: &Path, numbers: std::ops::Range<i64>, limits: Limits) -> Spool {
    let mut spool = Spool::open(Some(dir), "main", limits);
    numbers.for_each(|number| spool.append(record(number)));
    spool
}

/// Takes everything, as a replay does: a few at a time of each table. Returns it in the order of
/// time.
fn drain(spool: &mut Spool) -> Vec<Record> {
    let mut all = Vec::new();
    for table in Table::ALL {
        let taken = drain_table(spool, table);
        assert!(taken.is_sorted_by_key(|record| record.at), "{taken:?}");
        all.extend(taken);
    }
    all.sort_by_key(|record| record.at);
    all
}

fn drain_table(spool: &mut Spool, table: Table) -> Vec<Record> {
    let mut all = Vec::new();
    loop {
        let some = spool.peek(table, 7, ALL);
        if some.is_empty() {
            return all;
        }
        spool.settle(some.len());
        all.extend(some);
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let folder = fs::read_dir(dir.join("spool/main")).unwrap();
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "spool"));
    files.sort();
    files
}

fn drops(spool: &mut Spool, reason: Reason) -> u64 {
    spool
        .take_drops()
        .into_iter()
        .filter(|(_, found, _)| *found == reason)
        .map(|(_, _, count)| count)
        .sum()
}

/// What a spool holds after its files were changed: each record once and in order, and every one of
/// those that must have survived.
fn expect_sound(dir: &Path, written: &[Record], survive: impl Fn(usize) -> bool, what: &str) {
    let mut spool = Spool::open(Some(dir), "main", LIMITS);
    let depth = spool.depth();
    let found = drain(&mut spool);
    assert_eq!(depth.records(), found.len() as u64, "{what}");
    let mut places = Vec::new();
    for record in &found {
        let place = written.iter().position(|one| one == record);
        places.push(place.unwrap_or_else(|| panic!("{what}: never written: {record:?}")));
    }
    assert!(places.is_sorted_by(|a, b| a < b), "{what}: {places:?}");
    let missing: Vec<usize> =
        (0..written.len()).filter(|n| survive(*n) && !places.contains(n)).collect();
    assert!(missing.is_empty(), "{what}: lost {missing:?}, found {places:?}");
    assert_eq!(spool.depth(), Depth::default(), "{what}");
    assert_eq!(segments(dir), Vec::<PathBuf>::new(), "{what}: what is settled is gone");
    // It is usable after that.
    spool.append(record(-1));
    assert_eq!(spool.place(), Place::Folder(dir.join("spool/main")), "{what}");
    assert_eq!(drain(&mut spool), [record(-1)], "{what}");
}

/// Segments of a few records each: the records, the files, and for each record its file and last
/// byte.
type Segments = (Vec<Record>, Vec<Vec<u8>>, Vec<(usize, usize)>);

fn several_segments(dir: &Path) -> Segments {
    // A span of a segment is a sixteenth of the age: 12 seconds are a dozen records here.
    let limits = Limits { max_age: Duration::from_secs(192), ..LIMITS };
    drop(filled(dir, 0..40, limits));
    let files: Vec<Vec<u8>> = segments(dir).iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(files.len(), 4);
    let (mut records, mut ends) = (Vec::new(), Vec::new());
    for (number, file) in files.iter().enumerate() {
        for (end, piece) in record::Pieces::new(file, 0) {
            let record::Piece::Record(record) = piece else {
                panic!("damage in what was just written")
            };
            records.push(record);
            ends.push((number, end));
        }
    }
    assert_eq!(records, (0..40).map(record).collect::<Vec<_>>());
    (records, files, ends)
}

fn lay_out(dir: &Path, files: &[Vec<u8>]) {
    let folder = dir.join("spool/main");
    fs::create_dir_all(&folder).unwrap();
    for (number, bytes) in files.iter().enumerate() {
        fs::write(folder.join(format!("{:020}.spool", number + 1)), bytes).unwrap();
    }
}

#[test]
fn a_spool_gives_back_what_it_took_also_to_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = filled(dir.path(), 0..20, LIMITS);
    let mut peek = |records, bytes| spool.peek(Table::SystemHealth, records, bytes);
    let first = peek(8, ALL);
    assert_eq!(first, [0, 1, 2, 3, 5, 6, 7, 8].map(record));
    assert_eq!(peek(8, ALL), first, "what is not settled comes again");
    spool.settle(3);
    let mut peek = |records, bytes| spool.peek(Table::SystemHealth, records, bytes);
    assert_eq!(peek(2, ALL), [record(3), record(5)]);
    let bytes = record(3).size() + record(5).size();
    assert_eq!(peek(100, bytes), [record(3), record(5)]);
    assert_eq!(peek(100, 1), [record(3)], "one at least, or nothing would ever go on");
    assert_eq!((spool.depth().records(), spool.depth().oldest), (17, Some(at(0))));
    drop(spool);

    // How far a segment was settled is not kept: its rows are refused by their keys.
    let mut spool = Spool::open(Some(dir.path()), "main", LIMITS);
    spool.append(record(20));
    assert_eq!(drain(&mut spool), (0..21).map(record).collect::<Vec<_>>());
    assert_eq!(spool.take_drops(), []);

    let folder = dir.path().join("spool/main");
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    spool.append(record(21));
    assert_eq!(fs::metadata(&segments(dir.path())[0]).unwrap().permissions().mode() & 0o777, 0o600);
}

/// On disk and in memory. Samples are every fifth record.
#[test]
fn a_table_that_waits_holds_up_no_other() {
    let limits = Limits { max_age: Duration::from_secs(192), ..LIMITS };
    for dir in [Some(tempfile::tempdir().unwrap()), None] {
        let path = dir.as_ref().map(tempfile::TempDir::path);
        let mut spool = Spool::open(path, "main", limits);
        (0..40).for_each(|number| spool.append(record(number)));
        assert_eq!(spool.depth().tables, [32, 8, 0]);
        assert_eq!(drain_table(&mut spool, Table::SystemHealth).len(), 32);
        assert_eq!(spool.depth().tables, [0, 8, 0]);
        (40..45).for_each(|number| spool.append(record(number)));
        assert_eq!(spool.depth().tables, [4, 9, 0]);
        let waits: Vec<Record> =
            (0..45).filter(|number| number % 5 == 4 || *number >= 40).map(record).collect();
        assert_eq!(spool.newest(ALL), waits, "what is settled is not shown");
        assert_eq!(drain(&mut spool), waits);
        assert_eq!(spool.depth(), Depth::default());
        assert_eq!(spool.take_drops(), []);
        assert!(path.is_none_or(|path| segments(path).is_empty()));
    }
}

#[test]
fn a_table_that_waits_does_not_let_the_spool_outgrow_its_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(Some(dir.path()), "main", LIMITS);
    let large = |number| Record { body: vec![b'x'; 900], ..record(number) };
    for number in 0..500 {
        spool.append(large(number));
        drain_table(&mut spool, Table::SystemHealth);
        assert!(spool.depth().bytes <= LIMITS.max_bytes as u64);
    }
    let [health, samples, _] = spool.depth().tables;
    let dropped = spool.take_drops();
    assert_eq!(dropped, [(Some(Table::ConnectionMetrics), Reason::Full, 100 - samples)]);
    assert_eq!((health, drain(&mut spool).len() as u64), (0, samples));
}

#[test]
fn a_file_cut_at_any_byte_costs_only_what_was_cut() {
    let origin = tempfile::tempdir().unwrap();
    let (written, files, ends) = several_segments(origin.path());
    for cut_file in [0, 2, 3] {
        for length in 0..files[cut_file].len() {
            let dir = tempfile::tempdir().unwrap();
            let mut cut = files.clone();
            cut[cut_file].truncate(length);
            lay_out(dir.path(), &cut);
            let whole = |n: usize| ends[n].0 != cut_file || ends[n].1 <= length;
            expect_sound(
                dir.path(),
                &written,
                whole,
                &format!("file {cut_file} cut to {length} bytes"),
            );
        }
    }
}

#[test]
fn a_flipped_bit_at_any_byte_costs_only_the_record_it_is_in() {
    let origin = tempfile::tempdir().unwrap();
    let (written, files, ends) = several_segments(origin.path());
    for (flipped_file, file) in files.iter().enumerate().skip(1).step_by(2) {
        for byte in 0..file.len() {
            let dir = tempfile::tempdir().unwrap();
            let mut flipped = files.clone();
            flipped[flipped_file][byte] ^= 1 << (byte % 8);
            lay_out(dir.path(), &flipped);
            let hit = (0..written.len()).find(|n| ends[*n].0 == flipped_file && byte < ends[*n].1);
            let what = format!("file {flipped_file}, byte {byte}");
            expect_sound(dir.path(), &written, |n| Some(n) != hit, &what);
        }
    }
}

#[test]
fn rubbish_is_counted_once_and_never_believed() {
    let origin = tempfile::tempdir().unwrap();
    let (written, files, _) = several_segments(origin.path());
    let dir = tempfile::tempdir().unwrap();
    let mut files = files;
    // Between whole records; in place of a file; and a length that would reach beyond everything.
    let first = written[0].size();
    files[0].splice(first..first, (0..5_000_u32).map(|n| (n * 31 % 251) as u8));
    files[1] = vec![0; 3_000];
    let mut huge = written[0].encode();
    huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    files[3].extend(huge);
    lay_out(dir.path(), &files);
    fs::write(dir.path().join("spool/main/notes.txt"), "not ours").unwrap();
    let mut spool = Spool::open(Some(dir.path()), "main", LIMITS);
    let lost: Vec<_> = spool.take_drops();
    assert_eq!(lost, [(None, Reason::Damaged, 3)]);
    drop(spool);
    expect_sound(dir.path(), &written, |n| !(13..26).contains(&n), "rubbish");
    assert!(dir.path().join("spool/main/notes.txt").exists());
}

#[test]
fn damage_that_comes_while_it_runs_is_counted_and_passed() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { max_age: Duration::from_secs(192), ..LIMITS };
    let mut spool = filled(dir.path(), 0..40, limits);
    let files = segments(dir.path());
    fs::write(&files[0], "").unwrap();
    fs::remove_file(&files[1]).unwrap();
    let found = drain(&mut spool);
    assert_eq!(found, (26..40).map(record).collect::<Vec<_>>());
    let lost: u64 = spool.take_drops().iter().map(|(_, _, records)| records).sum();
    assert_eq!(lost, 26);
}

#[test]
fn no_more_is_kept_than_fits_the_oldest_go_and_are_counted_by_table() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(Some(dir.path()), "main", LIMITS);
    let large = |number| Record { body: vec![b'x'; 900], ..record(number) };
    for number in 0..200 {
        spool.append(large(number));
        let on_disk: u64 =
            segments(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(on_disk <= LIMITS.max_bytes as u64, "{on_disk}");
        assert_eq!(spool.depth().bytes, on_disk);
    }
    let dropped = spool.take_drops();
    let found = drain(&mut spool);
    let count = found.len() as i64;
    assert!(count > 50, "at most a sixteenth is dropped at a time: {count}");
    assert_eq!(found, (200 - count..200).map(large).collect::<Vec<_>>(), "the newest stay");
    let samples = (0..200 - count)
        .filter(|number| record(*number).table == Table::ConnectionMetrics)
        .count() as u64;
    let expected = [
        (Some(Table::SystemHealth), Reason::Full, 200 - found.len() as u64 - samples),
        (Some(Table::ConnectionMetrics), Reason::Full, samples),
    ];
    assert_eq!(dropped, expected);

    // One that would drive out all others is not taken.
    spool.append(record(1));
    spool.append(Record { body: vec![b'x'; 40 * 1024], ..record(2) });
    assert_eq!(drops(&mut spool, Reason::Full), 1);
    assert_eq!(drain(&mut spool), [record(1)]);
}

#[test]
fn memory_is_bounded_too() {
    let mut spool = Spool::open(None, "main", Limits { max_bytes: 1 << 30, ..LIMITS });
    assert_eq!(spool.place(), Place::Memory);
    let large = |number| Record { body: vec![b'x'; 100 * 1024], ..record(number) };
    (0..30).for_each(|number| spool.append(large(number)));
    assert!(spool.depth().bytes <= MEMORY_MAX_BYTES as u64);
    assert_eq!(drops(&mut spool, Reason::Full), 20);
    let first = spool.peek(Table::SystemHealth, 1, ALL);
    assert_eq!(first, [large(20)]);
    // What is dropped between a look and its end is not settled a second time.
    spool.append(large(30));
    spool.settle(1);
    assert_eq!(drain(&mut spool), (21..31).map(large).collect::<Vec<_>>());
}

#[test]
fn what_is_too_old_goes_a_sixteenth_of_the_age_late_at_most() {
    for dir in [Some(tempfile::tempdir().unwrap()), None] {
        let limits = Limits { max_age: Duration::from_secs(1_600), ..LIMITS };
        let mut spool = Spool::open(dir.as_ref().map(tempfile::TempDir::path), "main", limits);
        (0..200).for_each(|number| spool.append(Record { at: at(number * 10), ..record(number) }));
        spool.expire(at(2_000));
        let dropped = drops(&mut spool, Reason::Age);
        let left = drain(&mut spool);
        assert_eq!(dropped + left.len() as u64, 200);
        assert!(left[0].at >= at(300) && left[0].at <= at(400), "{:?}", left[0].at);
        assert_eq!(left.last().map(|record| record.at), Some(at(1_990)));
    }
}

#[test]
fn a_second_process_keeps_in_memory_until_the_folder_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = filled(dir.path(), 0..3, LIMITS);
    let mut second = Spool::open(Some(dir.path()), "main", LIMITS);
    assert_eq!(second.place(), Place::Memory);
    assert_eq!(second.depth(), Depth::default(), "what another process has is not shown");
    (10..13).for_each(|number| second.append(record(number)));
    assert_eq!(drain(&mut first).len(), 3, "the first one is not disturbed");
    // Another target's folder is another.
    assert_ne!(Spool::open(Some(dir.path()), "other", LIMITS).place(), Place::Memory);

    (3..5).for_each(|number| first.append(record(number)));
    second.retry_disk();
    assert_eq!(second.place(), Place::Memory);
    drop(first);
    second.retry_disk();
    assert_eq!(second.place(), Place::Folder(dir.path().join("spool/main")));
    assert_eq!(second.in_memory(), 0);
    let numbers = [3, 4, 10, 11, 12];
    assert_eq!(drain(&mut second), numbers.map(record));
}

#[test]
fn a_full_disk_sends_what_comes_next_into_memory_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = filled(dir.path(), 0..3, LIMITS);
    // A device that answers each write with "no space left on device".
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    spool.disk.as_mut().unwrap().replace_active(full);
    (3..6).for_each(|number| spool.append(record(number)));
    assert_eq!((spool.place(), spool.in_memory()), (Place::Memory, 3));
    assert_eq!(spool.depth().records(), 6);
    let looked = spool.peek(Table::SystemHealth, 100, ALL);
    assert_eq!(looked, (0..3).map(record).collect::<Vec<_>>(), "what is on the disk is older");
    spool.settle(1);

    spool.retry_disk();
    assert_eq!(
        (spool.place(), spool.in_memory()),
        (Place::Folder(dir.path().join("spool/main")), 0)
    );
    spool.append(record(6));
    assert_eq!(drain(&mut spool), (1..7).map(record).collect::<Vec<_>>());
    assert_eq!(spool.take_drops(), []);
}

#[test]
fn a_folder_that_is_taken_away_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = filled(dir.path(), 0..3, LIMITS);
    fs::remove_dir_all(dir.path().join("spool")).unwrap();
    spool.append(record(3));
    assert_eq!((spool.place(), spool.in_memory()), (Place::Memory, 1));
    spool.retry_disk();
    assert_eq!(spool.place(), Place::Folder(dir.path().join("spool/main")));
    assert_eq!(drops(&mut spool, Reason::Disk), 3);
    assert_eq!(drain(&mut spool), [record(3)]);
    assert_ne!(
        Spool::open(Some(dir.path()), "main", LIMITS).place(),
        spool.place(),
        "it is locked again"
    );
}

#[test]
fn a_path_that_can_be_no_folder_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    // As root too, where permissions stop nobody.
    fs::write(dir.path().join("spool"), "a file").unwrap();
    let mut spool = filled(dir.path(), 0..3, LIMITS);
    assert_eq!(spool.place(), Place::Memory);
    fs::remove_file(dir.path().join("spool")).unwrap();
    spool.retry_disk();
    assert_eq!(spool.place(), Place::Folder(dir.path().join("spool/main")));
    assert_eq!(drain(&mut spool), (0..3).map(record).collect::<Vec<_>>());
}

#[test]
fn the_newest_are_looked_at_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = filled(dir.path(), 0..1000, LIMITS);
    assert!(segments(dir.path()).len() > 3);
    let whole = spool.depth();
    let newest = spool.newest(8 * 1024);
    assert!(newest.len() > 50, "{}", newest.len());
    assert!(newest.iter().map(Record::size).sum::<usize>() <= 8 * 1024);
    let first = 1000 - i64::try_from(newest.len()).unwrap();
    assert_eq!(newest, (first..1000).map(record).collect::<Vec<_>>());
    assert_eq!(spool.depth(), whole);
    assert_eq!(spool.newest(ALL), drain(&mut spool), "all that waits, in order");
    assert!(spool.newest(ALL).is_empty());

    // Of one instant all or none.
    let mut spool = Spool::open(None, "main", LIMITS);
    for number in 0..100 {
        spool.append(Record { at: at(number / 10), ..record(number) });
    }
    let newest = spool.newest(2_000);
    assert!(!newest.is_empty() && newest.len().is_multiple_of(10), "{}", newest.len());
}

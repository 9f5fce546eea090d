//! What the kernel knows of a process.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

/// USER_HZ, in which `/proc` counts: 100 wherever Rust and PostgreSQL run on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Where the parts of a process' memory come from. In KiB, of what is resident.
#[derive(Debug)]
pub struct Memory {
    pub resident: u64,
    pub anonymous: u64,
    parts: BTreeMap<&'static str, (u64, u64)>,
    threads: u64,
}

impl Memory {
    pub fn of(pid: u32) -> Memory {
        let status = read(pid, "status");
        Memory {
            resident: field(&status, "VmRSS:"),
            anonymous: field(&status, "RssAnon:"),
            parts: parts(&read(pid, "smaps")),
            threads: field(&status, "Threads:"),
        }
    }

    /// The parts, the largest first, as `part resident/anonymous`.
    pub fn made_of(&self) -> String {
        let mut parts: Vec<_> =
            self.parts.iter().filter(|(_, (resident, _))| *resident > 0).collect();
        parts.sort_by_key(|(_, (resident, _))| std::cmp::Reverse(*resident));
        let mut text = format!("{} threads; resident (anonymous) KiB:", self.threads);
        for (part, (resident, anonymous)) in parts {
            // Writing to a String cannot fail.
            let _ = write!(text, " {part} {resident} ({anonymous}),");
        }
        text.trim_end_matches(',').to_owned()
    }
}

/// CPU time used so far, by all threads, in seconds.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = read(pid, "stat");
    // The second field is the name, in parentheses, and may hold anything; the 14th and 15th count.
    let rest = stat.rsplit_once(") ").expect("/proc/PID/stat has a name").1;
    let ticks: u64 =
        rest.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
    ticks as f64 / TICKS_PER_SECOND
}

fn parts(smaps: &str) -> BTreeMap<&'static str, (u64, u64)> {
    let mut parts: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
    let mut part = "";
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if !first.ends_with(':') {
            part = name(first, words.nth(4).unwrap_or_default());
            continue;
        }
        let size: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or_default();
        match first {
            "Rss:" => parts.entry(part).or_default().0 += size,
            "Anonymous:" => parts.entry(part).or_default().1 += size,
            _ => {}
        }
    }
    parts
}

/// What a mapping is, by its addresses (`start-end`) and its file.
fn name(range: &str, file: &str) -> &'static str {
    if file.ends_with("/pgsteward") {
        return "the binary";
    }
    if file.starts_with('/') {
        return "libraries";
    }
    match file {
        "[heap]" => "main heap",
        "[stack]" => "main stack",
        "" => {
            let ends = range
                .split_once('-')
                .map(|(start, end)| (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)));
            match ends {
                // glibc aligns the arenas of threads to 64 MiB.
                Some((Ok(start), _)) if start % (64 << 20) == 0 => "heaps of threads",
                Some((Ok(start), Ok(end))) if end - start >= (2 << 20) => "stacks of threads",
                _ => "other",
            }
        }
        _ => "kernel",
    }
}

/// The most that was ever resident, in KiB; none when the process has ended.
pub fn peak_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn field(status: &str, name: &str) -> u64 {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_else(|| panic!("no {name} in status"));
    line.split_ascii_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}

fn read(pid: u32, file: &str) -> String {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

//! `systemd/`: read as systemd reads it. `packaging/verify.sh` asks systemd-analyze beside this.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use pgsteward::config::load::DEFAULT_PATH;

use super::{is_command, loads, read, seconds_in_daemon};

/// The values of each key, in order; an empty value stands as such.
struct Unit(BTreeMap<(String, String), Vec<String>>);

impl Unit {
    fn read() -> Unit {
        let mut unit: BTreeMap<_, Vec<String>> = BTreeMap::new();
        let mut section = String::new();
        for line in read("systemd/pgsteward.service").lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']').to_owned();
                continue;
            }
            let (key, value) =
                line.split_once('=').unwrap_or_else(|| panic!("not an assignment: {line}"));
            unit.entry((section.clone(), key.to_owned())).or_default().push(value.to_owned());
        }
        Unit(unit)
    }

    fn all(&self, key: &str) -> &[String] {
        self.0.get(&("Service".to_owned(), key.to_owned())).map_or(&[], Vec::as_slice)
    }

    #[track_caller]
    fn one(&self, key: &str) -> &str {
        match self.all(key) {
            [value] => value,
            other => panic!("{key}: found {other:?}, wanted one value"),
        }
    }

    #[track_caller]
    fn seconds(&self, key: &str) -> Duration {
        let value = self.one(key);
        Duration::from_secs(
            value.strip_suffix('s').unwrap_or_else(|| panic!("{key}={value}")).parse().unwrap(),
        )
    }
}

#[test]
fn the_unit_calls_the_command_line_as_it_is() {
    let unit = Unit::read();
    let arguments =
        |line: &str| line.strip_prefix("/usr/bin/pgsteward ").map(|rest| rest.to_owned());
    assert_eq!(arguments(unit.one("ExecStart")).as_deref(), Some("run"));
    is_command(&["run"]);
    let reload = unit.all("ExecReload");
    assert_eq!(
        arguments(&reload[0]).as_deref(),
        Some("check"),
        "an invalid file is to fail the reload"
    );
    is_command(&["check"]);
    assert_eq!(reload[1..], ["/bin/kill -HUP $MAINPID"]);
    assert!(unit.all("ExecStartPre").is_empty(), "RestartPreventExitStatus does not hold for it");
}

#[test]
fn the_unit_waits_as_long_as_the_daemon_takes() {
    let unit = Unit::read();
    assert_eq!((unit.one("Type"), unit.one("NotifyAccess")), ("notify", "main"));
    assert_eq!(
        unit.one("TimeoutStartSec"),
        "infinity",
        "READY=1 waits for a database that may be away"
    );
    assert!(
        unit.seconds("TimeoutStopSec")
            >= seconds_in_daemon("DRAIN_TIMEOUT") + Duration::from_secs(10)
    );
    assert!(unit.seconds("WatchdogSec") >= Duration::from_secs(10));
    assert_eq!(unit.one("KillMode"), "mixed");
}

#[test]
fn what_another_start_cannot_mend_is_not_started_again() {
    let unit = Unit::read();
    assert_eq!(unit.one("Restart"), "on-failure");
    assert_eq!(unit.one("RestartPreventExitStatus"), "3 64 78");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgsteward"));
        command.args(arguments).env_clear().output().unwrap().status.code()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, "[http]\nlisten = 8432\n").unwrap();
    assert_eq!(
        run(&["run", "--config", file.to_str().unwrap()]),
        Some(78),
        "run checks its configuration itself"
    );
    assert_eq!(run(&["run", "--no-such-flag"]), Some(64));
    let help = Command::new(env!("CARGO_BIN_EXE_pgsteward")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("3 a migration failed;") && help.contains("64 usage"), "{help}");
}

#[test]
fn the_unit_gives_no_more_than_is_needed() {
    let unit = Unit::read();
    for key in [
        "NoNewPrivileges",
        "RestrictSUIDSGID",
        "PrivateUsers",
        "ProtectHome",
        "PrivateTmp",
        "PrivateDevices",
        "RemoveIPC",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectClock",
        "ProtectHostname",
        "LockPersonality",
        "RestrictRealtime",
        "RestrictNamespaces",
        "MemoryDenyWriteExecute",
    ] {
        assert_eq!(unit.one(key), "yes", "{key}");
    }
    for (key, value) in [
        ("ProtectSystem", "strict"),
        ("ProtectProc", "invisible"),
        ("CapabilityBoundingSet", ""),
        ("AmbientCapabilities", ""),
        ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"),
        ("SystemCallArchitectures", "native"),
        ("SystemCallErrorNumber", "EPERM"),
        ("UMask", "0077"),
        ("LimitCORE", "0"),
    ] {
        assert_eq!(unit.one(key), value, "{key}");
    }
    assert_eq!(unit.all("SystemCallFilter"), ["@system-service", "~@privileged @resources"]);
    assert!(
        unit.all("ProcSubset").is_empty(),
        "it hides /proc/stat, and so when the process started"
    );
}

#[test]
fn the_unit_s_user_and_folders_are_made() {
    let unit = Unit::read();
    let user = unit.one("User");
    assert_eq!(unit.one("Group"), user);
    let entry = |file: &str| -> Vec<String> {
        let text = read(file);
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let entry = lines.next().unwrap().split_whitespace().map(str::to_owned).collect();
        assert_eq!(lines.next(), None, "{file}");
        entry
    };
    assert_eq!(entry("systemd/pgsteward.sysusers")[..2], ["u", user]);
    let folder = DEFAULT_PATH.rsplit_once('/').unwrap().0;
    assert_eq!(entry("systemd/pgsteward.tmpfiles")[..5], ["d", folder, "0750", "root", user]);
    assert_eq!(unit.one("EnvironmentFile"), format!("-{folder}/pgsteward.env"));
    assert_eq!(unit.one("StateDirectory"), "pgsteward");
    let config = loads(
        "database = { url = \"postgresql://u@h/d\" }",
        &[("STATE_DIRECTORY", "/var/lib/pgsteward")],
    )
    .config;
    assert_eq!(config.state_dir.unwrap().to_str(), Some("/var/lib/pgsteward"));
}

#[test]
fn every_credential_of_the_unit_is_read() {
    let unit = Unit::read();
    let mut ids = BTreeSet::new();
    for credential in unit.all("LoadCredential") {
        let (id, source) = credential.split_once(':').unwrap();
        assert_eq!(
            source,
            format!("pgsteward.{id}"),
            "a relative source may be missing, an absolute one may not"
        );
        assert!(ids.insert(id));
    }
    // Of a database there is a URL, or what makes one with Supabase.
    for (table, used) in [
        ("", &["database_url", "database_direct_url", "database_password"][..]),
        (
            "[database.supabase]\nurl = \"https://abcdefghijklmnopqrst.supabase.co\"",
            &["supabase_db_password", "supabase_service_key"],
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for id in used {
            assert!(ids.remove(id), "{id} is not in the unit");
            std::fs::write(folder.path().join(id), "secret").unwrap();
        }
        let loaded = loads(table, &[("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap())]);
        let config = format!("{:?}", loaded.config);
        for id in used {
            assert!(
                config.contains(&format!("File({})", folder.path().join(id).display())),
                "{id}: {config}"
            );
        }
    }
    assert_eq!(ids, BTreeSet::new(), "no use for these is known here");
}

#[test]
fn the_example_of_an_environment_is_understood() {
    let text = read("systemd/pgsteward.env");
    let pairs: Vec<(&str, &str)> = text
        .lines()
        .filter(|line| !line.starts_with("# "))
        .filter_map(|line| line.strip_prefix('#')?.split_once('='))
        .collect();
    assert!(pairs.len() >= 5, "{pairs:?}");
    loads("", &pairs);
}

use super::*;

fn tcp(name: &str, port: u16) -> Host {
    Host::Tcp { name: name.to_owned(), addr: None, port }
}

fn unix(dir: &str, port: u16) -> Host {
    Host::Unix { dir: dir.into(), port }
}

#[track_caller]
fn parse(text: &str) -> ConnInfo {
    ConnInfo::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[track_caller]
fn refuse(text: &str) -> String {
    match ConnInfo::parse(text) {
        Ok(info) => panic!("{text} was read as {info:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn urls() {
    let info = parse(
        "postgresql://al%69ce:p%40ss%3Aw%2Ford@db.example:6432/app%20db?sslmode=require&connect_timeout=7",
    );
    assert_eq!(info.hosts, [tcp("db.example", 6432)]);
    assert_eq!((info.user.as_str(), info.dbname.as_str()), ("alice", "app db"));
    assert_eq!(info.password.unwrap().expose(), "p@ss:w/ord");
    assert_eq!(info.tls.mode, SslMode::Require);
    assert_eq!(info.connect_timeout, Some(Duration::from_secs(7)));

    for (url, hosts) in [
        (
            "postgres://u@a,b:6000,[::1]:7000/d",
            vec![tcp("a", 5432), tcp("b", 6000), tcp("::1", 7000)],
        ),
        ("postgres://u@[2001:db8::1]/d", vec![tcp("2001:db8::1", 5432)]),
        ("postgres://u@%2Fsrv%2Fpg:6000/d", vec![unix("/srv/pg", 6000)]),
        ("postgres://u@/d?host=/srv/pg", vec![unix("/srv/pg", 5432)]),
        ("postgres:///d?user=u&host=a,b&port=1,2", vec![tcp("a", 1), tcp("b", 2)]),
        ("postgres://u@a,b/d?port=9", vec![tcp("a", 9), tcp("b", 9)]),
        ("postgres://u@/d", vec![unix("/var/run/postgresql", 5432), unix("/tmp", 5432)]),
    ] {
        assert_eq!(parse(url).hosts, hosts, "{url}");
    }
    assert_eq!(parse("postgres://u@h").dbname, "u", "the database is named as the user");
    assert_eq!(
        parse("postgres://u@h?sslmode=disable").tls.mode,
        SslMode::Disable,
        "no slash before the ?"
    );
    assert_eq!(parse("postgres://u@h/d?ssl=true").tls.mode, SslMode::Require, "JDBC's spelling");
}

#[test]
fn words() {
    let info = parse(
        r"host = db port=6432 user='al ice' password = 'it\'s \\ here' dbname=a\ b application_name=''",
    );
    assert_eq!(info.hosts, [tcp("db", 6432)]);
    assert_eq!((info.user.as_str(), info.dbname.as_str()), ("al ice", "a b"));
    assert_eq!(info.password.unwrap().expose(), r"it's \ here");
    assert_eq!(info.application_name, None, "an empty value is an absent one");

    let info = parse("user=u hostaddr=10.0.0.1,::1 host=a,b");
    assert_eq!(info.hosts[1], Host::Tcp { name: "b".into(), addr: "::1".parse().ok(), port: 5432 });
    let info = parse("user=u hostaddr=10.0.0.1");
    assert_eq!(
        info.hosts[0],
        Host::Tcp { name: "10.0.0.1".into(), addr: "10.0.0.1".parse().ok(), port: 5432 }
    );
}

#[test]
fn every_setting_is_read() {
    let info = parse(
        "user=u host=h sslmode=verify-full sslrootcert=/ca.pem sslcert=/c.pem sslkey=/k.pem \
         sslnegotiation=direct sslsni=0 channel_binding=require application_name=shop \
         options='-c geqo=off' target_session_attrs=prefer-standby load_balance_hosts=random \
         keepalives_idle=5 keepalives_interval=6 keepalives_count=7 tcp_user_timeout=8000 \
         passfile=/pgpass client_encoding=auto gssencmode=prefer fallback_application_name=psql",
    );
    assert_eq!(
        info.tls,
        TlsOptions {
            mode: SslMode::VerifyFull,
            negotiation: SslNegotiation::Direct,
            root: Some(RootCert::File("/ca.pem".into())),
            client: Some(("/c.pem".into(), "/k.pem".into())),
            sni: false,
        }
    );
    assert_eq!(info.channel_binding, ChannelBinding::Require);
    assert_eq!(info.application_name.as_deref(), Some("shop"));
    assert_eq!(info.options.as_deref(), Some("-c geqo=off"));
    assert_eq!(info.target_session_attrs, TargetSessionAttrs::PreferStandby);
    assert!(info.load_balance);
    let keepalive =
        Keepalive { idle: Duration::from_secs(5), interval: Duration::from_secs(6), count: 7 };
    assert_eq!(info.keepalive, Some(keepalive));
    assert_eq!(info.tcp_user_timeout, Duration::from_secs(8));
    assert_eq!(info.passfile, Some("/pgpass".into()));

    assert_eq!(parse("user=u keepalives=0").keepalive, None);
    assert_eq!(parse("user=u sslrootcert=system").tls.mode, SslMode::VerifyFull, "as libpq");
    let defaults = parse("user=u");
    assert_eq!(defaults.tls.mode, SslMode::Prefer);
    assert_eq!(defaults.target_session_attrs, TargetSessionAttrs::Any);
}

#[test]
fn refused_settings_come_with_advice() {
    for (text, expected) in [
        ("", "empty"),
        ("mysql://u@h/d", "another kind"),
        ("nonsense", "key=value"),
        ("user=u host='h", "not closed"),
        ("postgres://u@h:99999/d", "1 to 65535"),
        ("postgres://u@::1/d", "[::1]"),
        ("postgres://u@[::1/d", "]"),
        ("postgres://u@h/%zz", "hexadecimal"),
        ("postgres://u@h/%00", "%00"),
        ("postgres://u@h/d?x", "no ="),
        ("user=u sslmod=require", "did you mean sslmode"),
        ("user=u SSLMODE=require", "did you mean sslmode"),
        ("user=u frobnicate=1", "frobnicate"),
        ("user=u sslmode=full", "verify-full"),
        ("user=u sslmode=verify-full", "needs sslrootcert"),
        ("user=u sslrootcert=/ca.pem", "plain text"),
        ("user=u sslrootcert=system sslmode=require", "verify-full"),
        ("user=u sslnegotiation=direct", "needs sslmode"),
        ("user=u sslcert=/c", "without sslkey"),
        ("user=u sslkey=/c", "without sslcert"),
        ("user=u gssencmode=require", "GSSAPI"),
        ("user=u service=x", "service files"),
        ("user=u client_encoding=LATIN1", "UTF8"),
        ("user=u host=a,b port=1,2,3", "3 ports for 2 hosts"),
        ("user=u host=a,b hostaddr=10.0.0.1", "2 hosts but 1"),
        ("user=u hostaddr=name", "names belong into host"),
        ("user=u host=@abstract", "abstract"),
        ("user=u connect_timeout=soon", "whole number"),
        ("user=u target_session_attrs=master", "primary"),
        ("postgres://u@h/d?pgbouncer=true", "Prisma"),
    ] {
        let error = refuse(text);
        assert!(error.contains(expected), "{text}: {error:?} does not contain {expected:?}");
    }
}

/// However a password is mistyped, no part of it of three characters or more is repeated.
#[test]
fn no_error_repeats_a_part_of_a_password() {
    let secrets = [
        "Qx7Vz9Kw3",
        "Qx7/Vz9/Kw3",
        "Qx7@Vz9@Kw3",
        "Qx7?Vz9=Kw3",
        "Qx7:Vz9:Kw3",
        "Qx7#Vz%9Kw3",
        "Qx7 Vz9=Kw3",
    ];
    for secret in secrets {
        for text in [
            format!("postgres://u:{secret}"),
            format!("postgres://u:{secret}@h:x/d"),
            format!("postgres://u:{secret}@h/d?sslmod=1"),
            format!("postgres://u:{secret}@h/d?frobnicate=1"),
            format!("postgres://h/d?user=u&password={secret}&frobnicate=1"),
            format!("user=u password={secret} frobnicate"),
            format!("user=u password={secret} frobnicate=1"),
            format!("user=u password='{secret}"),
        ] {
            if let Err(error) = ConnInfo::parse(&text) {
                let error = error.to_string();
                for part in
                    secret.as_bytes().windows(3).map(|part| std::str::from_utf8(part).unwrap())
                {
                    assert!(!error.contains(part), "{text}: {error:?} repeats {part:?}");
                }
            }
        }
        let text = format!("user=u password='{secret}'");
        assert!(!format!("{:?}", parse(&text)).contains(secret), "Debug");
    }
}

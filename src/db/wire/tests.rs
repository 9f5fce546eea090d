use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

fn startup() -> Vec<u8> {
    // Its body holds a 'Q' and an 'S' that must not be taken for messages.
    let body = b"\x00\x03\x00\x00user\x00QS\x00\x00";
    let mut bytes = (body.len() as u32 + 4).to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

/// What the server says at login, with a 'Z' inside a body.
fn welcome(pid: i32) -> Vec<u8> {
    let mut key = pid.to_be_bytes().to_vec();
    key.extend([1, 2, 3, 4]);
    let mut bytes = message(b'R', &[0, 0, 0, 0]);
    bytes.extend(message(b'S', b"TimeZone\0Zulu Z\0\0\x05I\0"));
    bytes.extend(message(b'K', &key));
    bytes.extend(message(b'Z', b"I"));
    bytes
}

fn events(framer: &mut Framer, bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    framer.feed(bytes, |event| events.push(event));
    events
}

#[test]
fn a_split_at_any_byte_changes_nothing() {
    for (untyped, bytes) in [
        (
            true,
            [startup(), message(b'Q', b"select 1\0"), message(b'S', b""), message(b'X', b"")]
                .concat(),
        ),
        (false, [welcome(-7), message(b'T', &[9; 300]), message(b'Z', b"T")].concat()),
    ] {
        let whole = events(&mut Framer::new(untyped), &bytes);
        for at in 0..=bytes.len() {
            let mut framer = Framer::new(untyped);
            let mut split = events(&mut framer, &bytes[..at]);
            split.extend(events(&mut framer, &bytes[at..]));
            assert_eq!(split, whole, "split at {at}");
        }
        let mut framer = Framer::new(untyped);
        let single: Vec<Event> =
            bytes.iter().flat_map(|byte| events(&mut framer, &[*byte])).collect();
        assert_eq!(single, whole, "byte by byte");
    }
}

#[test]
fn a_length_that_cannot_be_does_not_stop_the_count() {
    let mut framer = Framer::new(false);
    let seen = events(&mut framer, &[b'Z', 0, 0, 0, 0, b'Z', 0, 0, 0, 5, b'I']);
    assert_eq!(
        seen.iter().filter(|event| matches!(event, Event::Ended { tag: b'Z', .. })).count(),
        2
    );
}

#[tokio::test]
async fn idle_means_answered_and_outside_a_transaction() {
    let (client, mut server) = tokio::io::duplex(4096);
    let wire = Arc::new(Wire::default());
    let mut client = Tracked::new(client, Arc::clone(&wire));
    let mut sink = [0; 4096];

    client.write_all(&startup()).await.unwrap();
    assert!(!wire.is_settled(), "the login is not answered yet");
    server.write_all(&welcome(4711)).await.unwrap();
    let _ = client.read(&mut sink).await.unwrap();
    assert_eq!(wire.backend_pid(), 4711);
    assert!(wire.is_idle());

    client.write_all(&message(b'Q', b"begin\0")).await.unwrap();
    client.write_all(&message(b'P', b"\0select 1\0\0\0")).await.unwrap();
    client.write_all(&message(b'S', b"")).await.unwrap();
    server.write_all(&message(b'Z', b"T")).await.unwrap();
    let _ = client.read(&mut sink).await.unwrap();
    assert!(!wire.is_settled(), "one of two is answered");
    server.write_all(&message(b'Z', b"T")).await.unwrap();
    let _ = client.read(&mut sink).await.unwrap();
    assert!(wire.is_settled());
    assert!(!wire.is_idle(), "a transaction is open");

    client.write_all(&message(b'Q', b"commit\0")).await.unwrap();
    server.write_all(&message(b'Z', b"I")).await.unwrap();
    let _ = client.read(&mut sink).await.unwrap();
    assert!(wire.is_idle());
    // One more than was asked for, from a peer that is out of step.
    server.write_all(&message(b'Z', b"I")).await.unwrap();
    let _ = client.read(&mut sink).await.unwrap();
    assert!(wire.is_idle());
}

#[tokio::test]
async fn vectored_writes_are_followed_across_partial_ones() {
    let (client, mut server) = tokio::io::duplex(7);
    let wire = Arc::new(Wire::default());
    let mut client = Tracked::new(client, Arc::clone(&wire));
    let reader = async {
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        all
    };
    let expected = [startup(), message(b'Q', b"select 1\0"), message(b'S', b"")].concat();
    let writer = async {
        let parts = [startup(), message(b'Q', b"select 1\0"), message(b'S', b"")].concat();
        let mut at = 0;
        while at < parts.len() {
            let end = (at + 3).min(parts.len());
            let bufs = [IoSlice::new(&parts[at..end]), IoSlice::new(&parts[end..])];
            at += std::future::poll_fn(|cx| Pin::new(&mut client).poll_write_vectored(cx, &bufs))
                .await
                .unwrap();
        }
        assert_eq!(wire.outstanding.load(Ordering::Relaxed), 3, "login, query and sync");
        drop(client);
    };
    let (all, ()) = tokio::join!(reader, writer);
    assert_eq!(all, expected);
}

#[tokio::test]
async fn an_abandoned_statement_is_never_idle_again() {
    let (client, mut server) = tokio::io::duplex(4096);
    let wire = Arc::new(Wire::default());
    let mut client = Tracked::new(client, Arc::clone(&wire));
    server.write_all(&welcome(1)).await.unwrap();
    let _ = client.read(&mut [0; 4096]).await.unwrap();
    wire.begin().done();
    assert!(wire.is_idle());
    drop(wire.begin());
    assert!(wire.is_settled() && !wire.is_idle());
}

#[tokio::test]
async fn waiting_ends_with_the_answer_the_bound_or_the_stream() {
    let (client, mut server) = tokio::io::duplex(4096);
    let wire = Arc::new(Wire::default());
    let mut client = Tracked::new(client, Arc::clone(&wire));
    assert!(!wire.settled(Duration::from_millis(10)).await, "bounded");
    let (settled, ()) = tokio::join!(wire.settled(Duration::from_secs(5)), async {
        server.write_all(&welcome(1)).await.unwrap();
        let _ = client.read(&mut [0; 4096]).await.unwrap();
    });
    assert!(settled);
    client.write_all(&startup()).await.unwrap();
    client.write_all(&message(b'S', b"")).await.unwrap();
    let (settled, ()) = tokio::join!(wire.settled(Duration::from_secs(5)), async { drop(client) });
    assert!(!settled && wire.is_closed());
}

#[test]
fn notices_are_bounded() {
    let wire = Wire::default();
    for i in 0..=NOTICES_MAX {
        wire.push_notice(i.to_string());
    }
    let notices = wire.take_notices();
    assert_eq!(notices.len(), NOTICES_MAX);
    assert_eq!(notices[0], "1", "the oldest goes first");
}

//! Whatever a peer sends: a frame of the protocol, or an error. Never a panic, and never much memory.
//!
//! Few cases by default. For a million:
//!
//! ```text
//! MAMOS_CASES=1000000 cargo test --release -p mamos-core --test hostile_frames
//! ```

#![expect(clippy::unwrap_used, reason = "tests")]

use mamos_core::ErrorKind;
use mamos_core::protocol::{Envelope, FromAgent, MAX_MESSAGES};
use mamos_core::transport::Encoding;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// What agents really say.
const REAL: [&str; 6] = [
    r#"{"messages":[{"hello":{"oldest_version":1,"version":1,
        "credentials":{"registration":{"token":"mamos_reg_1","key":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "proof":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}},
        "profile":{"kind":"worker","name":"rack-7","labels":{"zone":"eu"},"kinds":["mail.send","x"],"slots":4,
            "version":"1.0"},
        "instance":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f","previous":"017f22e2-79b0-7cc3-98c4-dc0c0c07398a",
        "number":3,"session":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        "runs":[{"job":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f","epoch":2}],"now":1732160000000000}}]}"#,
    r#"{"messages":[{"hello":{"oldest_version":1,"version":3,
        "credentials":{"agent":{"token":"a.b.c",
            "proof":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}},
        "profile":{"kind":"worker","name":"","labels":{},"kinds":[],"slots":1,"version":""},
        "instance":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f","number":1,"now":0}}]}"#,
    r#"{"seq":7,"ack":3,"messages":[{"reports":{"first":1,"reports":[
        {"run":{"job":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f","epoch":2},"event":"started"},
        {"run":{"job":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f","epoch":2},
         "event":{"progress":{"percent":50.0,"note":"half"}}},
        {"run":{"job":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f","epoch":2},
         "event":{"log":{"offset":0,"stream":"stdout","bytes":"aGk="}}},
        {"run":{"job":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f","epoch":2},"event":"released"}]}}]}"#,
    r#"{"messages":[{"reports":{"first":9000000000,"reports":[
        {"run":{"job":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f","epoch":2},
         "event":{"ended":{"succeeded":{"output":"e30="}}}},
        {"run":{"job":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f","epoch":2},
         "event":{"ended":{"retry":{"failure":{"code":"x","message":"y"},"after_ms":250}}}},
        {"run":{"job":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f","epoch":2},
         "event":{"ended":{"bury":{"failure":{"code":"x","message":"y"}}}}},
        {"run":{"job":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f","epoch":2},
         "event":{"ended":{"snooze":{"delay_ms":1000}}}},
        {"run":{"job":"017f22e2-79b0-7cc3-98c4-dc0c0c07398f","epoch":2},"event":{"ended":"cancelled"}}]}}]}"#,
    r#"{"messages":[{"slots":{"total":3}},{"heartbeat":{"load":null}},{"heartbeat":{}},"bye"]}"#,
    r#"{"seq":0,"ack":18446744073709551615,"messages":[]}"#,
];

const ENCODINGS: [Encoding; 2] = [Encoding::Binary, Encoding::Text];

/// Lengths that lie, and what opens without end.
const LIES: [&[u8]; 12] = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xdc\xff\xff",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xcb\x7f\xf8\0\0\0\0\0\0",
    b"\x91\x91\x91\x91\x91\x91\x91\x91",
    b"[[[[[[[[{\"a\":[[[[",
    b"-1e999",
    b"\\ud800\xff\0",
];

fn real_frames(encoding: Encoding) -> Vec<Vec<u8>> {
    let written = |text: &&str| {
        let envelope = Envelope::<FromAgent>::decode(Encoding::Text, text.as_bytes()).unwrap();
        envelope.encode(encoding).unwrap().to_vec()
    };
    REAL.iter().map(written).collect()
}

/// One thing that happens to a frame on its way.
#[derive(Debug, Clone)]
enum Change {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    Cut(Index),
    Graft(Index, Index, Vec<u8>),
}

fn change(frames: Vec<Vec<u8>>) -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        3 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => (at(), proptest::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, new)| Change::Insert(at, new)),
        2 => (at(), select(LIES.to_vec())).prop_map(|(at, lie)| Change::Insert(at, lie.to_vec())),
        2 => (at(), 1usize..20).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => (at(), 1usize..60).prop_map(|(at, count)| Change::Repeat(at, count)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), at(), select(frames)).prop_map(|(at, from, other)| Change::Graft(at, from, other)),
    ]
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let end = |at: usize, count: usize| bytes.len().min(at + count);
        match self {
            Self::Flip(at, bit) => *at.get_mut(bytes) ^= 1 << bit,
            Self::Set(at, byte) => *at.get_mut(bytes) = *byte,
            Self::Insert(at, new) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Remove(at, count) => {
                let at = at.index(bytes.len());
                bytes.drain(at..end(at, *count));
            }
            Self::Repeat(at, count) => {
                let at = at.index(bytes.len());
                let again = bytes[at..end(at, *count)].to_vec();
                bytes.splice(at..at, again);
            }
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Graft(at, from, other) => {
                bytes.truncate(at.index(bytes.len()));
                bytes.extend(&other[from.index(other.len())..]);
            }
        }
    }
}

fn hostile() -> impl Strategy<Value = (Encoding, Vec<u8>)> {
    select(ENCODINGS.to_vec()).prop_flat_map(|encoding| {
        let frames = real_frames(encoding);
        let changes = proptest::collection::vec(change(frames.clone()), 1..6);
        let changed = (select(frames), changes).prop_map(|(mut frame, changes)| {
            changes.iter().for_each(|change| change.apply(&mut frame));
            frame
        });
        let bytes = prop_oneof![1 => proptest::collection::vec(any::<u8>(), 0..300), 4 => changed];
        (Just(encoding), bytes)
    })
}

fn cases() -> u32 {
    std::env::var("MAMOS_CASES").map_or(2000, |cases| cases.parse().expect("MAMOS_CASES is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn hostile_bytes_are_a_frame_or_corrupt((encoding, bytes) in hostile()) {
        match Envelope::<FromAgent>::decode(encoding, &bytes) {
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Corrupt),
            Ok(envelope) => {
                prop_assert!(envelope.messages.len() <= MAX_MESSAGES);
                // What was understood can be said again, and means the same.
                let said = envelope.encode(encoding).unwrap();
                let again = Envelope::<FromAgent>::decode(encoding, &said).unwrap();
                prop_assert_eq!(again.encode(encoding).unwrap(), said);
            }
        }
    }
}

#[test]
fn nesting_without_end_is_corrupt_and_spares_the_stack() {
    const DEPTH: usize = 1_000_000;
    let frames: [(Encoding, &[u8], &[u8]); 4] = [
        (Encoding::Binary, b"\x81\xa8messages", b"\x91"),
        (Encoding::Binary, b"", b"\x81\xa1a"),
        (Encoding::Text, b"{\"messages\":", b"["),
        (Encoding::Text, b"", b"{\"messages\":[{\"reports\":"),
    ];
    for (encoding, start, level) in frames {
        let bytes = [start, &level.repeat(DEPTH)].concat();
        let error = Envelope::<FromAgent>::decode(encoding, &bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn an_announced_length_costs_nothing() {
    for lie in LIES {
        for start in
            [&b"\x81\xa8messages"[..], b"\x81\xa8messages\x91\x81\xa7reports\x82\xa5first\x01\xa7reports"]
        {
            let bytes = [start, lie].concat();
            // Four billion of anything would not fit in memory: this returns, and at once.
            let error = Envelope::<FromAgent>::decode(Encoding::Binary, &bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}

#[test]
fn more_messages_than_allowed_are_corrupt() {
    let envelope = |count| Envelope::unnumbered(vec![FromAgent::Bye; count]);
    for encoding in ENCODINGS {
        let most = envelope(MAX_MESSAGES).encode(encoding).unwrap();
        assert!(Envelope::<FromAgent>::decode(encoding, &most).is_ok());
        let too_many = envelope(MAX_MESSAGES + 1).encode(encoding).unwrap();
        let error = Envelope::<FromAgent>::decode(encoding, &too_many).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

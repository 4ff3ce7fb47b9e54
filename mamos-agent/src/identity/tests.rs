use std::fs;
use std::os::unix::fs::PermissionsExt;

use mamos_core::auth::keys::proof_message;
use mamos_core::{AgentKind, ErrorKind};

use super::*;

fn agent_id() -> AgentId {
    AgentId::from_parts(AgentKind::new("a").unwrap(), Timestamp::EPOCH, 1)
}

fn life(n: usize) -> InstanceId {
    InstanceId::from_key(&n.to_string())
}

fn known(seed: u8) -> Identity {
    let mut identity = Identity::new(KeyPair::from_seed([seed; 32]).unwrap(), life(1));
    identity.welcomed(&agent_id(), Some(Secret::new("token-1")));
    identity
}

fn kept(identity: &Identity) -> serde_json::Value {
    serde_json::from_slice(&identity.to_text().unwrap()).unwrap()
}

#[test]
fn an_identity_survives_its_file_which_only_the_owner_can_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity.json");
    assert!(Identity::load(&path).unwrap().is_none());
    let mut identity = known(7);
    fs::write(directory.path().join("identity.new"), "left over").unwrap();
    identity.save(&path).unwrap();
    identity.begin_life(life(2));
    identity.renewed(Secret::new("token-2"));
    identity.save(&path).unwrap();
    let read = Identity::load(&path).unwrap().unwrap();
    assert_eq!(read.public_key(), KeyPair::from_seed([7; 32]).unwrap().public_key());
    assert_eq!((read.agent(), read.token()), (Some(&agent_id()), Some(&Secret::new("token-2"))));
    assert_eq!((read.instance(), read.previous(), read.is_welcomed()), (life(2), Some(life(1)), false));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn each_start_of_one_life_numbers_its_hellos_from_a_million_further_on() {
    let mut identity = known(7);
    assert_eq!(identity.hellos(), 0);
    for (start, expected) in [(2, 0), (3, 1_000_000), (4, 2_000_000)] {
        identity.begin_life(life(start));
        identity = Identity::from_text(&identity.to_text().unwrap()).unwrap();
        assert_eq!((identity.instance(), identity.hellos()), (life(2), expected));
    }
    identity.welcomed(&agent_id(), None);
    identity.begin_life(life(5));
    assert_eq!((identity.instance(), identity.hellos()), (life(5), 0));
}

#[test]
fn a_file_from_before_hellos_were_counted_is_read_and_counted_from_there() {
    let mut text = kept(&Identity::new(KeyPair::from_seed([7; 32]).unwrap(), life(1)));
    assert!(text.as_object_mut().unwrap().remove("hellos").is_some());
    let mut identity = Identity::from_text(text.to_string().as_bytes()).unwrap();
    identity.begin_life(life(2));
    assert_eq!((identity.instance(), identity.hellos()), (life(1), 1_000_000));
}

#[test]
fn nothing_secret_is_printed() {
    let printed = format!("{:?}", known(7));
    let seed = URL_SAFE_NO_PAD.encode([7; 32]);
    assert!(
        !printed.contains(&seed) && !printed.contains("7, 7") && !printed.contains("token-1"),
        "{printed}"
    );
}

#[test]
fn a_file_that_is_no_identity_is_corrupt_and_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity.json");
    let change = |field: &str, value: serde_json::Value| {
        let mut text = kept(&known(7));
        text[field] = value;
        text.to_string()
    };
    let rows = [
        ("{\"agent\": 5", "no identity"),
        ("hunter2", "no identity"),
        (r#"{"agent":null,"secret":"hunter2"}"#, "had a secret and no key pair"),
        (&change("version", 2.into()), "written by another MAMOS"),
        (&change("seed", "hunter2".into()), "its seed"),
        (&change("seed", 5.into()), "missing, unknown or wrong"),
        (&change("token", serde_json::Value::Null), "an agent without a token"),
        (&change("extra", "hunter2".into()), "missing, unknown or wrong"),
    ];
    for (text, expected) in rows {
        fs::write(&path, text).unwrap();
        let error = Identity::load(&path).unwrap_err();
        let said = format!("{error} {error:?}");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(said.contains(expected) && said.contains("register again"), "{said}");
        assert!(!said.contains("hunter"), "{said}");
    }
}

#[test]
fn it_shows_its_token_and_before_that_the_registration_token() {
    let (nonce, registration) = (Nonce::from_bytes([3; 32]), Secret::new("reg"));
    let mut identity = Identity::new(KeyPair::from_seed([7; 32]).unwrap(), life(1));
    let shown = identity.credentials(&registration, &nonce, None);
    let Credentials::Registration { token, key, proof } = shown else { panic!("{shown:?}") };
    assert_eq!((token, key), (registration.clone(), identity.public_key()));
    assert!(key.verifies(&proof_message(&nonce, None, "reg"), &proof));
    identity.welcomed(&agent_id(), Some(Secret::new("jwt")));
    let shown = identity.credentials(&registration, &nonce, None);
    let Credentials::Agent { token, proof } = shown else { panic!("{shown:?}") };
    assert_eq!(token, Secret::new("jwt"));
    assert!(key.verifies(&proof_message(&nonce, None, "jwt"), &proof));
}

#[test]
fn the_token_says_until_when_it_is_good() {
    let mut identity = known(7);
    assert_eq!(identity.token_expires_at(), None);
    // `printf '{"exp":1700000000}' | basenc --base64url`, without padding.
    identity.renewed(Secret::new("e30.eyJleHAiOjE3MDAwMDAwMDB9.c2ln"));
    assert_eq!(identity.token_expires_at(), Some(Timestamp::from_micros(1_700_000_000_000_000)));
}

/// Where a life may be cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Crash {
    BeforeTheLifeIsKept,
    BeforeTheHello,
    OnTheWayToTheOrchestrator,
    OnTheWayBack,
    BeforeTheWelcomeIsKept,
    Later,
}

const CRASHES: [Crash; 6] = [
    Crash::BeforeTheLifeIsKept,
    Crash::BeforeTheHello,
    Crash::OnTheWayToTheOrchestrator,
    Crash::OnTheWayBack,
    Crash::BeforeTheWelcomeIsKept,
    Crash::Later,
];

/// A life, and the number of its last hello that was said, whether or not it arrived.
type Said = Option<(InstanceId, u64)>;

/// One life, from the disk to its crash. It says hello twice.
fn live(
    disk: &mut Vec<u8>,
    recorded: &mut Option<InstanceId>,
    said: &mut Said,
    fresh: InstanceId,
    crash: Crash,
) {
    let mut identity = Identity::from_text(disk).unwrap();
    identity.begin_life(fresh);
    if crash == Crash::BeforeTheLifeIsKept {
        return;
    }
    *disk = identity.to_text().unwrap().to_vec();
    if crash <= Crash::BeforeTheHello {
        return;
    }
    for number in [identity.hellos() + 1, identity.hellos() + 2] {
        let grows = said.is_none_or(|(life, last)| life != identity.instance() || number > last);
        assert!(grows, "taken for a copy: {number} does not follow {said:?}");
        *said = Some((identity.instance(), number));
    }
    if crash == Crash::OnTheWayToTheOrchestrator {
        return;
    }
    let (instance, previous) = (Some(identity.instance()), identity.previous());
    let follows = recorded.is_none() || *recorded == instance || *recorded == previous;
    assert!(follows, "taken for a copy: {recorded:?} is neither {instance:?} nor {previous:?}");
    *recorded = instance;
    if crash <= Crash::OnTheWayBack {
        return;
    }
    identity.welcomed(&agent_id(), Some(Secret::new("token")));
    if crash == Crash::BeforeTheWelcomeIsKept {
        return;
    }
    *disk = identity.to_text().unwrap().to_vec();
}

/// The rule of the orchestrator, as the protocol has it, against four lives in a row, each of which
/// crashes anywhere.
#[test]
fn no_crash_makes_an_agent_look_like_a_copy_of_itself() {
    let count = CRASHES.len();
    for order in 0..count.pow(4) {
        let mut disk = Identity::generate().unwrap().to_text().unwrap().to_vec();
        let (mut recorded, mut said) = (None, None);
        for nth in 0..4 {
            let crash = CRASHES[order / count.pow(nth) % count];
            live(&mut disk, &mut recorded, &mut said, life(nth as usize), crash);
            let kept = Identity::from_text(&disk).unwrap();
            let on_disk = [Some(kept.instance()), kept.previous()];
            assert!(recorded.is_none() || on_disk.contains(&recorded), "{order} {nth} {crash:?}");
        }
    }
}

#[test]
fn two_programs_with_one_file_do_not_descend_from_each_other() {
    let mut original = known(7);
    let mut copy = Identity::from_text(&original.to_text().unwrap()).unwrap();
    original.begin_life(life(2));
    copy.begin_life(life(3));
    assert_eq!(original.previous(), copy.previous());
    assert_ne!(original.instance(), copy.instance());
    assert_ne!(Some(original.instance()), copy.previous());
}

//! Exchanges between our two halves, with PostgreSQL's recorded one and with another client.

use postgres_protocol::authentication::sasl::{self, ScramSha256};
use proptest::prelude::*;

use super::*;
use crate::wire::Result;

/// A recorded exchange of PostgreSQL 15: user `scr`, password `pencil`.
mod recorded {
    pub(super) const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    pub(super) const SERVER_NONCE: &str = "PHBCsW2xm3FBmuZqcRPKT25X";
    pub(super) const FIRST: &str = "n,,n=,r=rOprNGfwEbeRWgbNEkqO";
    pub(super) const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqOPHBCsW2xm3FBmuZqcRPKT25X,\
        s=C9d1eCL6xhWSObfQsn0tHw==,i=4096";
    pub(super) const ANSWER: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqOPHBCsW2xm3FBmuZqcRPKT25X,\
        p=1FYryenUxE9fdzPMkD2aL0kzbaoDp5Q4/dy2QR0+jZE=";
    pub(super) const LAST: &str = "v=8MiffMrfTcHughyE4hXBSAn6+AAVM9az1pkNxWArjBE=";
    pub(super) const VERIFIER: &str = "SCRAM-SHA-256$4096:C9d1eCL6xhWSObfQsn0tHw==$\
        2ez6kYGIK9rDUdhgKxRtuQuEaPmkseXAYXA/sZFm41M=:ycFLCY9SVf5yL8uopEN94jucpZpdd5i5DrkywXmn9Kc=";
}

fn plain() -> Vec<String> {
    mechanisms(false)
}

fn server(verifier: Verifier, binding: Option<ChannelBinding>) -> ScramServer {
    ScramServer::new("scr", verifier, nonce([9; NONCE_BYTES]), binding)
}

fn verifier(password: &str) -> Verifier {
    Verifier::from_password(password, &[1; SALT_BYTES], ITERATIONS_MIN)
}

fn binding() -> Option<ChannelBinding> {
    Some(ChannelBinding::tls_server_end_point(vec![0xAB; 32]))
}

/// A whole exchange between our halves.
fn exchange(client: ScramClient, server: ScramServer) -> Result<()> {
    let first = client.first();
    let (server, challenge) = server.challenge(&first.mechanism, &first.data.unwrap())?;
    let (client, answer) = client.answer(challenge.as_bytes())?;
    let last = server.verify(answer.as_bytes())?;
    client.verify(last.as_bytes())
}

fn client(password: &str, over_tls: bool) -> ScramClient {
    let binding = binding().filter(|_| over_tls);
    ScramClient::new(&mechanisms(over_tls), password, "cnonce".into(), binding).unwrap()
}

#[test]
fn both_halves_speak_the_recorded_exchange_of_postgresql() {
    let nonce = recorded::CLIENT_NONCE.to_owned();
    let client = ScramClient::new(&plain(), "pencil", nonce, None).unwrap();
    assert_eq!(client.first().data.unwrap(), recorded::FIRST);
    let (client, answer) = client.answer(recorded::CHALLENGE.as_bytes()).unwrap();
    assert_eq!(answer, recorded::ANSWER);
    client.verify(recorded::LAST.as_bytes()).unwrap();

    let verifier: Verifier = recorded::VERIFIER.parse().unwrap();
    let server = ScramServer::new("scr", verifier, recorded::SERVER_NONCE.into(), None);
    let first = recorded::FIRST.as_bytes();
    let (server, challenge) = server.challenge(SCRAM_SHA_256, first).unwrap();
    assert_eq!(challenge, recorded::CHALLENGE);
    let last = server.verify(recorded::ANSWER.as_bytes()).unwrap();
    assert_eq!(last, recorded::LAST);
}

#[test]
fn a_verifier_is_made_from_a_password_and_kept_as_text() {
    let salt = STANDARD.decode("C9d1eCL6xhWSObfQsn0tHw==").unwrap();
    let verifier = Verifier::from_password("pencil", &salt, 4096);
    assert_eq!(verifier.to_text(), recorded::VERIFIER);
    let raised = Verifier::from_password("pencil", &salt, 1);
    assert_eq!(raised.to_text(), recorded::VERIFIER);
    let fresh = crate::wire::scram::verifier::Verifier::from_password("x", &salt, 5000);
    assert!(fresh.to_text().starts_with("SCRAM-SHA-256$5000:"));
    for bad in [
        "",
        "md5abc",
        "SCRAM-SHA-256$4096:AA==$AA==:AA==",
        "SCRAM-SHA-256$x:C9d1eCL6xhWSObfQsn0tHw==$a:b",
    ] {
        assert!(bad.parse::<Verifier>().is_err(), "{bad}");
    }
    let zero = recorded::VERIFIER.replace("4096", "0");
    assert!(zero.parse::<Verifier>().is_err());
}

#[test]
fn nothing_secret_is_shown() {
    let verifier: Verifier = recorded::VERIFIER.parse().unwrap();
    let shown = format!(
        "{verifier:?} {:?} {:?}",
        server(verifier.clone(), None),
        client("pencil", false)
    );
    for secret in ["pencil", "stored", "key", "217", "salt"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[test]
fn a_right_password_passes_with_and_without_channel_binding() {
    exchange(client("pencil", false), server(verifier("pencil"), None)).unwrap();
    exchange(
        client("pencil", true),
        server(verifier("pencil"), binding()),
    )
    .unwrap();
}

#[test]
fn passwords_are_prepared_before_they_are_compared() {
    let decomposed = "pa\u{308}ss\u{AD}";
    exchange(
        client(decomposed, false),
        server(verifier("p\u{E4}ss"), None),
    )
    .unwrap();
    let prohibited = "a\u{7}b";
    exchange(
        client(prohibited, false),
        server(verifier(prohibited), None),
    )
    .unwrap();
}

#[test]
fn a_wrong_password_and_an_unknown_user_get_the_same_refusal() {
    let wrong = exchange(client("pen", false), server(verifier("pencil"), None)).unwrap_err();
    let mock = Verifier::mock("scr", b"cluster secret");
    let unknown = exchange(client("pencil", false), server(mock, None)).unwrap_err();
    assert_eq!(wrong, unknown);
    assert_eq!((wrong.sqlstate(), wrong.closes()), ("28P01", true));
    let text = "password authentication failed for user \"scr\"";
    assert_eq!(wrong.to_string(), text);
}

#[test]
fn a_mock_is_the_same_at_every_attempt_and_differs_by_user_and_cluster() {
    let challenge = |user, secret: &[u8]| {
        let server = server(Verifier::mock(user, secret), None);
        server.challenge(SCRAM_SHA_256, b"n,,n=,r=c").unwrap().1
    };
    assert_eq!(challenge("ann", b"x"), challenge("ann", b"x"));
    assert_ne!(challenge("ann", b"x"), challenge("bob", b"x"));
    assert_ne!(challenge("ann", b"x"), challenge("ann", b"y"));
}

#[test]
fn a_downgrade_of_channel_binding_is_noticed() {
    let offered = plain();
    let fooled = ScramClient::new(&offered, "pencil", "c".into(), binding()).unwrap();
    let error = exchange(fooled, server(verifier("pencil"), binding())).unwrap_err();
    assert_eq!(error.sqlstate(), "28000");
    let honest = ScramClient::new(&offered, "pencil", "c".into(), binding()).unwrap();
    exchange(honest, server(verifier("pencil"), None)).unwrap();
}

#[test]
fn another_certificate_fails_the_binding() {
    let relayed = Some(ChannelBinding::tls_server_end_point(vec![0xCD; 32]));
    let error = exchange(client("pencil", true), server(verifier("pencil"), relayed));
    assert_eq!(error.unwrap_err().sqlstate(), "28000");
}

#[test]
fn messages_out_of_form_are_refused() {
    for (mechanism, first) in [
        ("PLAIN", "n,,n=,r=c"),
        (SCRAM_SHA_256_PLUS, "p=tls-server-end-point,,n=,r=c"),
        (SCRAM_SHA_256, ""),
        (SCRAM_SHA_256, "n"),
        (SCRAM_SHA_256, "n,,"),
        (SCRAM_SHA_256, "n,,n=,r="),
        (SCRAM_SHA_256, "n,,r=c"),
        (SCRAM_SHA_256, "n,,n=,r=a b"),
        (SCRAM_SHA_256, "x,,n=,r=c"),
        (SCRAM_SHA_256, "n,a=ann,n=,r=c"),
        (SCRAM_SHA_256, "n,,m=x,n=,r=c"),
        (SCRAM_SHA_256, "p=tls-server-end-point,,n=,r=c"),
    ] {
        let result = server(verifier("x"), None).challenge(mechanism, first.as_bytes());
        assert!(result.unwrap_err().closes(), "{first}");
    }
    for flag in ["n", "y", "p=tls-unique"] {
        let first = format!("{flag},,n=,r=c");
        let server = server(verifier("x"), binding());
        assert!(
            server
                .challenge(SCRAM_SHA_256_PLUS, first.as_bytes())
                .is_err()
        );
    }
}

#[test]
fn a_client_refuses_a_server_that_cheats() {
    let refuses = |challenge: &str| {
        let client = client("pencil", false);
        client.answer(challenge.as_bytes()).unwrap_err();
    };
    refuses("r=other,s=AAAA,i=4096");
    refuses("r=cnonce,s=AAAA,i=4096");
    refuses("r=cnonceX,s=AAAA,i=100001");
    refuses("r=cnonceX,s=AAAA,i=0");
    refuses("r=cnonceX,s=?,i=4096");
    refuses("e=other-error");
    let (answered, _) = client("pencil", false)
        .answer(b"r=cnonceX,s=AAAA,i=4096")
        .unwrap();
    let signature = STANDARD.encode([0; 32]);
    let error = answered.verify(format!("v={signature}").as_bytes());
    assert_eq!(error.unwrap_err().sqlstate(), "28P01");
    assert!(ScramClient::new(&["PLAIN".to_owned()], "x", "c".into(), None).is_err());
}

#[test]
fn another_clients_exchange_passes() {
    for binding in [binding(), None] {
        let theirs = match &binding {
            Some(ChannelBinding(hash)) => sasl::ChannelBinding::tls_server_end_point(hash.clone()),
            None => sasl::ChannelBinding::unsupported(),
        };
        let mechanism = match &binding {
            Some(_) => SCRAM_SHA_256_PLUS,
            None => SCRAM_SHA_256,
        };
        let mut client = ScramSha256::new(b"p\xC3\xA4ss", theirs);
        let server = server(verifier("p\u{E4}ss"), binding);
        let (server, challenge) = server.challenge(mechanism, client.message()).unwrap();
        client.update(challenge.as_bytes()).unwrap();
        let last = server.verify(client.message()).unwrap();
        client.finish(last.as_bytes()).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_verifier_is_its_whole_text(
        iterations in 1..=u32::MAX,
        salt in prop::collection::vec(any::<u8>(), 1..=128),
        keys: [[u8; 32]; 2],
    ) {
        let [stored_key, server_key] = keys;
        let verifier = Verifier { iterations, salt, stored_key, server_key, real: true };
        let text = verifier.to_text();
        let read = text.parse::<Verifier>().unwrap();
        prop_assert_eq!(read.to_text(), text.clone());
        prop_assert_eq!((read.salt, read.stored_key), (verifier.salt, stored_key));
        prop_assert!(read.real);
        for len in 0..text.len() {
            prop_assert!(text[..len].parse::<Verifier>().is_err(), "{} characters", len);
        }
        for more in ["x", "=", ":", "$", "\n"] {
            prop_assert!(format!("{text}{more}").parse::<Verifier>().is_err(), "{}", more);
        }
    }

    #[test]
    fn any_message_is_taken_or_refused_but_never_panics(
        message in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            "(n|y|p=x|,|a=|r=|s=|i=|c=biws|p=|[0-9]{1,2}|v=|cnonce){0,12}".prop_map(Vec::from),
        ],
    ) {
        let verifier: Verifier = recorded::VERIFIER.parse().unwrap();
        for binding in [None, binding()] {
            let new = || server(verifier.clone(), binding.clone());
            let _ = new().challenge(SCRAM_SHA_256, &message);
            let _ = new().challenge(SCRAM_SHA_256_PLUS, &message);
        }
        let (challenged, _) = server(verifier, None)
            .challenge(SCRAM_SHA_256, b"n,,n=,r=c")
            .unwrap();
        let _ = challenged.verify(&message);
        let _ = client("x", false).answer(&message);
        let (answered, _) = client("x", false).answer(b"r=cnonceX,s=AAAA,i=1").unwrap();
        let _ = answered.verify(&message);
    }
}

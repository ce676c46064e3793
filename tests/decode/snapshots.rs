//! What is printed of recorded and made packets, compared to the letter with the files beside this one.
//!
//! After a change that is meant, run the tests with `UPDATE_SNAPSHOTS=1` and look at what git shows.

use std::path::Path;

use lastroute::decode::{DecodeArgs, Knowledge};
use serde_json::Value;

use crate::{NOW, run, vectors};

/// Recorded datagrams: run and number.
const RECORDED: [(&str, &str, usize); 12] = [
    ("boot", "boot", 1),
    ("announcement", "boot", 2),
    ("proved", "sync", 3),
    ("in-the-clear", "main", 2),
    ("echo-request-device-level", "main", 9),
    ("downlink-unknown-key", "main", 22),
    ("application-info", "main", 59),
    ("security-state-device-level", "main", 75),
    ("readings-device-level-asking", "defkey", 32),
    ("acknowledgement-device-level", "defkey", 33),
    ("garbage", "reconnect", 20),
    ("next-day", "rotation", 11),
];

/// Made datagrams, each alone with the key ring of its file.
const MADE: [&str; 6] = [
    "cont-4-mixed",
    "badc-second-past-end",
    "cont-3-unknown-device-key",
    "down-forward-auto-conn",
    "bad-net-unknown",
    "bad-reflected-ack",
];

#[test]
fn recorded_packets_are_explained_as_before() {
    let arguments = DecodeArgs { file: vec![vectors("firmware-capture.json")], ..DecodeArgs::default() };
    let printed = run(&arguments, Knowledge::default()).out;
    let root = format!("{}/", env!("CARGO_MANIFEST_DIR"));
    let blocks: Vec<_> = printed.split("\n\n").collect();
    for (name, run, number) in RECORDED {
        let origin = format!("run {run} datagram {number}, ");
        let block = blocks.iter().find(|block| block.lines().next().unwrap().contains(&origin)).unwrap();
        compare(name, &format!("{}\n", block.replace(&root, "")));
    }
}

#[test]
fn made_packets_are_explained_as_before() {
    let file: Value = serde_json::from_slice(&std::fs::read(vectors("epacket-v0.json")).unwrap()).unwrap();
    for name in MADE {
        let vectors = file["vectors"].as_array().unwrap();
        let vector = vectors.iter().find(|vector| vector["name"] == name).unwrap();
        let alone = serde_json::json!({ "keyring": file["keyring"], "vectors": [vector] });
        let ran = crate::decoded(alone.to_string().as_bytes(), DecodeArgs { at: Some(NOW), ..DecodeArgs::default() });
        assert_eq!(ran.error, None);
        compare(name, &ran.out);
    }
}

fn compare(name: &str, printed: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/decode").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, printed).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == printed,
        "{} is no longer what is printed (- was, + is):\n{}\nif that is meant, run the tests with UPDATE_SNAPSHOTS=1",
        path.display(),
        difference(&expected, printed)
    );
}

/// The lines between the first and the last that differ.
fn difference(was: &str, is: &str) -> String {
    let (was, is): (Vec<_>, Vec<_>) = (was.lines().collect(), is.lines().collect());
    let common = |one: &mut dyn Iterator<Item = (&&str, &&str)>| one.take_while(|(was, is)| was == is).count();
    let front = common(&mut was.iter().zip(&is));
    let back = common(&mut was[front..].iter().rev().zip(is[front..].iter().rev()));
    let removed = was[front..was.len() - back].iter().map(|line| format!("-{line}\n"));
    let added = is[front..is.len() - back].iter().map(|line| format!("+{line}\n"));
    format!("line {}:\n{}", front + 1, removed.chain(added).collect::<String>())
}

#[test]
fn a_difference_is_shown_without_what_is_the_same() {
    assert_eq!(difference("a\nb\nc\nd\n", "a\nx\ny\nd\n"), "line 2:\n-b\n-c\n+x\n+y\n");
    assert_eq!(difference("a\n", "a\nb\n"), "line 2:\n+b\n");
    assert_eq!(difference("", "a\n"), "line 1:\n+a\n");
}

//! Hex, lines, test vectors, standard input; what is said of input that is none; and the forms of output.

use std::io::{self, ErrorKind, Read, Write};

use lastroute::auth::keys::{FACTORY_NETWORK, FACTORY_NETWORK_KEY, Interface, KeyPair, RootKey};
use lastroute::auth::nonce::OwnNonces;
use lastroute::auth::seal_with;
use lastroute::decode::part::Part;
use lastroute::decode::{self, Datagram, DecodeArgs, Decoder, Key, Knowledge};
use lastroute::id::{DeviceId, KeyId};
use lastroute::metrics::Disposition;
use lastroute::table::rules::RouteChange;
use lastroute::table::{RoutePolicy, TableConfig, Unregistered};
use lastroute::wire::MAX_DATAGRAM;
use lastroute::wire::container::{BtAddress, Content, Entry, RouteInterface};
use lastroute::wire::frame::{Flags, Header, Layout, PacketType};
use proptest::prelude::*;
use serde_json::Value;

use crate::{NOW, brief, decoded, run, run_with, vectors};

/// A datagram that no key is known for.
const DATAGRAM: &str = "7f0000170a00000000d00110000092a3364b00002fc31fca2eff4c14d75bfcc4e214c9ca51dd6bd241";

#[test]
fn hex_arguments_and_lines_are_the_same_datagrams() {
    let spaced = DATAGRAM.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect::<Vec<_>>();
    let forms = [DATAGRAM.to_owned(), spaced.join(" "), spaced.join(":"), format!("0x{}", spaced.join(", 0x"))];
    let arguments = run(&DecodeArgs { hex: forms.to_vec(), ..brief() }, Knowledge::default());
    assert_eq!(arguments.lines().len(), 4);
    assert!(arguments.lines().iter().all(|line| line.ends_with("unknown_network, rule R0")), "{}", arguments.out);
    let text = format!("# a remark\n\n{}\r\n", forms.join("\n"));
    assert_eq!(decoded(text.as_bytes(), brief()).out, arguments.out);
}

#[test]
fn a_datagram_without_quotes_is_one() {
    let pieces: Vec<_> = DATAGRAM.as_bytes().chunks(2).map(|pair| String::from_utf8(pair.to_vec()).unwrap()).collect();
    let arguments =
        |hex: &[String]| run(&DecodeArgs { hex: hex.to_vec(), ..DecodeArgs::default() }, Knowledge::default());
    let joined = arguments(&pieces).out.replace("arguments 1 to 41", "argument 1");
    assert_eq!(joined, arguments(&[DATAGRAM.to_owned()]).out);
    // One of 38 bytes is a frame of its own, and so is what stands beside it.
    let (piece, frame) = ("7f".to_owned(), DATAGRAM[..76].to_owned());
    let count = |hex: &[String]| arguments(hex).out.matches("datagram ").count();
    assert_eq!(count(&[piece.clone(), frame]), 2);
    assert_eq!(count(&[piece, DATAGRAM[..74].to_owned()]), 1);
    let bad = arguments(&["7f".to_owned(), "0".to_owned()]).error.unwrap();
    assert!(bad.starts_with("argument 2: 1 hex digits, an odd number"), "{bad}");
}

#[test]
fn standard_input_is_a_file_like_any_other() {
    let dash = DecodeArgs { file: vec!["-".into()], ..brief() };
    let ran = run_with(&dash, Knowledge::default(), b"7f 00\n");
    assert!(ran.out.ends_with("short, rule R0\n"), "{}", ran.out);
    let twice = DecodeArgs { file: vec!["-".into(), "-".into()], ..brief() };
    let error = run_with(&twice, Knowledge::default(), b"7f\n").error;
    assert_eq!(error.as_deref(), Some("--file -: standard input is named twice; name it once"));
}

#[test]
fn what_cannot_be_read_is_named_by_its_place_with_a_remedy() {
    let line = "write one datagram a line in hex; a # begins a remark";
    let kinds = "give a pcap or pcapng file, test vectors in JSON, or hex, one datagram a line";
    let shape = "give a file with the shape of those in tests/vectors";
    for (content, error) in [
        (&b""[..], "input: the file is empty; name one that holds datagrams".to_owned()),
        (b"7f00\n7f0g\n", format!("input:2: character 4 is 'g', and no hex digit; {line}")),
        (b"7f0\n", format!("input:1: 3 hex digits, an odd number: one is missing or too many; {line}")),
        (&[0x7f, b'E', b'L', b'F', 0, 1], format!("input: neither a capture nor text; {kinds}")),
        (&[0x1f, 0x8b, 8, 0], "input: the file is compressed; unpack it first, for example with zcat".to_owned()),
        (b"{\"a\": 1}", format!("input: JSON without `runs`, `keyring` or `vectors`; {shape}")),
        (b"{\n  \"runs\": 5x}", format!("input:2:12: expected `,` or `}}`; {shape}")),
    ] {
        assert_eq!(decoded(content, brief()).error, Some(error));
    }
    let long = vec![b'0'; 1 << 20];
    assert_eq!(decoded(&long, brief()).error, Some(format!("input:1: a line of more than 1 MiB; {line}")));
    let bad = run(&DecodeArgs { hex: vec!["xyz".to_owned()], ..brief() }, Knowledge::default());
    let said =
        "argument 1: character 1 is 'x', and no hex digit; give one datagram in quotes, or name a file with --file";
    assert_eq!(bad.error.as_deref(), Some(said));
}

#[test]
fn a_plaintext_longer_than_any_datagram_is_refused() {
    let payload = |name: &str, len: usize| serde_json::json!({ "name": name, "type": 2, "malformed": true, "payload": "00".repeat(len) });
    let file =
        serde_json::json!({ "vectors": [payload("longest", MAX_DATAGRAM), payload("longer", MAX_DATAGRAM + 1)] });
    let ran = decoded(file.to_string().as_bytes(), brief());
    let said = "input: longer: a payload of 2049 bytes, more than the 2048 of the longest datagram; give the plaintext of \
                one packet";
    assert_eq!((ran.lines().len(), ran.error.as_deref()), (1, Some(said)));
}

#[test]
fn what_came_before_a_fault_is_explained() {
    let ran = decoded(b"7f00\nnothing\n", brief());
    assert_eq!((ran.lines().len(), ran.error.is_some()), (1, true));
}

#[test]
fn no_error_quotes_a_key() {
    let key = "a05c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c0";
    let text = format!(
        "{{\"keyring\": {{\"networks\": [{{\"id\": 1, \"key\": \"{key}\"}}], \"devices\": []}}, \"vectors\": []}}"
    );
    let error = decoded(text.as_bytes(), brief()).error.unwrap();
    assert!(error.contains("a key that is not 64 hex digits") && !error.contains("5c5c"), "{error}");
}

#[test]
fn every_vector_becomes_what_its_file_expects() {
    for (name, count) in [("firmware-capture.json", 270), ("epacket-v0.json", 227), ("tdf-announce.json", 34)] {
        let arguments = DecodeArgs { file: vec![vectors(name)], json: true, ..DecodeArgs::default() };
        let ran = run(&arguments, Knowledge::default());
        assert_eq!(ran.error, None);
        let objects: Vec<Value> = ran.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), count, "{name}");
        let unmet: Vec<_> = objects.iter().filter(|object| object["asExpected"] == false).collect();
        assert!(unmet.is_empty(), "{name}: {unmet:?}");
        let compared = objects.iter().filter(|object| object["asExpected"] == true).count();
        assert!(compared > count / 2, "{name}: only {compared}");
    }
}

/// Clears the screen, rings, ends the line, begins colours with the control characters of one byte and of two.
const STEERING: &str = "\u{1b}[2J\u{7}\r\n\u{7f}\u{9b}31m";

#[test]
fn nothing_that_a_file_says_can_steer_a_terminal() {
    let key = "5c".repeat(32);
    let keys = serde_json::json!({
        "network_id": 1, "network_root_key": key, "device_root_key": key, "device_key_id": 2
    });
    let datagram = serde_json::json!({
        "time": 1, "dir": "up", "addr": "192.0.2.1:1", "hex": "7f", "timeClass": STEERING, "note": STEERING
    });
    let run = serde_json::json!({
        "name": STEERING, "device_id": "d000000000001001", "keys": keys, "datagrams": [datagram]
    });
    let vector = serde_json::json!({
        "name": STEERING, "expect": "accept", "reason": STEERING, "datagram": "7f"
    });
    let payload = serde_json::json!({ "name": STEERING, "type": 2, "malformed": true, "payload": "00" });
    let directed = serde_json::json!({ "name": "", "expect": "", "datagram": "7f", "direction": STEERING });
    let keyring = serde_json::json!({ "networks": [], "devices": [] });
    // Whatever is printed or said has no control character, which `run` of these tests looks at.
    for (file, is_read) in [
        (serde_json::json!({ "runs": [run] }), true),
        (serde_json::json!({ "keyring": keyring, "vectors": [vector] }), true),
        (serde_json::json!({ "vectors": [payload] }), true),
        (serde_json::json!({ "keyring": keyring, "vectors": [directed] }), false),
    ] {
        for arguments in [DecodeArgs::default(), brief(), DecodeArgs { json: true, ..DecodeArgs::default() }] {
            let shown = !arguments.brief || !is_read;
            let ran = decoded(file.to_string().as_bytes(), arguments);
            assert_eq!((ran.error.is_none(), ran.out.is_empty()), (is_read, !is_read), "{:?}", ran.error);
            let said = if is_read { ran.out } else { ran.error.unwrap() };
            assert_eq!(said.contains("31m"), shown, "{said}");
        }
    }
}

#[test]
fn the_name_of_a_file_cannot_steer_a_terminal_either() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(STEERING);
    let arguments = DecodeArgs { file: vec![path.clone()], ..DecodeArgs::default() };
    let missing = run(&arguments, Knowledge::default()).error.unwrap();
    assert!(missing.contains("/[2J31m: No such file"), "{missing}");
    std::fs::write(&path, "7f\nno\n").unwrap();
    let ran = run(&arguments, Knowledge::default());
    assert!(ran.out.contains("/[2J31m:1, up") && ran.error.unwrap().contains("/[2J31m:2: "), "{}", ran.out);
}

#[test]
fn an_expectation_that_is_not_met_is_said() {
    let text = std::fs::read_to_string(vectors("tdf-announce.json")).unwrap();
    let wrong = text.replace("\"malformed\": false", "\"malformed\": true");
    let ran = decoded(wrong.as_bytes(), brief());
    assert!(ran.lines()[0].ends_with(", NOT AS EXPECTED"), "{}", ran.out);
    let ran = decoded(wrong.as_bytes(), DecodeArgs::default());
    assert!(ran.out.contains("expected: malformed, BUT IT IS NOT"), "{}", ran.out);
}

#[test]
fn one_line_of_a_plaintext_says_that_it_is_malformed() {
    let text = std::fs::read_to_string(vectors("tdf-announce.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    let ran = decoded(text.as_bytes(), brief());
    let said: Vec<_> = ran.lines().iter().map(|line| line.ends_with(", malformed")).collect();
    let expected: Vec<_> = file["vectors"].as_array().unwrap().iter().map(|one| one["malformed"] == true).collect();
    assert_eq!(said, expected);
}

#[test]
fn at_another_time_another_class_holds() {
    let arguments = DecodeArgs {
        file: vec![vectors("firmware-capture.json")],
        at: Some(NOW.after(std::time::Duration::from_secs(864_000))),
        ..brief()
    };
    let ran = run(&arguments, Knowledge::default());
    assert!(ran.out.contains(", old, route refreshed") && !ran.out.contains(", fresh"), "{}", ran.out);
    assert!(!ran.out.contains("NOT AS EXPECTED"));
}

#[test]
fn an_object_has_stable_names() {
    let arguments = DecodeArgs { hex: vec![DATAGRAM.to_owned()], json: true, ..DecodeArgs::default() };
    let object: Value = serde_json::from_str(&run(&arguments, Knowledge::default()).out).unwrap();
    assert_eq!((&object["number"], &object["length"], &object["direction"]), (&1.into(), &41.into(), &"up".into()));
    let fields = &object["header"]["fields"];
    assert_eq!(fields["type"]["value"], 127);
    assert_eq!(
        (&fields["device_id"]["offset"], &fields["device_id"]["value"]),
        (&6.into(), &"d000000000001001".into())
    );
    assert_eq!(
        (&object["verdict"]["disposition"], &object["verdict"]["rule"]),
        (&"unknown_network".into(), &"R0".into())
    );
    assert!(object.get("payload").is_none());
}

#[test]
fn a_gateway_that_does_not_serve_the_factory_network_refuses_what_is_explained() {
    let factory = "7f0000000000000000d00810000092a3364b0000eba32d5dc8c57b29b04b0ab7c19cbb87da5b0c0fa9";
    let arguments = DecodeArgs { hex: vec![factory.to_owned()], ..DecodeArgs::default() };
    let printed = |refuses_factory| run(&arguments, Knowledge { refuses_factory, ..Knowledge::default() }).out;
    let (served, refused) = (printed(false), printed(true));
    for text in [&served, &refused] {
        assert!(text.contains("device_key_id      0x17f860"), "{text}");
    }
    assert!(served.contains("verdict: accepted, rule R4.8 unproven"), "{served}");
    assert!(refused.contains("verdict: unknown_network, rule R0"), "{refused}");
}

/// A container with one entry, sealed bytes that were heard on `interface`.
fn container_of(interface: RouteInterface) -> Vec<u8> {
    let bt = (interface == RouteInterface::BtAdv).then_some(BtAddress { kind: 1, bytes: [1, 2, 3, 4, 5, 6] });
    let mut container = Vec::new();
    Entry { interface, bt, rssi_dbm: -70, content: Content::Sealed(&[0; 50]) }.encode(&mut container).unwrap();
    container
}

#[test]
fn a_packet_of_a_network_that_is_not_served_is_refused_before_it_is_opened() {
    let key = || RootKey::new(FACTORY_NETWORK_KEY);
    let served = || Knowledge { refuses_factory: true, ..Knowledge::default() };
    let again = || Knowledge { keys: vec![Key::Network(FACTORY_NETWORK, key())], ..served() };
    let mut broken = sealed(PacketType::MEMFAULT_CHUNK, b"chunk");
    *broken.last_mut().unwrap() ^= 1;
    let verdict = |knowledge| {
        let mut decoder = Decoder::new(knowledge, NOW, false);
        decoder.explain(Datagram::new("broken".to_owned(), broken.clone())).verdict.unwrap()
    };
    let refused = verdict(served());
    assert_eq!(refused.disposition, Some(Disposition::UnknownNetwork));
    assert!(refused.why[1].starts_with("The key that the header names does not open it"), "{:?}", refused.why);
    assert_eq!(verdict(again()).disposition, Some(Disposition::BadTag));

    // The relay is of a network of the gateway's own, and heard a device of the factory network.
    let network = KeyId::new(7).unwrap();
    let relay = Header { key_id: network, ..header(PacketType::RECEIVED_EPACKET, 0) };
    let heard = |knowledge: Knowledge| {
        let mut decoder = Decoder::new(knowledge, NOW, false);
        decoder.learn(vec![Key::Network(network, key())]);
        let datagram = sealed_as(&relay, &container_of(RouteInterface::BtAdv));
        let explained = decoder.explain(Datagram::new("container".to_owned(), datagram));
        explained.parts[1].parts[0].verdict.clone().unwrap().disposition
    };
    assert_eq!(heard(served()), Some(Disposition::UnknownNetwork));
    assert_eq!(heard(again()), Some(Disposition::BadTag));
}

#[test]
fn a_device_that_is_not_registered_is_refused_where_only_registered_ones_are_served() {
    let arguments = DecodeArgs { file: vec![vectors("firmware-capture.json")], ..brief() };
    let table = TableConfig { unregistered: Unregistered::Deny, ..TableConfig::default() };
    let registered = vec!["d000000000001001".parse().unwrap()];
    let ran = run(&arguments, Knowledge { table, registered, ..Knowledge::default() });
    let ends: Vec<_> = ran.lines().into_iter().filter(|line| line.contains(" up ")).collect();
    assert!(ends.iter().all(|line| line.contains(" accepted, ") == line.contains(" d000000000001001 ")), "{}", ran.out);
    assert!(ran.out.contains("not_registered, rule R9"), "{}", ran.out);
}

#[test]
fn a_missing_key_is_asked_for() {
    let device = DATAGRAM.replacen("7f0000", "7f0080", 1);
    let hex = vec![DATAGRAM.to_owned(), device];
    let ran = run(&DecodeArgs { hex, ..DecodeArgs::default() }, Knowledge::default());
    assert!(ran.out.contains("To open it: --network-key 000a17=FILE, or --config FILE."), "{}", ran.out);
    assert!(ran.out.contains("To open it: --device-key d000000000001001=FILE with its root key"), "{}", ran.out);
}

/// Ends as a pipe does whose reader has gone.
struct Closed(ErrorKind);

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::from(self.0))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_has_gone_is_no_error_and_a_full_disk_is_one() {
    let arguments = DecodeArgs { file: vec![vectors("firmware-capture.json")], ..DecodeArgs::default() };
    let result = |kind| decode::run(&arguments, Knowledge::default(), NOW, io::empty(), Closed(kind), &mut Vec::new());
    assert!(result(ErrorKind::BrokenPipe).is_ok());
    assert_eq!(
        result(ErrorKind::StorageFull).unwrap_err().to_string(),
        "cannot write the explanation: no storage space; make room or write elsewhere"
    );
}

/// Says some bytes and then fails, as a disk does.
struct Failing(&'static [u8]);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::Error::from_raw_os_error(5)) } else { self.0.read(buffer) }
    }
}

#[test]
fn what_fails_while_it_is_read_is_named_with_a_remedy() {
    let arguments = DecodeArgs { file: vec!["-".into()], ..brief() };
    let source = Failing(b"# a remark that is longer than the beginning\n7f00\n");
    let mut out = Vec::new();
    let error = decode::run(&arguments, Knowledge::default(), NOW, source, &mut out, &mut Vec::new()).unwrap_err();
    let said = "cannot go on reading standard input:3: Input/output error; see that the disk or the program that it comes \
                from is sound, and read it again";
    assert_eq!((error.to_string().as_str(), String::from_utf8(out).unwrap().lines().count()), (said, 1));
}

/// A packet of the factory network, whose key everybody has.
fn sealed(packet_type: PacketType, plaintext: &[u8]) -> Vec<u8> {
    sealed_as(&header(packet_type, 0), plaintext)
}

fn header(packet_type: PacketType, sequence: u16) -> Header {
    let (key_id, device_id, gps_time) = (FACTORY_NETWORK, DeviceId(1), NOW.gps());
    Header { packet_type, flags: Flags(0), key_id, device_id, gps_time, sequence, entropy: 0 }
}

fn sealed_as(header: &Header, plaintext: &[u8]) -> Vec<u8> {
    let key = RootKey::new(FACTORY_NETWORK_KEY).day_key(Interface::Udp, header.rotation());
    let mut datagram = Vec::new();
    seal_with(&key, header, Layout::Unversioned, plaintext, &mut datagram);
    datagram
}

#[test]
fn a_device_that_moves_is_seen_to_move() {
    let mut decoder = Decoder::new(Knowledge::default(), NOW, false);
    let mut verdict = |sequence, from: &str| {
        let bytes = sealed_as(&header(PacketType::MEMFAULT_CHUNK, sequence), b"chunk");
        let from = Some(from.parse().unwrap());
        let verdict = decoder.explain(Datagram { from, ..Datagram::new("made".to_owned(), bytes) }).verdict.unwrap();
        (verdict.rule, verdict.why.last().unwrap().clone())
    };
    let (home, away) = ("192.0.2.1:6200", "198.51.100.9:7");
    assert_eq!(verdict(5, home), ("R4.3 new session", format!("There was no route: {home} becomes it (R5).")));
    assert_eq!(verdict(6, home).1, format!("It comes over the route, {home}, and refreshes it (R5)."));
    assert_eq!(verdict(8, away), ("R4.2 same session", format!("It moves the route from {home} to {away} (R5).")));
    assert_eq!(verdict(7, home), ("R4.5 late", format!("It comes from {home}, and the route stays {away} (R5).")));
    assert_eq!(verdict(7, home).0, "R4.4 bit set");
}

#[test]
fn a_registered_device_has_a_key_of_its_own_even_if_it_is_not_known() {
    let route = |registered: Vec<DeviceId>| {
        let knowledge = Knowledge { registered, policy: RoutePolicy::Strict, ..Knowledge::default() };
        let mut decoder = Decoder::new(knowledge, NOW, false);
        let changes = ["192.0.2.1:6200", "198.51.100.9:7"].into_iter().zip(5..).map(|(from, sequence)| {
            let bytes = sealed_as(&header(PacketType::MEMFAULT_CHUNK, sequence), b"chunk");
            let from = Some(from.parse().unwrap());
            decoder.explain(Datagram { from, ..Datagram::new("made".to_owned(), bytes) }).verdict.unwrap().route
        });
        changes.last().unwrap()
    };
    assert_eq!(route(vec![]), Some(RouteChange::Moved));
    assert_eq!(route(vec![DeviceId(1)]), Some(RouteChange::Kept));
}

#[test]
fn the_gateways_own_packets_that_come_back_are_recognised_with_its_key() {
    let pair = KeyPair::from_private([7; 32]);
    let mut header = header(PacketType::RPC_DATA, 9);
    header.entropy = OwnNonces::new(&pair, NOW).entropy(header.device_id, header.gps_time, header.sequence);
    let rule = |cloud: Option<KeyPair>, header: &Header| {
        let mut decoder = Decoder::new(Knowledge { cloud, ..Knowledge::default() }, NOW, false);
        let datagram = Datagram::new("made".to_owned(), sealed_as(header, &[0; 8]));
        decoder.explain(datagram).verdict.unwrap().rule
    };
    assert_eq!(rule(Some(pair.clone()), &header), "R2");
    assert_eq!(rule(None, &header), "R4.3 new session");
    let other = Header { entropy: header.entropy ^ 1, ..header };
    assert_eq!(rule(Some(pair), &other), "R4.3 new session");
}

/// Whether everything lies in the datagram, and no name occurs twice in a part.
fn lies_within(part: &Part, len: usize) -> bool {
    let fields = part.fields.iter().all(|field| field.at + field.bytes.len() <= len);
    let names: std::collections::HashSet<_> = part.fields.iter().map(|field| field.name).collect();
    fields
        && names.len() == part.fields.len()
        && part.faults.iter().all(|fault| fault.at <= len)
        && part.parts.iter().all(|part| lies_within(part, len))
}

#[test]
fn a_container_of_a_packet_that_does_not_count_is_explained_and_not_judged() {
    for (interface, disposition) in
        [(RouteInterface::BtAdv, Disposition::BadTag), (RouteInterface::Udp, Disposition::UnknownInterface)]
    {
        let datagram = sealed(PacketType::RECEIVED_EPACKET, &container_of(interface));
        let mut decoder = Decoder::new(Knowledge::default(), NOW, false);
        let mut explained = || decoder.explain(Datagram::new("container".to_owned(), datagram.clone()));
        let (first, copy) = (explained(), explained());
        let entry = |explained: &decode::Explained| explained.parts[1].parts[0].clone();
        let verdict = entry(&first).verdict.unwrap();
        assert_eq!(verdict.disposition, Some(disposition));
        assert!(decode::text(&copy).contains("a gateway does not look at the entries"), "{}", decode::text(&copy));
        assert_eq!((entry(&copy).verdict, &entry(&copy).notes), (None, &verdict.why));
        assert_eq!(entry(&copy).fields, entry(&first).fields);
    }
}

proptest! {
    #[test]
    fn no_datagram_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..MAX_DATAGRAM + 100)) {
        let mut decoder = Decoder::new(Knowledge::default(), NOW, false);
        let explained = decoder.explain(Datagram::new("random".to_owned(), bytes));
        prop_assert!(decode::text(&explained).contains("verdict: "));
        prop_assert!(decode::json(&explained)["verdict"]["disposition"].is_string());
        prop_assert_eq!(decode::brief(&explained).lines().count(), 1);
    }

    #[test]
    fn no_plaintext_is_too_strange(kind: u8, plaintext in prop::collection::vec(any::<u8>(), 0..300)) {
        let datagram = sealed(PacketType(kind), &plaintext);
        let len = datagram.len();
        let mut decoder = Decoder::new(Knowledge::default(), NOW, false);
        let explained = decoder.explain(Datagram::new("random".to_owned(), datagram));
        prop_assert_eq!(&explained.parts[1].dump, &plaintext);
        prop_assert!(explained.parts.iter().all(|part| lies_within(part, len)), "{}", decode::text(&explained));
    }

    #[test]
    fn no_file_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let ran = decoded(&bytes, brief());
        prop_assert!(ran.error.is_none_or(|error| error.starts_with("input")));
    }
}

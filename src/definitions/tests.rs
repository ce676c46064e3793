//! What definitions make of calls, from the file to the bytes.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::layout::{Count, Field, Integer, Kind};
use super::*;

/// A small plant: every form that a field can have.
const PLANT: &str = r#"{
    "structs": {
        "reading": {"fields": [{"name": "probe", "type": "uint8_t"}, {"name": "value", "type": "int32_t"}]},
        "label": {"fields": [
            {"name": "len", "type": "int16_t"},
            {"name": "text", "type": "char", "num": 0, "counted_by": "len"}
        ]},
        "blob": {"fields": [{"name": "id", "type": "uint8_t"}, {"name": "data", "type": "uint8_t", "num": 0}]},
        "pair": {"description": "two of them", "fields": [{"name": "both", "type": "struct reading", "num": 2}]}
    },
    "enums": {
        "valve": {"type": "uint8_t", "values": [{"name": "SHUT", "value": 0}, {"name": "OPEN", "value": 9}]},
        "drift": {"type": "int16_t", "values": [{"name": "COLD", "value": -300}]}
    },
    "commands": {
        "40000": {
            "name": "water", "description": "Open a valve", "default_auth": "EPACKET_AUTH_NETWORK", "depends_on": "PUMP",
            "request_params": [
                {"name": "valve", "type": "enum valve"},
                {"name": "drift", "type": "enum drift"},
                {"name": "litres", "type": "float"},
                {"name": "exact", "type": "double"},
                {"name": "who", "type": "char", "num": 4},
                {"name": "grade", "type": "char"},
                {"name": "rows", "type": "uint16_t", "num": 0}
            ],
            "response_params": [
                {"name": "count", "type": "uint8_t"},
                {"name": "labels", "type": "struct label", "num": 0, "counted_by": "count"},
                {"name": "note", "type": "char", "num": 0}
            ]
        },
        "40001": {
            "name": "measure", "default_auth": "EPACKET_AUTH_DEVICE", "rpc_data": true,
            "request_params": [{"name": "key", "type": "uint8_t", "num": 3}, {"name": "pair", "type": "struct pair"}],
            "response_params": [{"name": "readings", "type": "struct reading", "num": 0}]
        },
        "40002": {
            "name": "store",
            "request_params": [{"name": "blobs", "type": "struct blob", "num": 0}],
            "response_params": []
        },
        "9": {"name": "application_info", "request_params": [], "response_params": [{"name": "own", "type": "uint8_t"}]},
        "40003": {"name": "reboot", "request_params": [], "response_params": []}
    }
}"#;

fn load(text: &str) -> Result<Definitions, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().display().to_string();
    Definitions::read(file.path()).map_err(|error| error.to_string().replace(&path, "FILE"))
}

fn plant() -> Definitions {
    load(PLANT).unwrap()
}

/// What is wrong with these parameters.
fn refusal(id: u16, params: &Value) -> String {
    plant().encode(id, params).unwrap_err().to_string()
}

#[test]
fn without_a_file_commands_have_names_and_the_documented_ones_fields() {
    let definitions = Definitions::default();
    assert_eq!((definitions.id("file_write_basic"), definitions.name(40)), (Some(40), Some("file_write_basic")));
    assert_eq!((definitions.id("nothing"), definitions.name(99)), (None, None));
    let command = definitions.command(14).unwrap();
    assert_eq!((command.level, command.moves_data), (Some(Level::Device), true));
    assert_eq!(definitions.commands().count(), 28);

    assert_eq!(definitions.encode(4, &json!({"epoch_time": "258"})), Ok(vec![2, 1, 0, 0, 0, 0, 0, 0]));
    assert_eq!(definitions.encode(30_000, &json!({"challenge": "000102030405060708090a0b0c0d0e0f"})).unwrap()[15], 15);
    let info: Vec<u8> = (1..=36).collect();
    assert_eq!(
        definitions.decode(9, &info),
        Some(json!({
            "application_id": "67305985",
            "version": {"major": "5", "minor": "6", "revision": "2055", "build_num": "202050057"},
            "network_id": "269422093",
            "uptime": "336794129",
            "reboots": "404166165",
            "kv_crc": "471538201",
            "data_blocks_internal": "538910237",
            "data_blocks_external": "606282273",
        }))
    );
    assert_eq!(definitions.decode(9, &info[1..]), None);
    assert_eq!(definitions.decode_request(3, &[]), Some(json!({})));
    let keys = [&[3, 1, 4][..], &[7; 32]].concat();
    assert_eq!(definitions.decode(30_002, &keys).unwrap()["public_keys"][0]["id"], "4");
}

#[test]
fn a_command_without_fields_takes_none_and_says_what_to_give_instead() {
    let definitions = Definitions::default();
    assert_eq!(definitions.encode(15, &json!({})), Ok(vec![]));
    assert_eq!(definitions.decode(15, &[1]), None);
    for (id, command) in [(15, "command 15 (mem_read)"), (99, "command 99")] {
        let error = definitions.encode(id, &json!({"address": "1"})).unwrap_err().to_string();
        let rest = "are not known; give the packed parameters (paramsEncoded), or load the definitions of your firmware into \
                    the gateway with --rpc-definitions";
        assert_eq!(error, format!("the fields of {command} {rest}"));
    }
}

#[test]
fn every_kind_of_field_is_packed_and_read() {
    let definitions = plant();
    let request = json!({
        "valve": "OPEN", "drift": "COLD", "litres": 1.5, "exact": "-0.1", "who": "ab", "grade": "c", "rows": ["1", 258],
    });
    let packed = definitions.encode(40_000, &request).unwrap();
    let expected = [
        &[9][..],
        &(-300_i16).to_le_bytes(),
        &1.5_f32.to_le_bytes(),
        &(-0.1_f64).to_le_bytes(),
        b"ab\0\0c",
        &[1, 0, 2, 1],
    ];
    assert_eq!(packed, expected.concat());
    let hidden = [&packed[..15], b"a\0b\0c"].concat();
    assert_eq!(definitions.decode_request(40_000, &hidden), None, "what stands behind a zero would be lost");
    let shown = json!({
        "valve": "9", "drift": "-300", "litres": "1.5", "exact": "-0.1", "who": "ab", "grade": "c", "rows": ["1", "258"],
    });
    assert_eq!(definitions.decode_request(40_000, &packed), Some(shown.clone()));
    assert_eq!(definitions.encode(40_000, &shown), Ok(packed));

    let pair = json!({"both": [{"probe": true, "value": -1}, {"probe": "2", "value": "2"}]});
    let packed = definitions.encode(40_001, &json!({"key": "0aff00", "pair": pair})).unwrap();
    assert_eq!(packed, [10, 255, 0, 1, 255, 255, 255, 255, 2, 2, 0, 0, 0]);
    assert_eq!(definitions.decode_request(40_001, &packed).unwrap()["key"], json!(["10", "255", "0"]));
    let blobs = json!({"blobs": [{"id": 1, "data": [2, 3]}, {"id": 4, "data": ""}]});
    assert_eq!(definitions.encode(40_002, &blobs), Ok(vec![1, 2, 3, 4]));
}

#[test]
fn lists_end_where_their_count_says_and_a_negative_count_is_of_none() {
    let definitions = plant();
    let result = [&[2, 2, 0][..], b"hi", &[0xfb, 0xff], b"rest\0\0"].concat();
    let shown = json!({
        "count": "2", "labels": [{"len": "2", "text": "hi"}, {"len": "-5", "text": ""}], "note": "rest\0\0",
    });
    assert_eq!(definitions.decode(40_000, &result), Some(shown));
    assert_eq!(definitions.decode(40_000, &result[..5]), None, "the second label is missing");
    assert_eq!(definitions.decode(40_000, &[0]).unwrap()["note"], "");
    assert_eq!(
        definitions.decode(40_000, &[0, 0, 0]).unwrap()["note"],
        "\0\0",
        "zeros are filling in fixed lengths only"
    );
    assert_eq!(definitions.decode(40_000, &[0, 0xff]), None, "no UTF-8");
    assert_eq!(definitions.decode(40_001, &[1, 0, 0, 0, 0]).unwrap()["readings"][0]["probe"], "1");
    assert_eq!(definitions.decode(40_001, &[1, 0, 0, 0, 0, 2]), None, "half a reading");
    assert_eq!(definitions.decode_request(40_002, &[1, 2]), None, "nothing says where the next blob begins");
}

#[test]
fn what_counts_a_list_may_be_left_out_and_else_has_to_fit() {
    let text = PLANT.replace(
        "\"40002\": {",
        "\"40004\": {\"name\": \"tag\", \"request_params\": [\
        {\"name\": \"n\", \"type\": \"uint8_t\"}, \
        {\"name\": \"tags\", \"type\": \"struct label\", \"num\": 0, \"counted_by\": \"n\"}], \
        \"response_params\": []}, \
        \"40005\": {\"name\": \"pairs\", \"request_params\": [\
        {\"name\": \"n\", \"type\": \"uint8_t\"}, \
        {\"name\": \"keys\", \"type\": \"char\", \"num\": 0, \"counted_by\": \"n\"}, \
        {\"name\": \"values\", \"type\": \"int16_t\", \"num\": 0, \"counted_by\": \"n\"}], \
        \"response_params\": []}, \"40002\": {",
    );
    let definitions = load(&text).unwrap();
    let tags = json!({"tags": [{"text": "ab"}, {"len": "0", "text": ""}]});
    assert_eq!(definitions.encode(40_004, &tags), Ok(vec![2, 2, 0, b'a', b'b', 0, 0]));
    for (params, problem) in [
        (json!({"n": 1, "tags": []}), "tags: 1 elements are wanted, and 0 are given"),
        (json!({"tags": [{"len": 3, "text": "ab"}]}), "tags[0].text: 3 elements are wanted, and 2 are given"),
        (json!({"n": 1}), "tags: a list is wanted, and nothing is given"),
        (json!({"tags": vec![json!({"text": ""}); 256]}), "n: a whole number from 0 to 255 is wanted"),
    ] {
        let error = definitions.encode(40_004, &params).unwrap_err().to_string();
        assert_eq!(error, format!("the params of command 40004 (tag) do not fit: {problem}"));
    }
    assert_eq!(definitions.encode(40_005, &json!({"keys": "ab", "values": [1, 2]})).unwrap()[..3], *b"\x02ab");
    let error = definitions.encode(40_005, &json!({"keys": "ab", "values": [1]})).unwrap_err().to_string();
    assert!(error.ends_with("values: 2 elements are wanted, and 1 are given"), "{error}");
}

#[test]
fn a_value_that_does_not_fit_is_told_with_its_place_and_what_is_wanted() {
    let whole = json!({
        "valve": "SHUT", "drift": 0, "litres": 1, "exact": 1, "who": "", "grade": "a", "rows": [1, 2],
    });
    assert!(plant().encode(40_000, &whole).is_ok());
    for (field, value, problem) in [
        ("valve", json!("AJAR"), "one of SHUT, OPEN is wanted, or a number from 0 to 255"),
        ("valve", json!(256), "one of SHUT, OPEN is wanted, or a number from 0 to 255"),
        ("litres", json!("much"), "a number is wanted"),
        ("exact", json!([]), "a number is wanted"),
        ("who", json!("abcde"), "a text of at most 4 bytes is wanted, and this one has 5"),
        ("who", json!(5), "a text is wanted"),
        ("grade", json!("ab"), "a text of at most 1 bytes is wanted, and this one has 2"),
        ("rows", json!("1"), "a list is wanted, in brackets"),
    ] {
        let mut params = whole.clone();
        params[field] = value;
        let error = refusal(40_000, &params);
        assert_eq!(error, format!("the params of command 40000 (water) do not fit: {field}: {problem}"));
    }
    for value in [json!("-1"), json!(65_536), json!(1.5), json!("1.0"), json!(null), json!(""), json!({})] {
        let mut params = whole.clone();
        params["rows"] = json!([1, value]);
        assert!(refusal(40_000, &params).ends_with("rows[1]: a whole number from 0 to 65535 is wanted"));
    }
    let pair = |probe: Value| json!({"key": [1, 2, 3], "pair": {"both": [{"probe": 1, "value": 1}, probe]}});
    for (params, problem) in [
        (pair(json!({"probe": 1})), "pair.both[1].value: a number is wanted, and nothing is given"),
        (pair(json!({"probe": 1, "valeu": 1})), "pair.both[1].valeu: no such field; use probe, value"),
        (pair(json!(7)), "pair.both[1]: an object with its fields is wanted"),
        (json!({"key": [1, 2]}), "key: 3 elements are wanted, and 2 are given"),
        (json!({"key": "0"}), "key: a list of numbers is wanted, or bytes in hex"),
        (json!([]), "an object with its fields is wanted"),
    ] {
        assert!(refusal(40_001, &params).ends_with(&format!(" do not fit: {problem}")), "{}", refusal(40_001, &params));
    }
    let error = plant().encode(40_003, &json!({"in": 5})).unwrap_err().to_string();
    assert!(error.ends_with("in: no such field; there are none, leave it out"), "{error}");
    assert!(!refusal(40_001, &json!({"\u{1b}[2J": 1})).contains('\u{1b}'));
}

#[test]
fn more_than_any_call_holds_is_not_packed() {
    let error = refusal(
        40_000,
        &json!({
            "valve": 0, "drift": 0, "litres": 1, "exact": 1, "who": "", "grade": "", "rows": vec![1; 40_000],
        }),
    );
    assert!(
        error.contains("rows[") && error.ends_with("with it there are more than 65536 bytes; give less"),
        "{error}"
    );
}

#[test]
fn the_file_holds_where_it_names_a_command_that_is_built_in() {
    let definitions = plant();
    assert_eq!(definitions.decode(9, &[7]), Some(json!({"own": "7"})));
    assert_eq!((definitions.id("reboot"), definitions.name(1)), (Some(40_003), None));
    assert_eq!(definitions.id("time_get"), Some(3));
    let command = |id| definitions.command(id).map(|command| (command.level, command.moves_data));
    assert_eq!(command(40_000), Some((Some(Level::Network), false)));
    assert_eq!(command(40_001), Some((Some(Level::Device), true)));
    assert_eq!(command(40_002), Some((None, false)));
}

#[test]
fn a_file_of_no_use_is_told_in_one_line_with_place_and_remedy() {
    let command = |params: &str| {
        format!(
            "{{\"commands\": {{\"7\": {{\"name\": \"a\", \"request_params\": {params}, \"response_params\": []}}}}}}"
        )
    };
    for (text, error) in [
        (
            "{",
            "FILE: EOF while parsing an object at line 1 column 1; name a file of the form of the device SDK's rpc.json",
        ),
        (
            "{}",
            "FILE: missing field `commands` at line 1 column 2; name a file of the form of the device SDK's rpc.json",
        ),
        (
            "{\"commands\": {\"70000\": {\"name\": \"a\", \"request_params\": [], \"response_params\": []}}}",
            "FILE: commands.70000: not a number from 0 to 65535 as it is usually written; name commands by their ids",
        ),
        (
            &command("[]").replace("\"7\"", "\"007\""),
            "FILE: commands.007: not a number from 0 to 65535 as it is usually written; name commands by their ids",
        ),
        (
            "{\"commands\": {}, \"structs\": {\"s\": {\"fields\": []}, \"s\": {\"fields\": []}}}",
            "FILE: \"s\" stands there twice at line 1 column 53; name a file of the form of the device SDK's rpc.json",
        ),
        (
            "{\"commands\": {}, \"commands\": {}}",
            "FILE: duplicate field `commands` at line 1 column 27; name a file of the form of the device SDK's rpc.json",
        ),
        (
            &command("[{\"name\": \"x\", \"type\": \"uint7_t\"}]"),
            "FILE: commands.7.request_params.x: \"uint7_t\" is no type; write int8_t to int64_t, uint8_t to uint64_t, float, \
             double, char, struct NAME or enum NAME",
        ),
        (
            &command("[{\"name\": \"x\", \"type\": \"struct y\"}]"),
            "FILE: commands.7.request_params.x: there is no struct \"y\"; define it in this file",
        ),
        (
            &command("[{\"name\": \"x\", \"type\": \"enum y\"}]"),
            "FILE: commands.7.request_params.x: there is no enum \"y\"; define it in this file",
        ),
        (
            &command("[{\"name\": \"x\", \"type\": \"char\", \"num\": 0, \"counted_by\": \"n\"}]"),
            "FILE: commands.7.request_params.x: no integer before it is called \"n\"; correct counted_by",
        ),
        (
            &command("[{\"name\": \"x\", \"type\": \"char\", \"num\": 65537}]"),
            "FILE: commands.7.request_params: with \"x\" the fields have more than 65536 bytes; see that its num is right",
        ),
        (
            &command("[]").replace("\"name\"", "\"default_auth\": \"ROOT\", \"name\""),
            "FILE: commands.7.default_auth: \"ROOT\" is no level; write EPACKET_AUTH_NETWORK or EPACKET_AUTH_DEVICE",
        ),
        (
            &PLANT.replace("\"store\"", "\"water\""),
            "FILE: commands.40002: command 40000 is called \"water\" too; give one another name",
        ),
    ] {
        assert_eq!(load(text).unwrap_err(), error);
    }
    let missing = Definitions::read(Path::new("no/such/rpc.json")).unwrap_err().to_string();
    assert_eq!(missing, "cannot read no/such/rpc.json: No such file or directory; create it or correct the path");
    let endless = Definitions::read(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(endless.starts_with("/dev/zero has more than 4194304 bytes"), "{endless}");
}

#[test]
fn structures_that_hold_themselves_or_lie_too_deep_or_grow_without_end_are_refused() {
    let nested = |depth: usize, members: &dyn Fn(usize) -> String| {
        let structs: Vec<_> = (0..depth)
            .map(|at| format!("\"s{at}\": {{\"fields\": [{}]}}", if at == 0 { byte() } else { members(at - 1) }))
            .collect();
        let fields = members(depth - 1);
        format!(
            "{{\"structs\": {{{}}}, \"commands\": {{\"1\": {{\"name\": \"a\", \"request_params\": [{fields}], \
             \"response_params\": []}}}}}}",
            structs.join(", ")
        )
    };
    fn byte() -> String {
        "{\"name\": \"n\", \"type\": \"uint8_t\"}".to_owned()
    }
    let one = |at: usize| format!("{{\"name\": \"x\", \"type\": \"struct s{at}\"}}");
    assert!(load(&nested(16, &one)).is_ok());
    let error = load(&nested(17, &one)).unwrap_err();
    assert!(error.contains("more than 16 deep in one another"), "{error}");
    let error = load(&nested(1, &one).replace("\"type\": \"uint8_t\"", "\"type\": \"struct s0\"")).unwrap_err();
    assert!(error.ends_with("struct \"s0\" holds itself; take it out"), "{error}");
    let many = |at: usize| format!("{{\"name\": \"x\", \"type\": \"struct s{at}\", \"num\": 100}}");
    assert!(load(&nested(4, &many)).unwrap_err().contains("have more than 65536 bytes"));
    // Each level holds lists of the one below: nothing in bytes, but not without end to make.
    let counted = |at: usize| {
        let lists: Vec<_> = (0..50)
            .map(|list| {
                format!("{{\"name\": \"l{list}\", \"type\": \"struct s{at}\", \"num\": 0, \"counted_by\": \"n\"}}")
            })
            .collect();
        format!("{}, {}", byte(), lists.join(", "))
    };
    assert_eq!(load(&nested(15, &counted)).unwrap().decode_request(1, &[0]).unwrap()["l49"], json!([]));
}

/// Layouts of integers and characters, alone, in lists and in structures.
fn layouts() -> impl Strategy<Value = Layout> {
    let integer =
        (0..4_u32, any::<bool>()).prop_map(|(width, signed)| Kind::Integer(Integer { bytes: 1 << width, signed }));
    let leaf = prop_oneof![integer, Just(Kind::Character)];
    let kind = leaf.prop_recursive(3, 12, 3, |inner| {
        prop::collection::vec((inner, 0..5_usize), 1..3)
            .prop_map(|kinds| Kind::Structure(Arc::new(layout(kinds, false))))
    });
    (prop::collection::vec((kind, 0..5_usize), 0..5), any::<bool>()).prop_map(|(kinds, open)| layout(kinds, open))
}

/// A layout of such kinds, of which some are lists, and several of these counted by the first field; an `open` one ends in a
/// list of all that follows.
fn layout(kinds: Vec<(Kind, usize)>, open: bool) -> Layout {
    let last = kinds.len();
    let fields = kinds.into_iter().enumerate().flat_map(|(at, (kind, elements))| {
        let count = match elements {
            _ if open && at + 1 == last => Count::Rest,
            0 => Count::One,
            3 => Count::By(at * 2),
            4 => Count::By(0),
            elements => Count::Fixed(elements),
        };
        let counter = Field { name: format!("n{at}").into(), kind: Kind::Integer(Integer::U8), count: Count::One };
        [counter, Field { name: format!("f{at}").into(), kind, count }]
    });
    Layout::new(fields.collect()).unwrap()
}

proptest! {
    #[test]
    fn whatever_is_read_is_packed_to_the_same_bytes(layout in layouts(), bytes in prop::collection::vec(0..4_u8, 0..64)) {
        for len in 0..bytes.len() {
            if let Some(shown) = decode::decode(&layout, &bytes[..len]) {
                prop_assert_eq!(encode::encode(&layout, &shown), Ok(bytes[..len].to_vec()));
            }
        }
    }

    #[test]
    fn every_file_of_a_changed_byte_is_read_or_refused(at in 0..PLANT.len(), byte in any::<u8>(), call in any::<[u8; 24]>()) {
        let mut text = PLANT.as_bytes().to_vec();
        text[at] = byte;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        match Definitions::read(file.path()) {
            Ok(definitions) => for (id, _) in definitions.commands() {
                for len in 0..call.len() {
                    let _ = definitions.decode(id, &call[..len]).map(|shown| definitions.encode(id, &shown));
                }
            }
            Err(error) => prop_assert!(!error.to_string().contains(['\n', '\u{1b}']), "{}", error),
        }
    }
}

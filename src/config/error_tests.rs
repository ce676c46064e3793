//! Every error of the configuration, word for word: where, what is wrong, what to do.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::tests::{DEVICE_ROOT, Site};
use super::*;

const NETWORK: &str = "[[network]]\nid = \"000a17\"\nkey-file = \"fleet.key\"\n";
const DEVICE: &str = "[[device]]\nid = \"d000000000001003\"\n";
const KEY_FILES: &str = "give 32 bytes as base64 (44 characters), as hex (64 digits), or raw";

/// Asserts that each text as `fleet.toml` is the error beside it, which begins with the name of the file.
fn assert_errors<const N: usize>(cases: [(&str, &str); N]) {
    for (toml, expected) in cases {
        assert_eq!(Site::new(toml).error(), format!("fleet.toml:{expected}"), "{toml}");
    }
}

#[test]
fn an_error_is_one_line_whatever_it_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fleet.toml");
    std::fs::write(&path, "rpc-definitions = \"no\\n\\u001b[2Jfile.json\"\n").unwrap();
    let flags = Flags { config: Some(path.display().to_string()), ..Flags::default() };
    let error = Config::load(&flags, []).unwrap_err().to_string();
    assert!(error.contains("rpc-definitions: cannot read") && error.contains("no[2Jfile.json"), "{error}");
    assert!(!error.contains(char::is_control), "{error}");
}

#[test]
fn a_file_that_is_not_toml_is_an_error_with_line_and_column() {
    let quotes = "write a text in quotes, a number in digits alone";
    assert_errors([
        ("log = \"in", "1:10: log: invalid basic string, expected `\"`; correct the TOML there"),
        ("log = info", &format!("1:7: log: invalid float, expected `inf`; {quotes}")),
        ("udp-listen = 0.0.0.0:3001", &format!("1:17: udp-listen: invalid float, expected nothing; {quotes}")),
        (
            "[[network]]\nid = 000a17",
            &format!("2:6: id: string values must be quoted, expected literal string; {quotes}"),
        ),
        ("log =", "1:6: log: string values must be quoted, expected literal string; correct the TOML there"),
        ("log = \"info\"\n\nlog = \"warn\"", "3:1: log: duplicate key; remove one of them"),
        (
            "udp-listen = [\"[::]:1\"\nlog = \"info\"",
            "2:1: log: missing comma between array elements, expected `,`; correct the TOML there",
        ),
        ("\n[[network]\n", "2:11: unclosed array table, expected `]`; correct the TOML there"),
        ("# Gerät\nlog \"é\" = 1", "2:5: key with no value, expected `=`; correct the TOML there"),
        ("\n= 1", "2:1: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`; correct the TOML there"),
        ("log = \"é\" x", "1:11: log: unexpected key or value, expected newline, `#`; correct the TOML there"),
    ]);
}

#[test]
fn an_unknown_key_is_an_error_that_says_which_one_may_be_meant() {
    assert_errors([
        ("log = \"info\"\nudp-listne = \"x\"", "2: udp-listne: no such key; write udp-listen, or remove it"),
        ("udp_listen = \"x\"", "1: udp_listen: no such key; write udp-listen, or remove it"),
        ("[[networks]]\nid = \"000a17\"", "1: networks: no such key; write network, or remove it"),
        ("\"a\\nb\" = 1\nz = 1", &format!("1: a\\nb: no such key; use one of {}, or remove it", all_keys())),
        (&format!("{NETWORK}key = \"x\""), "4: network.key: no such key; use one of id, name, key-file, or remove it"),
        (
            &format!("{NETWORK}{DEVICE_ROOT} = \"x\""),
            "4: network.***: no such key; use one of id, name, key-file, or remove it",
        ),
        (&format!("{NETWORK}keyfile = \"x\""), "4: network.keyfile: no such key; write key-file, or remove it"),
        (
            &format!("{DEVICE}root_key = \"x\"\nroot_key_file = \"x\""),
            "3: device.root_key: no such key; write root-key, or remove it",
        ),
        (
            &format!("{NETWORK}\nlog = \"info\""),
            "5: network.log: no such key; move it above the first [[network]], or remove it",
        ),
    ]);
}

fn all_keys() -> String {
    let names = Name::ALL.into_iter().filter(|name| *name != Name::Config);
    names.map(Name::key).chain(["network", "device"]).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_value_of_another_type_is_an_error_that_says_how_to_write_it() {
    let addresses = "neither an address nor a list of some; write for example [\"0.0.0.0:3001\", \"[::1]:3001\"]";
    assert_errors([
        ("log = true", "1: log: not a text; write it in quotes"),
        ("data-dir = [\"a\"]", "1: data-dir: not a text; write it in quotes"),
        ("\n\nwaiters-total = \"9\"", "3: waiters-total: not a number; write digits without quotes"),
        ("waiters-total = 1.5", "1: waiters-total: not a number; write digits without quotes"),
        ("udp-listen = [3001]", "1: udp-listen: not a list of texts; write each address in quotes"),
        ("udp-listen = 3001", &format!("1: udp-listen: {addresses}")),
        ("udp-listen = []", &format!("1: udp-listen: {addresses}")),
        (
            "[network]\nid = \"000a17\"",
            "1: network: not a list of tables; write [[network]] in double brackets above the keys of each network",
        ),
        (
            "device = [1]",
            "1: device: not a list of tables; write [[device]] in double brackets above the keys of each device",
        ),
        (&format!("{NETWORK}name = 5"), "4: network.name: not a text; write it in quotes"),
        ("[[network]]\nid = \"000a17\"\nkey-file = 5", "3: network.key-file: not a text; write it in quotes"),
        ("[[device]]\nid = 5", "2: device.id: not a text; write it in quotes"),
        (&format!("{DEVICE}root-key = 5"), "3: device.root-key: not a text; write it in quotes"),
    ]);
}

#[test]
fn a_value_that_means_nothing_is_an_error_that_quotes_it() {
    let count = "is not a whole number from 1 to 4294967295; write digits alone, for example 100000";
    let address = "is not an IP address and port; write for example 127.0.0.1:8080 or [::1]:8080 (no host names)";
    assert_errors([
        ("\nunregistered = \"maybe\"", "2: unregistered: \"maybe\" is none of its values; write allow or deny"),
        ("route-policy = \"old\"", "1: route-policy: \"old\" is none of its values; write newest or strict"),
        ("clock-step = \"slew\"", "1: clock-step: \"slew\" is none of its values; write follow or hold"),
        ("key-change = \"ask\"", "1: key-change: \"ask\" is none of its values; write accept or hold"),
        (
            "message-retention = \"30\"",
            "1: message-retention: \"30\" is not a time from 1m to 3650d; write a number with its unit, for example 30d",
        ),
        ("waiters-total = -1", &format!("1: waiters-total: \"-1\" {count}")),
        ("waiters-per-device = 0", &format!("1: waiters-per-device: \"0\" {count}")),
        ("waiters-per-credential = 0", &format!("1: waiters-per-credential: \"0\" {count}")),
        ("unregistered-limit = 0x100000000", &format!("1: unregistered-limit: \"4294967296\" {count}")),
        ("udp-listen = [\"[::]:1\", \"a:1\"]", &format!("1: udp-listen: \"a:1\" {address}")),
        ("http-listen = \"localhost:80\"", &format!("1: http-listen: \"localhost:80\" {address}")),
        ("metrics-listen = \"9090\"", &format!("1: metrics-listen: \"9090\" {address}")),
        (
            "udp-receive-buffer = \"64\"",
            "1: udp-receive-buffer: \"64\" is not a size from 4KiB to below 1GiB; \
             write a whole number and KiB or MiB, for example 64MiB",
        ),
        (
            "udp-threads = 17",
            "1: udp-threads: \"17\" is not a whole number from 1 to 16; write as many as there are cores to spare",
        ),
        (
            "log = \"inof\"",
            "1: log: \"inof\" is not a log filter; write error, warn, info, debug, trace or off, \
             or levels by module such as info,lastroute=debug",
        ),
        ("cloud-key-file = \"\"", "1: cloud-key-file: the path is empty; name one, or leave the setting out"),
    ]);
}

#[test]
fn a_network_or_device_without_id_or_key_or_named_twice_is_an_error() {
    for id in ["\"a17\"", "0x1000000", "-1", "1.5", "[]"] {
        assert_errors([(
            &format!("[[network]]\nid = {id}\nkey-file = \"fleet.key\""),
            "2: network.id: not a 24-bit id; \
             write six hex digits in quotes, for example \"000a17\", or a number to 0xffffff",
        )]);
    }
    let one_key = "give exactly one of public-key, root-key and root-key-file";
    assert_errors([
        ("\n[[network]]\nname = \"fleet\"", "2: network: no id; add one, for example id = \"000a17\""),
        ("[[network]]\nid = \"000a17\"", "2: network.id: network 0x000a17 has no key; add key-file"),
        (
            &format!("{NETWORK}[[network]]\nid = 0xa17\nkey-file = \"fleet.key\""),
            "5: network.id: network 0x000a17 is already in line 2; remove one of them",
        ),
        (
            &format!("[[device]]\nroot-key = \"{DEVICE_ROOT}\""),
            "1: device: no id; add one, for example id = \"d000000000001003\"",
        ),
        (
            "[[device]]\nid = \"1003\"",
            "2: device.id: a device id is 16 hex digits, for example d291d4d66bf0a955; correct it",
        ),
        (
            &format!("{DEVICE}root-key = \"{DEVICE_ROOT}\"\n{DEVICE}root-key = \"{DEVICE_ROOT}\""),
            "5: device.id: device d000000000001003 is already in line 2; remove one of them",
        ),
        (DEVICE, &format!("2: device.id: device d000000000001003 has no key; {one_key}")),
        (
            &format!("{DEVICE}root-key-file = \"fleet.key\"\npublic-key = \"{DEVICE_ROOT}\""),
            &format!("2: device.id: device d000000000001003 has more than one key; {one_key}"),
        ),
        (
            &format!("{DEVICE}public-key = \"{DEVICE_ROOT}\"\nkey-id = \"62991a\""),
            "4: device.key-id: the key id follows from public-key; remove it",
        ),
        (
            &format!("{DEVICE}root-key = \"secret\""),
            "3: device.root-key: not a key: it has 6 bytes; \
             give 32 bytes as base64 (44 characters) or hex (64 digits)",
        ),
        (
            &format!("{DEVICE}public-key = \"{}=\"", "A".repeat(43)),
            "3: device.public-key: the public key of device d000000000001003 is of small order: \
             its root key would be known; give the key that the device made",
        ),
    ]);
}

#[test]
fn an_error_of_a_file_that_the_configuration_names_names_the_line_that_names_it() {
    let api_keys = Site::new("api-key-file = \"short.keys\"");
    api_keys.write("short.keys", "# clients\nik_short");
    assert_eq!(
        api_keys.error(),
        "fleet.toml:1: api-key-file: short.keys:2 is an API key of 8 characters, short enough to guess; \
         write ik and random characters, 16 or more in all"
    );
    let missing = "cannot read missing: No such file or directory; create it or correct the path";
    assert_errors([
        ("\napi-key-file = \"missing\"", &format!("2: api-key-file: {missing}")),
        ("cloud-key-file = \"missing\"", &format!("1: cloud-key-file: {missing}")),
        ("[[network]]\nid = \"000a17\"\nkey-file = \"missing\"", &format!("3: network.key-file: {missing}")),
        (&format!("{DEVICE}root-key-file = \"missing\""), &format!("3: device.root-key-file: {missing}")),
        (
            "[[network]]\nid = \"000a17\"\nkey-file = \"api.keys\"",
            &format!("3: network.key-file: api.keys is not a key file: it has 19 bytes; {KEY_FILES}"),
        ),
        (
            "cloud-key-file = \"api.keys\"",
            &format!("1: cloud-key-file: api.keys is not a key file: it has 19 bytes; {KEY_FILES}"),
        ),
    ]);
    let directory = Site::new("cloud-key-file = \"keys\"");
    std::fs::create_dir(directory.path("keys")).unwrap();
    assert_eq!(
        directory.error(),
        "fleet.toml:1: cloud-key-file: cannot read keys: Is a directory; name a file, not a directory"
    );
}

#[test]
fn a_key_where_a_file_belongs_is_an_error_that_does_not_quote_it() {
    let error = "this is a key, not the name of a file; \
                 write the key to a file that only this user can read, and name that file";
    let key = STANDARD.encode([0xff; 32]);
    assert_errors([
        ("api-key-file = \"ik_0123456789abcdef\"", &format!("1: api-key-file: {error}")),
        (&format!("\ncloud-key-file = \"{key}\""), &format!("2: cloud-key-file: {error}")),
        (&format!("[[network]]\nid = 5\nkey-file = \"{key}\""), &format!("3: network.key-file: {error}")),
        (&format!("{DEVICE}root-key-file = \"{DEVICE_ROOT}\""), &format!("3: device.root-key-file: {error}")),
    ]);
    let site = Site::new("");
    let flags = Flags { cloud_key_file: Some(DEVICE_ROOT.to_owned()), ..site.flags() };
    assert_eq!(site.error_of(&flags, &[]), format!("--cloud-key-file: {error}"));
}

#[test]
fn a_data_directory_that_cannot_be_used_is_an_error_where_it_is_named() {
    let site = Site::new("data-dir = \"fleet.key/data\"");
    let flags = Flags { data_dir: None, ..site.flags() };
    assert_eq!(
        site.error_of(&flags, &[]),
        "fleet.toml:1: data-dir: cannot make the directory fleet.key/data: Not a directory; \
         make it for this user, or name another with --data-dir"
    );
    let site = Site::new("");
    std::fs::create_dir(site.path("data")).unwrap();
    site.write("data/cloud-key", "");
    assert_eq!(site.error(), format!("--data-dir: data/cloud-key is not a key file: it has 0 bytes; {KEY_FILES}"));
}

#[test]
fn an_error_of_the_configuration_file_as_a_whole_names_who_names_it() {
    let site = Site::new("");
    let of_config = |name: &str| Flags { config: Some(name.to_owned()), ..site.flags() };
    let missing = "cannot read missing.toml: No such file or directory; create it or correct the path";
    assert_eq!(site.error_of(&of_config("missing.toml"), &[]), format!("--config: {missing}"));
    let named = [("LASTROUTE_CONFIG", "missing.toml")];
    assert_eq!(site.error_of(&Flags::default(), &named), format!("LASTROUTE_CONFIG: {missing}"));
    assert_eq!(
        site.error_of(&of_config("/"), &[]),
        "--config: cannot read /: Is a directory; name a file, not a directory"
    );
    assert_eq!(site.error_of(&of_config(""), &[]), "--config: the path is empty; name one, or leave the setting out");
    std::fs::write(site.path("fleet.toml"), b"log = \"info\"\n# caf\xe9\n").unwrap();
    assert_eq!(site.error(), "fleet.toml:2:6: not UTF-8; save the file as UTF-8 text");
}

#[test]
fn an_error_names_the_flag_or_variable_that_is_wrong() {
    let site = Site::new("log = \"warn\"");
    let with = |change: fn(&mut Flags)| {
        let mut flags = site.flags();
        change(&mut flags);
        site.error_of(&flags, &[])
    };
    assert_eq!(
        with(|flags| flags.route_policy = Some("old".to_owned())),
        "--route-policy: \"old\" is none of its values; write newest or strict"
    );
    assert_eq!(
        with(|flags| flags.udp_listen = vec!["[::1]:1".to_owned(); 2]),
        "--udp-listen: [::1]:1 is given twice; remove one of them"
    );
    assert_eq!(
        with(|flags| flags.udp_listen = ["[::]:1", "127.0.0.1:1", "0.0.0.0:1"].map(str::to_owned).into()),
        "--udp-listen: 127.0.0.1:1 and 0.0.0.0:1 cannot be listened on together: one takes in the other; \
         remove one of them, or give it another port"
    );
    let names = Name::ALL.map(Name::variable).join(", ");
    for (variable, value, expected) in [
        (
            "LASTROUTE_UDP_LISTEN",
            "127.0.0.1:1,3001",
            "\"3001\" is not an IP address and port; write for example 127.0.0.1:8080 or [::1]:8080 (no host names)",
        ),
        (
            "LASTROUTE_METRICS_LISTEN",
            "127.0.0.1:8080",
            "127.0.0.1:8080 is the address of the API; use another, or leave it out: the API serves /metrics too",
        ),
        (
            "LASTROUTE_METRICS_LISTEN",
            "[::]:8080",
            "[::]:8080 and 127.0.0.1:8080, the address of the API, cannot be listened on together; \
             use another port, or leave it out: the API serves /metrics too",
        ),
        ("LASTROUTE_UDP_LISTNE", "x", "no such setting; write LASTROUTE_UDP_LISTEN, or unset it"),
        // What Kubernetes gives the pods beside a Service of this name.
        ("LASTROUTE_PORT", "x", &format!("no such setting; use one of {names}, or unset it")),
    ] {
        assert_eq!(site.error_of(&site.flags(), &[(variable, value)]), format!("{variable}: {expected}"));
    }
}

#[test]
fn without_credentials_an_address_beyond_loopback_is_an_error() {
    assert_errors([(
        "http-listen = \"0.0.0.0:8080\"",
        "1: http-listen: without credentials the API is served on a loopback address only, and 0.0.0.0:8080 is none; \
         name keys with --api-key-file or --jwt-key-file, or listen on 127.0.0.1 or [::1]",
    )]);
}

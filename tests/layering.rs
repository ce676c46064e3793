//! The floors of the source tree: imports point to lower floors only, and the lower ones do no input or output.
//! ARCHITECTURE.md has the map.
#![allow(clippy::unwrap_used, reason = "a test that cannot read the tree fails")]

use std::fs;
use std::path::{Path, PathBuf};

/// Every module of the crate root and its floor. `lib.rs` and `main.rs` stand above all.
const FLOORS: [(&str, u8); 37] = [
    ("id", 0),
    ("clock", 0),
    ("metrics", 0),
    ("quote", 0),
    ("text", 0),
    ("health", 0),
    ("wire", 1),
    ("devices", 1),
    ("auth", 2),
    ("table", 3),
    ("udp", 4),
    ("waiters", 4),
    ("downlink", 4),
    ("status", 4),
    ("duration", 4),
    ("service", 4),
    ("records", 5),
    ("ingest", 5),
    ("wait", 5),
    ("client", 5),
    ("decode", 5),
    ("definitions", 5),
    ("registry", 6),
    ("simulate", 6),
    ("transfer", 6),
    ("store", 6),
    ("explain", 6),
    ("measure", 6),
    ("dispatch", 7),
    ("api", 8),
    ("config", 9),
    ("app", 10),
    ("top", 10),
    ("demo", 11),
    ("cli", 12),
    ("lib", 13),
    ("main", 13),
];

/// Up to here a file decides and computes: no runtime, no sockets, no files, no logs.
const LAST_PURE_FLOOR: u8 = 3;
const IMPURE_CRATES: [&str; 6] = ["tokio", "hyper", "hyper_util", "nix", "socket2", "tracing"];
const SOCKETS: [&str; 6] = ["UdpSocket", "TcpStream", "TcpListener", "UnixStream", "UnixListener", "UnixDatagram"];

/// A file longer than this holds two ideas.
const MAX_LINES: usize = 600;

#[test]
fn the_source_tree_keeps_to_its_floors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = rust_files(&root);
    assert!(files.len() > 10, "{files:?}");
    let problems: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let name = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            check(&name, &fs::read_to_string(file).unwrap())
        })
        .collect();
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// Everything wrong with one file, named relative to `src/`.
fn check(name: &str, text: &str) -> Vec<String> {
    let module = name.split(['/', '.']).next().unwrap();
    let mut problems = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        problems.push(format!("src/{name}: {lines} lines, more than {MAX_LINES}: split it by idea"));
    }
    let Some(floor) = floor(module) else {
        problems.push(format!("src/{name}: module `{module}` is unknown: give it a floor in tests/layering.rs"));
        return problems;
    };
    for path in paths(text) {
        let said = path.join("::");
        match target(module, name, &path) {
            Some(target) if target == module => {}
            Some(target) => match self::floor(target) {
                None => problems.push(format!(
                    "src/{name}: `{said}`: `{target}` is no known module: give it a floor in tests/layering.rs, or \
                     name the item by its module"
                )),
                Some(below) if below < floor => {}
                Some(above) => problems.push(format!(
                    "src/{name}: `{said}` on floor {above} is not below floor {floor}: move what both need further down"
                )),
            },
            None if floor <= LAST_PURE_FLOOR && is_impure(&path) => {
                problems.push(format!("src/{name}: `{said}` on floor {floor}: input and output belong above"));
            }
            None => {}
        }
    }
    problems
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// The module of the crate root that a path leads to, if it goes by the root at all.
fn target<'a>(module: &str, name: &str, path: &[&'a str]) -> Option<&'a str> {
    let after_supers = path.iter().position(|part| *part != "super")?;
    match path[..] {
        ["crate", next, ..] => Some(next),
        ["super", ..] => {
            let next = path[after_supers];
            // Within a folder `super` is the folder's own module, and its files may have any name.
            let own = name.ends_with(".rs") && name.contains('/') && !name.ends_with("/mod.rs") && after_supers == 1;
            (!own && next != module && floor(next).is_some()).then_some(next)
        }
        _ => None,
    }
}

fn is_impure(path: &[&str]) -> bool {
    let of_impure_crate = path.len() > 1 && IMPURE_CRATES.contains(&path[0]);
    of_impure_crate || path.starts_with(&["std", "fs"]) || path.iter().any(|part| SOCKETS.contains(part))
}

/// Every path in a source text, the groups of `use` spread out: `a::{b, c::d}` is `a::b` and `a::c::d`. Comments do not
/// count.
fn paths(text: &str) -> Vec<Vec<&str>> {
    let tokens: Vec<&str> = text.lines().flat_map(|line| tokens(line.split("//").next().unwrap())).collect();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        at = if is_name(tokens[at]) { read_tree(&tokens, at, &[], &mut found) } else { at + 1 };
    }
    found
}

/// Reads one path or tree of paths that starts at `at`, below `prefix`; returns where it ends.
fn read_tree<'a>(tokens: &[&'a str], mut at: usize, prefix: &[&'a str], found: &mut Vec<Vec<&'a str>>) -> usize {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        if *token == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|token| *token != "}") {
                at = if tokens[at] == "," { at + 1 } else { read_tree(tokens, at, &path, found) };
            }
            return at + 1;
        }
        path.push(token);
        at += 1;
        if tokens.get(at) != Some(&"::") {
            break;
        }
        at += 1;
    }
    if tokens.get(at) == Some(&"as") {
        at += 2;
    }
    found.push(path);
    at
}

/// Names, `::` and single signs.
fn tokens(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let len = match rest.chars().next()? {
            _ if rest.starts_with("::") => 2,
            first if is_name_char(first) => rest.find(|next| !is_name_char(next)).unwrap_or(rest.len()),
            first => first.len_utf8(),
        };
        let (token, tail) = rest.split_at(len);
        rest = tail;
        Some(token)
    })
}

fn is_name(token: &str) -> bool {
    token.starts_with(is_name_char)
}

fn is_name_char(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let nested = folders.iter().flat_map(|folder| rust_files(folder));
    files.into_iter().filter(|file| file.extension().is_some_and(|end| end == "rs")).chain(nested).collect()
}

#[test]
fn what_points_down_or_stays_inside_is_fine() {
    for (name, text) in [
        ("table/mod.rs", "use crate::auth::Verified;\nuse crate::table::rules::Step;\nuse record::Record;"),
        ("table/side.rs", "use super::rules::Step;\nuse std::net::{IpAddr, SocketAddr};"),
        ("table/record.rs", "mod tests { use super::*; use super::super::rules::Step; }"),
        ("api/mod.rs", "use crate::{id::{DeviceId, KeyId}, wait::PacketWaits};\nfn a() { crate::metrics::b() }"),
        ("wire/frame.rs", "// tokio::spawn and crate::api are words here\nlet tracing = 1;"),
        ("waiters.rs", "use tokio::sync::Notify;\nmod tests { use super::*; }"),
        ("lib.rs", "pub mod app;\npub use crate::app::App;"),
        ("main.rs", "use std::fs::read; use tokio::net::UdpSocket;"),
    ] {
        assert_eq!(check(name, text), Vec::<String>::new());
    }
}

#[test]
fn what_points_sideways_or_up_is_caught_in_every_form() {
    for (name, text) in [
        ("clock.rs", "use crate::id::DeviceId;"),
        ("auth/keys.rs", "use crate::table::RouteTable;"),
        ("udp.rs", "use crate::{\n    id::DeviceId,\n    waiters::{Full, Waiters},\n};"),
        ("table/mod.rs", "use crate::{auth::{self, keys}, waiters as w};"),
        ("table/mod.rs", "fn a() -> crate::api::Error { todo() }"),
        ("waiters.rs", "use super::wait::PacketWaits;"),
        ("wait/mod.rs", "use {std::sync::Arc, crate::ingest::Ingest};"),
        ("table/mod.rs", "use super::api::Error;"),
        ("table/side.rs", "use super::super::api::Error;"),
        ("wire/mod.rs", "pub(in crate::auth) fn a() {}"),
    ] {
        let problems = check(name, text);
        assert!(!problems.is_empty(), "{name}: {text}");
        assert!(problems.iter().all(|problem| problem.contains("is not below")), "{problems:?}");
    }
}

#[test]
fn input_and_output_in_a_pure_file_is_caught() {
    for text in [
        "use tokio::sync::Notify;",
        "#[tokio::test] async fn a() {}",
        "use hyper::Request;",
        "fn a() { tracing::info!(\"a\") }",
        "use std::{fs, io};",
        "use std::{sync::Arc, net::{IpAddr, UdpSocket}};",
        "let a = std::fs::read(b);",
        "let a = TcpStream::connect(b);",
        "fn a(b: &TcpListener) {}",
    ] {
        let problems = check("table/mod.rs", text);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert!(problems[0].contains("input and output"), "{problems:?}");
        assert_eq!(check("udp.rs", text), Vec::<String>::new());
    }
}

#[test]
fn what_has_no_floor_is_asked_for_one() {
    for (name, text) in [("misc.rs", ""), ("misc/mod.rs", ""), ("api/mod.rs", "use crate::misc::Thing;")] {
        let problems = check(name, text);
        assert!(problems[0].contains("give it a floor"), "{problems:?}");
    }
    assert!(check("api/mod.rs", "use crate::*;")[0].contains("`*` is no known module"));
    assert!(check("id.rs", &"\n".repeat(601))[0].contains("601 lines"));
}

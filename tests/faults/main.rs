//! That docs/faults.md and SECURITY.md name what there is, and the rows of it that need a process and no root. The rows that need root are the
//! script `run` in this folder.
#![cfg(feature = "server")]
#![allow(missing_docs, clippy::unwrap_used)]

mod descriptors;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const DOCUMENT: &str = include_str!("../../docs/faults.md");
const SECURITY: &str = include_str!("../../SECURITY.md");
/// The folders whose files SECURITY.md names.
const FOLDERS: [&str; 4] = ["docs/", "fuzz/", "src/", "tests/"];

/// The content of every file below `directory` whose name ends so.
fn sources(directory: &Path, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let content = |path: std::path::PathBuf| match path.is_dir() {
        true => sources(&path, ending),
        false if path.to_string_lossy().ends_with(ending) => vec![fs::read_to_string(path).unwrap()],
        false => Vec::new(),
    };
    entries.flat_map(content).collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The names of tests that a text gives: sentences with underscores, which metrics are not.
fn named_tests(text: &str) -> BTreeSet<&str> {
    let is_sentence = |name: &&str| {
        name.matches('_').count() > 2
            && !name.starts_with("lastroute_")
            && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    quoted(text).filter(is_sentence).collect()
}

/// The functions that are marked as tests, or stand in a list of properties.
fn tests(source: &str) -> BTreeSet<&str> {
    let mut marked = false;
    let mut names = BTreeSet::new();
    for line in source.lines().map(str::trim) {
        let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        match name.and_then(|rest| rest.split('(').next()) {
            Some(name) if marked => marked = !names.insert(name),
            _ => marked |= line == "#[test]" || line.starts_with("#[tokio::test"),
        }
    }
    names
}

/// Rows of the script by number and name, as they are listed in its parts: `Row(6, "killed", ...)`.
fn script_rows() -> BTreeSet<(u32, String)> {
    let parts = sources(Path::new("tests/faults"), ".py");
    let row = |text: &str| {
        let (number, rest) = text.split_once(", \"")?;
        Some((number.parse().ok()?, rest.split('"').next()?.to_owned()))
    };
    parts.iter().flat_map(|part| part.split("Row(").skip(1)).filter_map(row).collect()
}

/// The rows of the table: their number and text.
fn rows(document: &str) -> Vec<(u32, &str)> {
    let numbered = |line| Some((str::strip_prefix(line, "| ")?.split(' ').next()?.parse().ok()?, line));
    document.lines().filter_map(numbered).collect()
}

/// The files and folders of this repository that a text names.
fn named_paths(text: &str) -> BTreeSet<&str> {
    quoted(text).filter(|name| FOLDERS.iter().any(|folder| name.starts_with(folder))).collect()
}

/// The rows of the matrix that a text says a file is about, as "`tests/one.rs` (rows 3 and 40)": the file and the number.
fn rows_of_files(text: &str) -> BTreeSet<(&str, u32)> {
    let parts: Vec<_> = text.split('`').collect();
    let claimed = parts.windows(2).skip(1).step_by(2).filter_map(|pair| {
        let rows = pair[1].strip_prefix(" (row")?.split(')').next()?;
        Some((pair[0], rows.split(|char: char| !char.is_ascii_digit()).filter_map(|number| number.parse().ok())))
    });
    claimed.flat_map(|(path, numbers)| numbers.map(move |number| (path, number))).collect()
}

/// Whether a file has a test of a row by its name, or the script a row of that number.
fn is_about(path: &str, number: u32) -> bool {
    if path == "tests/faults/run" {
        return script_rows().iter().any(|(row, _)| *row == number);
    }
    let source = fs::read_to_string(path).unwrap_or_default();
    tests(&source).iter().any(|name| name.starts_with(&format!("row_{number}_")))
}

#[test]
fn every_fault_has_one_row() {
    let numbers: Vec<_> = rows(DOCUMENT).into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let sources = [sources(Path::new("src"), ".rs"), sources(Path::new("tests"), ".rs")].concat();
    let there: BTreeSet<_> = sources.iter().flat_map(|source| tests(source)).collect();
    let named = named_tests(DOCUMENT);
    assert!(named.len() > 40, "{named:?}");
    let named: BTreeSet<_> = named.union(&named_tests(SECURITY)).copied().collect();
    let missing: Vec<_> = named.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_file_that_the_promises_name_exists_and_is_about_the_row_it_is_said_to_be() {
    let named = named_paths(SECURITY);
    assert!(named.len() > 30, "{named:?}");
    let missing: Vec<_> = named.iter().filter(|path| !Path::new(path).exists()).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    let rows = rows_of_files(SECURITY);
    assert!(rows.len() > 5, "{rows:?}");
    let wrong: Vec<_> = rows.iter().filter(|(path, number)| !is_about(path, *number)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_promise_names_a_test() {
    let promises = SECURITY
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---") && *line != "| Promise | Tests |");
    let without: Vec<_> =
        promises.clone().filter(|line| named_paths(line).is_empty() && named_tests(line).is_empty()).collect();
    assert!(promises.count() > 20 && without.is_empty(), "{without:#?}");
}

#[test]
fn every_row_of_the_script_stands_in_its_row_of_the_document_and_no_other_does() {
    let of_document = rows(DOCUMENT).into_iter().flat_map(|(number, row)| {
        let named = quoted(row).filter_map(|quoted| quoted.strip_prefix("run "));
        named.map(move |name| (number, name.to_owned())).collect::<Vec<_>>()
    });
    assert_eq!(of_document.collect::<BTreeSet<_>>(), script_rows());
}

#[test]
fn names_are_told_from_other_words() {
    let text = "a `fsync`, `lastroute_udp_kernel_drops_total`, `row_1_of_many_is_here` and `run killed`";
    assert_eq!(named_tests(text), BTreeSet::from(["row_1_of_many_is_here"]));
    let text = "`tests/one.rs` (row 2), `tests/two.rs`, `x` and `tests/faults/run` (rows 3 and 40) of 7";
    assert_eq!(named_paths(text), BTreeSet::from(["tests/faults/run", "tests/one.rs", "tests/two.rs"]));
    assert_eq!(
        rows_of_files(text),
        BTreeSet::from([("tests/faults/run", 3), ("tests/faults/run", 40), ("tests/one.rs", 2)])
    );
    let source = "#[test]\nfn one() {}\nfn helper() {}\n#[tokio::test(start_paused = true)]\nasync fn two() {}\n\
                  #[tokio::test(flavor = \"multi_thread\")]\nasync fn three() {}\n";
    assert_eq!(tests(source), BTreeSet::from(["one", "three", "two"]));
}

//! Any bytes as a configuration file, a key file, a file of API keys and one of public keys of tokens: each is taken, or
//! refused in one line that names the file and quotes no key.
//!
//! An input is a byte, by which the kind of file is chosen, and the file.

use std::path::Path;

use lastroute::api::tokens::TokenRules;
use lastroute::config::{Flags, Report, client_key, key_file};

/// Visible characters in a row of a key file that no error may quote: more than any word of an error has.
const QUOTE: usize = 16;

/// One input.
pub(crate) fn run(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    let directory = tempfile::tempdir().expect("room for a file");
    let path = directory.path().join("fuzzed");
    std::fs::write(&path, bytes).expect("room for a file");
    match kind % 4 {
        0 => settings(&path),
        1 => key(bytes, key_file(&path, "test", &mut Vec::new()).map(|_| ())),
        2 => key(bytes, client_key(&path, "test", &mut Vec::new()).map(|_| ())),
        _ => tokens(bytes),
    }
}

fn settings(path: &Path) {
    let flags = Flags { config: Some(path.display().to_string()), ..Flags::default() };
    match Report::of(&flags, []) {
        Ok(report) => {
            let again = Report::of(&flags, []).expect("the same file says the same").to_string();
            assert_eq!(report.to_string(), again);
            assert!(report.settings.iter().all(|setting| !setting.from.is_empty()));
        }
        Err(error) => {
            let text = error.to_string();
            one_line(&text);
            assert!(text.contains("fuzzed"), "{text}");
        }
    }
}

fn key(bytes: &[u8], read: Result<(), lastroute::config::ConfigError>) {
    let Err(error) = read else { return };
    let text = error.to_string();
    one_line(&text);
    assert!(text.contains("fuzzed"), "{text}");
    let quoted = |part: &[u8]| {
        part.iter().all(u8::is_ascii_graphic) && text.as_bytes().windows(QUOTE).any(|shown| shown == part)
    };
    assert!(!bytes.windows(QUOTE).any(quoted), "{text}");
}

fn tokens(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Err(error) = TokenRules::of(text, "lastroute") {
        one_line(&error.to_string());
    }
}

fn one_line(text: &str) {
    assert!(text.len() > 10 && !text.contains(['\n', '\r']), "{text:?}");
}

//! Any bytes as a file of definitions: it is refused in one line that names it, or its commands take and give what fits them.
//! What a command packs it also reads, and what it reads it packs to the same bytes.
//!
//! An input is a byte, the length of parameters at its end, and the file before them.

use lastroute::definitions::Definitions;
use serde_json::Value;

/// One input.
pub(crate) fn run(input: &[u8]) {
    let Some((len, rest)) = input.split_first() else { return };
    let (file, params) = rest.split_at(rest.len().saturating_sub(usize::from(*len)));
    let directory = tempfile::tempdir().expect("room for a file");
    let path = directory.path().join("fuzzed.json");
    std::fs::write(&path, file).expect("room for a file");
    match Definitions::read(&path) {
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains(['\n', '\r']) && text.contains("fuzzed.json"), "{text:?}");
        }
        Ok(definitions) => use_all(&definitions, params),
    }
}

fn use_all(definitions: &Definitions, params: &[u8]) {
    let asked = serde_json::from_slice::<Value>(params).ok();
    for (id, command) in definitions.commands() {
        assert_eq!(definitions.id(&command.name), Some(id));
        let _ = definitions.decode(id, params);
        if let Some(read) = definitions.decode_request(id, params) {
            again(definitions, id, &read);
        }
        if let Some(Ok(packed)) = asked.as_ref().map(|asked| definitions.encode(id, asked)) {
            assert!(packed.len() <= 1 << 16);
        }
    }
}

/// What was read can be packed, unless a number has no text of its own (floats that are none) or a length is beyond what is
/// packed; and it is read as the same then.
fn again(definitions: &Definitions, id: u16, read: &Value) {
    if let Ok(packed) = definitions.encode(id, read) {
        assert_eq!(definitions.decode_request(id, &packed).as_ref(), Some(read));
    }
}

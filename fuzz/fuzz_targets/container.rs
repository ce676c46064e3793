//! Any bytes as a container: entries cover the payload without a gap up to the end or the fault, and re-encode to the
//! same bytes.

use lastroute::wire::container::{Content, entries};
use lastroute::wire::frame::{Frame, Layout};

/// One input.
pub(crate) fn run(payload: &[u8]) {
    let mut encoded = Vec::new();
    let mut fault = None;
    for entry in entries(payload) {
        assert_eq!(fault, None, "a fault is the end");
        match entry {
            Ok(entry) => {
                entry.encode(&mut encoded).expect("what was read has a wire form");
                if let Content::Sealed(frame) = entry.content {
                    let _ = Frame::parse(&mut frame.to_vec(), Layout::Versioned);
                }
            }
            Err(error) => fault = Some(error),
        }
    }
    assert!(payload.starts_with(&encoded));
    assert_eq!(payload.len() == encoded.len(), fault.is_none());
    let (again, whole): (Vec<_>, Vec<_>) = (entries(&encoded).collect(), entries(payload).collect());
    assert_eq!(again[..], whole[..again.len()]);
}

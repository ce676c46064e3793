//! Any bytes as a frame of either layout: what parses re-encodes to the same bytes, and those parse to the same header.

use lastroute::wire::frame::{Frame, Layout};

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    for layout in [Layout::Unversioned, Layout::Versioned] {
        let mut copy = bytes.to_vec();
        let Ok(frame) = Frame::parse(&mut copy, layout) else { continue };
        let header = *frame.header();
        let mut encoded = Vec::new();
        header.encode(layout, &mut encoded);
        encoded.extend_from_slice(&bytes[layout.header_len()..]);
        assert_eq!(encoded, bytes);
        assert_eq!(Frame::parse(&mut encoded, layout).map(|frame| *frame.header()), Ok(header));
    }
}

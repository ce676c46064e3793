//! Requests as bytes, and of answers nothing but that they are good and where they end, so that a client costs next to nothing
//! beside the server that is measured. No socket.
#![allow(dead_code, reason = "no benchmark needs all of it")]

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// The client's side of a connection.
pub(crate) struct Plain {
    protocol: Protocol,
    /// Requests so far.
    asked: u32,
    /// Answers so far; over HTTP/1.1 they come in order.
    answered: u32,
    /// What came and is not whole yet.
    received: Vec<u8>,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// `:status: 200` in the static table of HPACK.
const STATUS_OK: u8 = 0x88;
const AUTHORITY: &str = "127.0.0.1";
const ACCEPT: &str = "application/json";
const AGENT: &str = "benchmark/1.0";

impl Plain {
    pub(crate) fn new(protocol: Protocol) -> Self {
        Self { protocol, asked: 0, answered: 0, received: Vec::new() }
    }

    /// What a client says first.
    pub(crate) fn greet(&self, out: &mut Vec<u8>) {
        if self.protocol == Protocol::Http2 {
            out.extend_from_slice(PREFACE);
            frame(SETTINGS, 0, 0, &[], out);
            // All that a connection may ever be granted: no answer is waited for on this side.
            frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes(), out);
        }
    }

    /// Asks for `path`. Requests are numbered from 0.
    pub(crate) fn get(&mut self, path: &str, out: &mut Vec<u8>) {
        match self.protocol {
            Protocol::Http1 => {
                let head = format!(
                    "GET {path} HTTP/1.1\r\nhost: {AUTHORITY}\r\naccept: {ACCEPT}\r\nuser-agent: {AGENT}\r\n\r\n"
                );
                out.extend_from_slice(head.as_bytes());
            }
            Protocol::Http2 => {
                // Indexed: `:method: GET`, `:scheme: http`. The rest without a place in the table, by indexed names.
                let mut block = vec![0x82, 0x86];
                literal(&[0x01], AUTHORITY, &mut block);
                literal(&[0x04], path, &mut block);
                literal(&[0x0f, 0x04], ACCEPT, &mut block);
                literal(&[0x0f, 0x2b], AGENT, &mut block);
                frame(HEADERS, END_STREAM | END_HEADERS, 2 * self.asked + 1, &block, out);
            }
        }
        self.asked += 1;
    }

    /// Requests that have no answer yet.
    pub(crate) fn open(&self) -> u32 {
        self.asked - self.answered
    }

    /// Takes what the server sent. Tells the number of each request whose answer ends with it; what is to be said in return goes
    /// to `out`.
    ///
    /// # Panics
    /// An answer is not a good one, or the server ends the connection.
    pub(crate) fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>, mut ended: impl FnMut(u32)) {
        self.received.extend_from_slice(bytes);
        let mut taken = 0;
        loop {
            let rest = &self.received[taken..];
            let (len, end) = match self.protocol {
                Protocol::Http1 => answer(rest).map_or((0, None), |len| (len, Some(self.answered))),
                Protocol::Http2 => take_frame(rest, out),
            };
            if len == 0 {
                break;
            }
            taken += len;
            if let Some(number) = end {
                self.answered += 1;
                ended(number);
            }
        }
        self.received.drain(..taken);
    }
}

/// Bytes of a whole answer over HTTP/1.1, if there is one.
fn answer(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let len = head + length.parse::<usize>().unwrap();
    (bytes.len() >= len).then_some(len)
}

/// Bytes of a whole frame, or 0, and the number of the request whose answer it ends.
fn take_frame(bytes: &[u8], out: &mut Vec<u8>) -> (usize, Option<u32>) {
    if bytes.len() < HEAD {
        return (0, None);
    }
    let len = HEAD + u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
    if bytes.len() < len {
        return (0, None);
    }
    let (kind, flags, payload) = (bytes[3], bytes[4], &bytes[HEAD..len]);
    match kind {
        HEADERS => assert_eq!(payload[0], STATUS_OK, "not a good answer"),
        SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[], out),
        PING if flags & ACK == 0 => frame(PING, ACK, 0, payload, out),
        DATA | SETTINGS | PING | WINDOW_UPDATE => {}
        other => panic!("a frame of type {other}: {payload:?}"),
    }
    let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
    let ends = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
    (len, ends.then_some(stream / 2))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A header whose name is in the static table of HPACK, and whose value is shorter than 127 bytes.
fn literal(name: &[u8], value: &str, block: &mut Vec<u8>) {
    assert!(value.len() < 0x7f);
    block.extend_from_slice(name);
    block.push(value.len() as u8);
    block.extend_from_slice(value.as_bytes());
}

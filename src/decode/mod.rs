//! `lastroute decode`: explains datagrams byte by byte, and says what a gateway would do with each and why.
//!
//! `input` reads datagrams from hex, captures and test vectors, `decoder` opens and judges them one after the other, and
//! the outcome is a tree ([`Explained`]) that `text` and `json` write. Keys come from the caller; none is ever printed.

pub mod args;
mod calls;
mod capture;
mod decoder;
mod expected;
mod fields;
mod hex_text;
mod input;
mod json;
mod link;
pub mod part;
mod payload;
mod readings;
mod text;
mod vectors;
pub mod verdict;

use std::io::{self, BufWriter, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

pub use args::DecodeArgs;
pub use decoder::Decoder;
pub use expected::Expected;
pub use json::json;
pub use text::{brief, text};

use crate::auth::keys::{DeviceKey, KeyPair, RootKey};
use crate::clock::Timestamp;
use crate::id::{DeviceId, KeyId};
use crate::quote::{one_line, reason};
use crate::table::{RoutePolicy, TableConfig};
use crate::wire::frame::PacketType;
use part::Part;
use verdict::Verdict;

/// The source of datagrams that come without one.
pub(crate) const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A datagram to be explained.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Where it was found, for people: file and packet, line or name.
    pub origin: String,
    /// Its bytes, or as many of them as were captured.
    pub bytes: Vec<u8>,
    /// How long it was, where the capture holds less.
    pub cut_from: Option<usize>,
    /// Which way it travelled.
    pub direction: Direction,
    /// Where it came from, if that is known.
    pub from: Option<SocketAddr>,
    /// Where it went, if that is known.
    pub to: Option<SocketAddr>,
    /// When it was captured, if that is known.
    pub at: Option<Timestamp>,
    /// What the file says of it.
    pub note: Option<String>,
    /// What the file says should become of it.
    pub expected: Option<Expected>,
}

impl Datagram {
    /// An uplink of which nothing is known but its bytes.
    pub const fn new(origin: String, bytes: Vec<u8>) -> Self {
        let direction = Direction::Up;
        Self { origin, bytes, cut_from: None, direction, from: None, to: None, at: None, note: None, expected: None }
    }
}

/// Which way a datagram travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the gateway.
    Up,
    /// From the gateway.
    Down,
}

impl Direction {
    /// `up` or `down`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// A plaintext without the frame around it.
#[derive(Clone, Debug)]
pub struct Readings {
    /// Where it was found.
    pub origin: String,
    /// The type of packet it belongs to.
    pub kind: PacketType,
    /// The plaintext.
    pub bytes: Vec<u8>,
    /// What the file says of it.
    pub expected: Expected,
}

/// A key that opens packets. Prints no secret.
#[derive(Clone, Debug)]
pub enum Key {
    /// Of a network.
    Network(KeyId, RootKey),
    /// Of a device.
    Device(DeviceId, DeviceKey),
}

/// What the gateway in question knows, and how it is set up.
#[derive(Debug, Default)]
pub struct Knowledge {
    /// Its keys. That of the factory network opens packets without being here, since everybody knows it.
    pub keys: Vec<Key>,
    /// It does not serve the factory network, unless `keys` have a key of it.
    pub refuses_factory: bool,
    /// The devices registered with it. Each has a key of its own, even if that is not among `keys`.
    pub registered: Vec<DeviceId>,
    /// How it treats unregistered devices.
    pub table: TableConfig,
    /// What may move a route.
    pub policy: RoutePolicy,
    /// Its own key pair: with it, its downlinks that came back are recognised in types that travel both ways.
    pub cloud: Option<KeyPair>,
}

/// A datagram with its explanation.
#[derive(Clone, Debug)]
pub struct Explained {
    /// Which one of all, from 1.
    pub number: u64,
    /// The datagram.
    pub datagram: Datagram,
    /// The gateway's time that it was measured against.
    pub at: Timestamp,
    /// Header and payload.
    pub parts: Vec<Part>,
    /// What a gateway would do with it; `None` for a plaintext without a frame.
    pub verdict: Option<Verdict>,
    /// Whether it is as expected, if the file expects something.
    pub met: Option<bool>,
}

/// What a source of datagrams brings, in order.
#[derive(Debug)]
pub(crate) enum Item {
    /// Keys for what follows.
    Keys(Vec<Key>),
    Datagram(Box<Datagram>),
    Readings(Readings),
    /// Something that belongs to a datagram and is none.
    Unusable {
        origin: String,
        why: String,
    },
}

/// Why decoding ended early. One line that cannot steer a terminal: where, what is wrong, what to do.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The input is not what can be read.
    #[error("{place}: {problem}; {remedy}")]
    Input {
        /// File and line, packet or byte.
        place: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A file cannot be opened.
    #[error("cannot read {name}: {}; correct the path, or let this user read it", reason(source))]
    Open {
        /// Which one.
        name: String,
        /// What the system says.
        source: io::Error,
    },
    /// Reading failed on the way.
    #[error(
        "cannot go on reading {place}: {}; see that the disk or the program that it comes from is sound, and read it again",
        reason(source)
    )]
    Read {
        /// What was read.
        place: String,
        /// What the system says.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write the explanation: {}; make room or write elsewhere", reason(.0))]
    Write(#[from] io::Error),
}

impl DecodeError {
    pub(crate) fn input(place: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Input { place: one_line(&place.into()), problem: one_line(&problem.into()), remedy: remedy.into() }
    }
}

/// Explains everything that `arguments` name to `out`. `now` is when it all arrives that has no time of its own; `stdin` is
/// read where a file is called `-`. `warnings` gets what the user should know besides, each a sentence. Whoever reads `out`
/// may close it early.
///
/// # Errors
/// Input that cannot be read, in its place; what came before it is explained, and its warnings are there.
pub fn run(
    arguments: &DecodeArgs,
    knowledge: Knowledge,
    now: Timestamp,
    stdin: impl Read + Send + 'static,
    out: impl Write,
    warnings: &mut Vec<String>,
) -> Result<(), DecodeError> {
    let mut out = BufWriter::new(out);
    let mut decoder = Decoder::new(knowledge, arguments.at.unwrap_or(now), arguments.at.is_some());
    // Packets of a pipe are seen when they come.
    let live = arguments.file.iter().any(|path| path == Path::new("-"));
    let read = input::read(arguments, stdin, warnings, &mut |item| {
        let explained = match item {
            Item::Keys(keys) => {
                decoder.learn(keys);
                return Ok(());
            }
            Item::Unusable { origin, why } => return Ok(write_unusable(&mut out, arguments, &origin, &why)?),
            Item::Datagram(datagram) => decoder.explain(*datagram),
            Item::Readings(readings) => decoder.explain_readings(readings),
        };
        write(&mut out, arguments, &explained)?;
        if live {
            out.flush()?;
        }
        Ok(())
    });
    let flushed = out.flush().map_err(DecodeError::Write);
    match read.and(flushed) {
        Err(DecodeError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn write(out: &mut impl Write, arguments: &DecodeArgs, explained: &Explained) -> io::Result<()> {
    if arguments.json {
        write_object(out, &json(explained))
    } else if arguments.brief {
        writeln!(out, "{}", brief(explained))
    } else {
        writeln!(out, "{}", text(explained))
    }
}

fn write_unusable(out: &mut impl Write, arguments: &DecodeArgs, origin: &str, why: &str) -> io::Result<()> {
    if arguments.json {
        write_object(out, &serde_json::json!({ "origin": origin, "unusable": why }))
    } else {
        writeln!(out, "{}", one_line(&format!("{origin}: {why}")))
    }
}

/// JSON keeps DEL and the control characters above it as they are.
fn write_object(out: &mut impl Write, object: &serde_json::Value) -> io::Result<()> {
    writeln!(out, "{}", one_line(&object.to_string()))
}

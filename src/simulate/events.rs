//! What comes out of a simulated device: what it sends, and what it made of what it heard.

use std::time::Duration;

use crate::wire::frame::PacketType;

/// A datagram for the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The sealed frame.
    pub bytes: Vec<u8>,
    /// Its type.
    pub packet_type: PacketType,
    /// Whether it asks for an acknowledgement.
    pub asks: bool,
    /// Packets of other devices in it.
    pub entries: usize,
}

/// What a device does when its time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wake {
    /// It sends.
    Send(Uplink),
    /// It asked in vain too often: it drops this packet and opens a new socket.
    Reopen,
}

/// What a datagram was to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing: the device was asleep.
    Asleep,
    /// Too short for a frame.
    Short,
    /// For somebody else, or not authentic.
    Refused,
    /// The question for its key id.
    KeyQuestion,
    /// A device-level frame for it, under a key id it does not have.
    UnknownKey,
    /// An echo request.
    Echo,
    /// An acknowledgement; of a packet that asked, with the time since that was sent.
    Ack(Option<Duration>),
    /// A call, answered with this return code.
    Call(i16),
    /// A call that moves data before it is answered, or one that waits for such a one.
    CallBegun,
    /// A call that found too many waiting.
    CallLost,
    /// Data of a call.
    CallData,
    /// Something for a Bluetooth device, passed on to it.
    Forward,
    /// Authentic, of a type the simulator does not act on.
    Other(PacketType),
}

/// What a datagram led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaction {
    /// What it was.
    pub heard: Heard,
    /// The answer, to be sent at once.
    pub reply: Option<Uplink>,
}

impl Reaction {
    /// One that says nothing.
    pub(super) const fn silent(heard: Heard) -> Self {
        Self { heard, reply: None }
    }
}

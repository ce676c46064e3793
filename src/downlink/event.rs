//! What happened to downlinks, for whoever keeps the record of it.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use super::room::DataClaim;
use crate::clock::Timestamp;
use crate::id::{Cursor, DeviceId, KeyId};
use crate::table::route::Route;
use crate::wire::container::BtAddress;
use crate::wire::frame::Level;

/// The way a downlink went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Its sequence.
    pub sequence: u16,
    /// Under which key it was sealed.
    pub level: Level,
    /// Where the datagram went: to the device or its relay.
    pub address: SocketAddr,
    /// Of one that went through a relay.
    pub relay: Option<Through>,
}

/// The last part of a way through a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Through {
    /// The relay.
    pub relay: DeviceId,
    /// Under which key the datagram to the relay was sealed.
    pub level: Level,
    /// The device, to which the relay connects.
    pub address: BtAddress,
}

/// What the device had said of when it listens, as its downlink was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// All the time.
    pub always_rx: bool,
    /// Nothing follows soon: it may have stopped listening already.
    pub single_tx: bool,
    /// When it was last heard.
    pub heard_at: Timestamp,
}

/// Why a downlink that waited is not sent any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The route has moved since the position it was bound to.
    RouteMoved {
        /// The present position.
        cursor: Cursor,
    },
    /// It is longer than what the device can take by the way it would have to go.
    TooLong {
        /// Bytes of the datagram.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The call.
    pub request_id: u32,
    /// The command it answers to.
    pub command_id: u16,
    /// 0 for success.
    pub return_code: i16,
    /// The packed result.
    pub body: Box<[u8]>,
    /// What proves it.
    pub level: Level,
    /// When it arrived.
    pub at: Timestamp,
    /// How it came.
    pub route: Route,
}

/// Data that a device sent for a call, with gaps as zeros. It counts against the room for data as long as anybody has it.
/// Cheap to clone.
#[derive(Clone)]
pub struct Received {
    bytes: Arc<Vec<u8>>,
    _claim: Option<Arc<DataClaim>>,
}

impl Received {
    pub(super) const fn new(bytes: Arc<Vec<u8>>, claim: Arc<DataClaim>) -> Self {
        Self { bytes, _claim: Some(claim) }
    }
}

impl From<Vec<u8>> for Received {
    /// Of no outbox, so that it counts nowhere.
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes: Arc::new(bytes), _claim: None }
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl PartialEq for Received {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Received {}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes.fmt(f)
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A downlink was handed to the socket.
    Sent {
        /// To whom.
        device: DeviceId,
        /// Of which message.
        message: i64,
        /// When.
        at: Timestamp,
        /// How.
        way: Way,
        /// Whether the device may have heard it.
        listening: Listening,
    },
    /// One that waited is given up.
    Dropped {
        /// For whom.
        device: DeviceId,
        /// Of which message.
        message: i64,
        /// When.
        at: Timestamp,
        /// Why.
        why: Dropped,
    },
    /// A call that was waited for is answered.
    Answered {
        /// By whom.
        device: DeviceId,
        /// Of which message.
        message: i64,
        /// The answer.
        answer: Answer,
        /// Data that the device sent before.
        data: Option<Received>,
    },
    /// A call is answered that nobody waits for in memory: the record may know it.
    LateAnswer {
        /// By whom.
        device: DeviceId,
        /// The answer.
        answer: Answer,
    },
    /// A device answered the question for its keys. Authentic at network level, fits the question, and no more is checked.
    KeyAnswer {
        /// By whom.
        device: DeviceId,
        /// The challenge that was sent.
        challenge: [u8; 16],
        /// The body of the response to security_state.
        body: Box<[u8]>,
        /// When it arrived.
        at: Timestamp,
    },
    /// A device says that its key id is another than the known one.
    OtherKeyId {
        /// Which device.
        device: DeviceId,
        /// The one it says.
        key_id: KeyId,
        /// When.
        at: Timestamp,
    },
    /// A relay's connection ended.
    Terminated {
        /// The relay.
        relay: DeviceId,
        /// Whom it was connected to.
        address: BtAddress,
        /// The reason: a code of the Bluetooth link after there was one, else why there was none.
        reason: i16,
        /// The device and the message that went that way last, while that is remembered.
        last: Option<(DeviceId, i64)>,
        /// When.
        at: Timestamp,
    },
}

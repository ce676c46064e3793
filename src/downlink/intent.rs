//! A downlink that is to be sent.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::id::Cursor;
use crate::wire::frame::{Level, PacketType};

/// Under which key a downlink is sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sealing {
    /// The device's if it is known by the time of sending, else its network's.
    #[default]
    Best,
    /// The network's.
    Network,
    /// The device's: it waits until that is known.
    Device,
}

impl From<Level> for Sealing {
    /// At this level and no other.
    fn from(level: Level) -> Self {
        match level {
            Level::Network => Self::Network,
            Level::Device => Self::Device,
        }
    }
}

/// How often a downlink is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retry {
    /// Once.
    #[default]
    Never,
    /// Each time the device speaks, until it answers or the time is up. Devices keep no replay state: it may be carried out
    /// more than once.
    UntilAnswered,
}

/// A downlink that waits for its device, or is sent at once.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The number of its message, which rises from message to message.
    pub message: i64,
    /// Its packet type.
    pub packet_type: PacketType,
    /// Under which key it goes.
    pub sealing: Sealing,
    /// Its whole plaintext, headers of calls included.
    pub payload: Arc<[u8]>,
    /// Of an RPC_CMD only.
    pub call: Option<Call>,
    /// Not sent from then on; `None`: it is to be sent at once or not at all.
    pub expires_at: Option<Timestamp>,
    /// How often it is sent.
    pub retry: Retry,
    /// Only if the route has not moved since this position.
    pub if_route: Option<Cursor>,
}

impl Intent {
    /// Whether it is too late to send it.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }

    /// Bytes of data that follow it to the device.
    pub(super) fn data_len(&self) -> usize {
        match self.call.as_ref().and_then(|call| call.data.as_ref()) {
            Some(DataPhase::Towards { data, .. }) => data.len(),
            Some(DataPhase::From { .. }) | None => 0,
        }
    }
}

/// What is to be expected after an RPC_CMD.
#[derive(Clone, Debug)]
pub struct Call {
    /// Chosen by the gateway, repeated by the device.
    pub request_id: u32,
    /// What to do.
    pub command_id: u16,
    /// The data that follows.
    pub data: Option<DataPhase>,
}

/// Data that moves between an RPC_CMD and its RPC_RSP (docs/protocol.md, RPC).
#[derive(Clone, Debug)]
pub enum DataPhase {
    /// To the device, as its acknowledgements ask for it.
    Towards {
        /// All of it.
        data: Arc<[u8]>,
        /// The device acknowledges after so many RPC_DATA, 1 to 8.
        ack_period: u8,
    },
    /// From the device.
    From {
        /// Bytes that are kept at most.
        limit: usize,
    },
}

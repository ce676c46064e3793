//! Messages to devices: what is kept of each, whatever the API shows of it.

use std::sync::Arc;

use uuid::Uuid;

use super::Device;
use super::route::{DownlinkRoute, UplinkRoute};
use crate::downlink::event::Received;
use crate::downlink::intent::{Retry, Sealing};
use crate::id::{Cursor, DeviceId};
use crate::status::Time;
use crate::wire::frame::{Level, PacketType};
use crate::wire::rpc::DataHeader;

/// How far a message has come. There is no state for one that expired: it waits, with its time in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageStatus {
    /// Not sent.
    Waiting,
    /// Handed to the socket.
    Sent,
    /// The device has answered.
    Completed,
}

impl MessageStatus {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 3] = [Self::Completed, Self::Sent, Self::Waiting];

    /// As the API calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Sent => "sent",
            Self::Completed => "completed",
        }
    }
}

/// A message that is to be made.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// To whom: a registered device.
    pub device: DeviceId,
    /// Its packet type.
    pub packet_type: PacketType,
    /// Under which key it goes.
    pub sealing: Sealing,
    /// Of an RPC_CMD only.
    pub call: Option<MessageCall>,
    /// The parameters of an RPC_CMD, the whole payload of any other.
    pub payload: Arc<[u8]>,
    /// Data for the device that follows an RPC_CMD.
    pub data: Option<Arc<[u8]>>,
    /// How long it may wait, in milliseconds; 0: it is sent at once or not at all.
    pub send_wait_timeout_ms: u64,
    /// How often it is sent.
    pub retry: Retry,
    /// Only if the route has not moved since.
    pub if_route: Option<Cursor>,
}

/// The header of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageCall {
    /// Chosen by the gateway, repeated by the device.
    pub request_id: u32,
    /// What to do.
    pub command_id: u16,
    /// Of a command that moves data.
    pub data: Option<DataHeader>,
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageAnswer {
    /// How it came.
    pub route: UplinkRoute,
    /// 0 for success.
    pub return_code: i16,
    /// The packed result.
    pub body: Box<[u8]>,
}

/// A message as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its number, which rises from message to message.
    pub n: i64,
    /// That of `GET /rpc/{id}`.
    pub id: Uuid,
    /// That of the downlink message in it, another one.
    pub downlink_id: Uuid,
    /// When it was accepted.
    pub created_at: Time,
    /// When something last happened to it.
    pub updated_at: Time,
    /// To whom.
    pub device: Device,
    /// The number of the device's organisation, as in [`crate::table::Registration`].
    pub organisation: u32,
    /// Its packet type.
    pub packet_type: PacketType,
    /// Under which key it is to go.
    pub sealing: Sealing,
    /// Under which key it went.
    pub level: Option<Level>,
    /// Of an RPC_CMD only.
    pub call: Option<MessageCall>,
    /// The parameters of an RPC_CMD, the whole payload of any other.
    pub payload: Arc<[u8]>,
    /// Bytes of data for the device that follow it.
    pub data_len: Option<u64>,
    /// How long it may wait, in milliseconds.
    pub send_wait_timeout_ms: u64,
    /// How often it is sent.
    pub retry: Retry,
    /// Only if the route has not moved since.
    pub if_route: Option<Cursor>,
    /// How far it has come.
    pub status: MessageStatus,
    /// Until when it may be sent.
    pub expires_at: Time,
    /// When it was sent, the last time.
    pub sent_at: Option<Time>,
    /// How often it was sent.
    pub attempts: u32,
    /// When the answer came.
    pub completed_at: Option<Time>,
    /// The way it went.
    pub route: Option<DownlinkRoute>,
    /// The answer.
    pub answer: Option<MessageAnswer>,
    /// Bytes of data that the device sent before its answer.
    pub received_len: Option<u64>,
    /// What there is to say about whether the device heard it, or why it is not sent, as a sentence.
    pub note: Option<String>,
    /// Why the relay's connection to the device ended.
    pub terminated: Option<i16>,
}

/// Something that happened to a message.
#[derive(Clone, Debug)]
pub enum MessageChange {
    /// It was sent, which counts once for each moment. One that is completed stays so: the first that is told of it only adds
    /// how it went.
    Sent {
        /// Which.
        n: i64,
        /// When.
        at: Time,
        /// Under which key.
        level: Level,
        /// How.
        route: DownlinkRoute,
        /// What there is to say about whether the device heard it.
        note: Option<String>,
    },
    /// It will not be sent any more. Nothing if it was.
    Dropped {
        /// Which.
        n: i64,
        /// When: it expires then.
        at: Time,
        /// Why.
        note: String,
    },
    /// It was answered. Nothing if it was answered before.
    Answered {
        /// Which.
        n: i64,
        /// When.
        at: Time,
        /// The answer.
        answer: MessageAnswer,
        /// Data that the device sent before.
        data: Option<Received>,
    },
    /// The relay's connection to the device ended.
    Terminated {
        /// Which.
        n: i64,
        /// When.
        at: Time,
        /// Why.
        reason: i16,
    },
}

impl MessageChange {
    /// The number of the message.
    pub const fn message(&self) -> i64 {
        match self {
            Self::Sent { n, .. } | Self::Dropped { n, .. } | Self::Answered { n, .. } | Self::Terminated { n, .. } => {
                *n
            }
        }
    }
}

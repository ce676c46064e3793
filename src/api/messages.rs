//! Messages to devices: what a request to make one asks for, and how they are shown.

use std::sync::Arc;

use serde_json::Value;

use crate::definitions::Definitions;
use crate::dispatch::Outcome;
use crate::downlink::intent::Sealing;
use crate::id::DeviceId;
use crate::records::Base64;
use crate::records::message::{Message, MessageAnswer, MessageCall, MessageStatus, NewMessage};
use crate::records::rpc::{
    AskedRetry, CreatedRpcMessage, Delivery, DownlinkMessage, Fields, NewDownlink, NewRpc, NewRpcMessage, NewSending,
    PlainDownlink, PlainMessage, RpcDataHeader, RpcMessage, RpcReq, RpcRsp,
};
use crate::wire::frame::{Level, PacketType};
use crate::wire::rpc::DataHeader;
use crate::wire::security::SECURITY_KEY_UPDATE;

use super::Api;
use super::error::ApiError;

/// The longest that a message may wait, in milliseconds: a year.
const MAX_SEND_WAIT_MS: u64 = 31_536_000_000;
/// Bytes of data for a device that may follow a call.
const MAX_DATA: usize = 1024 * 1024;
/// Packets of data after which a device acknowledges, unless the request says otherwise: the most that it may be.
const ACK_PERIOD: u8 = 8;

/// Why a request makes no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnfitMessage {
    /// It names no command.
    #[error("rpc names no command; give commandId or commandName")]
    NoCommand,
    /// The name of its command is not known.
    #[error("rpc.commandName: there is no command {0:?}; give commandId, or load the definitions that have it")]
    NoSuchCommand(String),
    /// Its command has another name.
    #[error("rpc.commandName: {name:?} is command {id}, and commandId is another one; give one of both")]
    OtherCommand {
        /// The name.
        name: String,
        /// The number that it stands for.
        id: u16,
    },
    /// There is too much data.
    #[error("data has {0} bytes; at most {MAX_DATA} follow a call")]
    DataTooLong(usize),
    /// The header of the call says another length than its data has.
    #[error("rpc.dataHeader.size is {size}, and data has {len} bytes; leave dataHeader out, or give that size")]
    DataSize {
        /// What the header says.
        size: u32,
        /// Bytes of the data.
        len: usize,
    },
    /// The device would not say what it has received.
    #[error("rpc.dataHeader.rxAckPeriod is {0}; it must be from 0 to {ACK_PERIOD}, or be left out")]
    AckPeriod(u8),
    /// The device would read its parameters as the header.
    #[error(
        "command {0} moves data; give data for the device, or rpc.dataHeader with the size of what it is to send, 4294967295 if \
         that is not known"
    )]
    NoDataHeader(String),
    /// The device would read the header as its parameters.
    #[error("command {0} moves no data; leave data and rpc.dataHeader out")]
    MovesNoData(String),
    /// It would be sent again, and there is no time for that.
    #[error(
        "retry untilAnswered needs sendWaitTimeoutMs: without it a message is sent once, at once; give both or neither"
    )]
    RetryAtOnce,
    /// Nothing would ever stop it from being sent again.
    #[error("retry untilAnswered is for calls, since no other packet is answered; leave retry out")]
    RetryUnanswered,
    /// It would wait for too long.
    #[error("sendWaitTimeoutMs must be a whole number of milliseconds from 0 to {MAX_SEND_WAIT_MS}")]
    SendWait,
    /// Part of a call that comes by the way of what is none.
    #[error(
        "packetType {} is part of a call; send that with POST /rpc, which gives it its request id and follows its answer", .0.0
    )]
    Call(PacketType),
    /// What the gateway sends by itself.
    #[error(
        "packetType 8 acknowledges packets, which the gateway does by itself where a device asks for it; send none"
    )]
    Acknowledgement,
    /// Devices drop it.
    #[error("payload is empty, and devices take no packet without one; give at least one byte")]
    Empty,
}

/// A call as `POST /rpc` asks for it. `request_id` is the next one.
pub(super) fn new_call(new: NewRpcMessage, definitions: &Definitions, request_id: u32) -> Result<NewMessage, ApiError> {
    let NewRpcMessage { device_id, rpc, data, sending } = new;
    let command_id = command_id(&rpc, definitions)?;
    let payload = match (rpc.params_encoded, rpc.params) {
        (Some(Base64(bytes)), _) => bytes,
        (None, params) => definitions.encode(command_id, &Value::Object(params.unwrap_or_default()))?,
    };
    let data = data.map(|Base64(bytes)| bytes);
    let header = data_header(rpc.data_header, data.as_deref())?;
    check_form(command_id, header.is_some(), definitions)?;
    Ok(NewMessage {
        call: Some(MessageCall { request_id, command_id, data: header }),
        data: data.map(Arc::from),
        ..new_message(device_id, PacketType::RPC_CMD, payload, sending)?
    })
}

/// A packet as `POST /device/deviceId/{deviceId}/downlink` asks for it.
pub(super) fn new_downlink(device: DeviceId, new: NewDownlink) -> Result<NewMessage, ApiError> {
    let packet_type = PacketType(new.packet_type);
    let unfit = match packet_type {
        PacketType::RPC_CMD | PacketType::RPC_DATA => Some(UnfitMessage::Call(packet_type)),
        PacketType::ACK => Some(UnfitMessage::Acknowledgement),
        _ if new.payload.0.is_empty() => Some(UnfitMessage::Empty),
        _ if new.sending.retry == Some(AskedRetry::UntilAnswered) => Some(UnfitMessage::RetryUnanswered),
        _ => None,
    };
    unfit.map_or(Ok(()), Err)?;
    new_message(device, packet_type, new.payload.0, new.sending)
}

fn new_message(
    device: DeviceId,
    packet_type: PacketType,
    payload: Vec<u8>,
    sending: NewSending,
) -> Result<NewMessage, ApiError> {
    let send_wait_timeout_ms = sending.send_wait_timeout_ms.unwrap_or_default();
    if send_wait_timeout_ms > MAX_SEND_WAIT_MS {
        return Err(UnfitMessage::SendWait.into());
    }
    if send_wait_timeout_ms == 0 && sending.retry == Some(AskedRetry::UntilAnswered) {
        return Err(UnfitMessage::RetryAtOnce.into());
    }
    Ok(NewMessage {
        device,
        packet_type,
        sealing: sending.level.unwrap_or_default().into(),
        call: None,
        payload: payload.into(),
        data: None,
        send_wait_timeout_ms,
        retry: sending.retry.unwrap_or_default().into(),
        if_route: sending.if_route,
    })
}

fn command_id(rpc: &NewRpc, definitions: &Definitions) -> Result<u16, UnfitMessage> {
    let named = rpc.command_name.as_ref().map(|name| (name, definitions.id(name)));
    match (rpc.command_id, named) {
        (Some(id), None) => Ok(id),
        (Some(id), Some((_, named))) if named.is_none_or(|named| named == id) => Ok(id),
        (None, Some((_, Some(id)))) => Ok(id),
        (Some(_), Some((name, Some(id)))) => Err(UnfitMessage::OtherCommand { name: quoted(name), id }),
        (_, Some((name, None))) => Err(UnfitMessage::NoSuchCommand(quoted(name))),
        (None, None) => Err(UnfitMessage::NoCommand),
    }
}

/// The header of a call with this data. Its length is that of the data, if there is any.
fn data_header(given: Option<RpcDataHeader>, data: Option<&[u8]>) -> Result<Option<DataHeader>, UnfitMessage> {
    if let Some(RpcDataHeader { rx_ack_period, .. }) = given.filter(|given| given.rx_ack_period > ACK_PERIOD) {
        return Err(UnfitMessage::AckPeriod(rx_ack_period));
    }
    let Some(data) = data else {
        return Ok(given.map(|RpcDataHeader { size, rx_ack_period }| DataHeader { size, rx_ack_period }));
    };
    let len = data.len();
    let size = u32::try_from(len).ok().filter(|_| len <= MAX_DATA).ok_or(UnfitMessage::DataTooLong(len))?;
    match given {
        Some(given) if given.size != size => Err(UnfitMessage::DataSize { size: given.size, len }),
        Some(given) if given.rx_ack_period > 0 => Ok(Some(DataHeader { size, rx_ack_period: given.rx_ack_period })),
        // The published client sends a 0 where nothing is said.
        _ => Ok(Some(DataHeader { size, rx_ack_period: ACK_PERIOD })),
    }
}

/// Whether a call has a header of data if its command moves some, and else none: nothing in its bytes tells the two forms apart.
/// Of a command that is not known only the caller knows.
fn check_form(id: u16, has_header: bool, definitions: &Definitions) -> Result<(), UnfitMessage> {
    let Some(command) = definitions.command(id) else { return Ok(()) };
    let named = || format!("{id} ({})", command.name);
    match (command.moves_data, has_header) {
        (true, false) => Err(UnfitMessage::NoDataHeader(named())),
        (false, true) => Err(UnfitMessage::MovesNoData(named())),
        (true, true) | (false, false) => Ok(()),
    }
}

/// As much of a name as is passed on.
fn quoted(name: &str) -> String {
    name.chars().take(60).collect()
}

/// That a message was accepted.
pub(super) fn created(message: &Message) -> CreatedRpcMessage {
    CreatedRpcMessage { created_at: message.created_at, id: message.id, downlink_message_id: message.downlink_id }
}

impl Api {
    /// A call as it is shown; `None` if the message is no call.
    pub(super) fn call_view(&self, message: &Message) -> Option<RpcMessage> {
        let call = message.call?;
        let definitions = &*self.definitions;
        let rpc_req = RpcReq {
            request_id: call.request_id,
            command_id: call.command_id,
            command_name: definitions.name(call.command_id).map(str::to_owned),
            fields: match call.command_id {
                // A key is in them.
                SECURITY_KEY_UPDATE => Fields::default(),
                id => Fields::of(&message.payload, |bytes| definitions.decode_request(id, bytes)),
            },
            data_header: call.data.map(RpcDataHeader::from),
            route: message.route.clone(),
        };
        let rpc_rsp = message.answer.as_ref().map(|MessageAnswer { route, return_code, body }| RpcRsp {
            route: route.clone(),
            return_code: *return_code,
            fields: Fields::of(body, |bytes| definitions.decode(call.command_id, bytes)),
        });
        Some(RpcMessage {
            created: created(message),
            device: message.device.clone(),
            downlink_message: DownlinkMessage { delivery: self.delivery(message), rpc_req, rpc_rsp },
        })
    }

    /// A message that is no call as it is shown; `None` if it is one.
    pub(super) fn downlink_view(&self, message: &Message) -> Option<PlainMessage> {
        message.call.is_none().then(|| PlainMessage {
            created: created(message),
            device: message.device.clone(),
            downlink_message: PlainDownlink {
                delivery: self.delivery(message),
                payload: Base64(message.payload.to_vec()),
                route: message.route.clone(),
            },
        })
    }

    fn delivery(&self, message: &Message) -> Delivery {
        Delivery {
            id: message.downlink_id,
            created_at: message.created_at,
            updated_at: message.updated_at,
            device_id: message.device.id,
            payload_type: message.packet_type.0,
            auth: self.level(message).number(),
            status: message.status,
            send_wait_timeout_ms: message.send_wait_timeout_ms,
            expires_at: message.expires_at,
            sent_at: message.sent_at,
            completed_at: message.completed_at,
            attempts: message.attempts,
            level: message.sealing.into(),
            retry: message.retry.into(),
            if_route: message.if_route,
            received_length: message.received_len,
            connection_terminated: message.terminated,
            note: message.note.clone(),
        }
    }

    /// Under which key a message went, or would go now.
    fn level(&self, message: &Message) -> Level {
        let best = || match self.keys.downlink_key_id(message.device.device_id) {
            Some(_) => Level::Device,
            None => Level::Network,
        };
        message.level.unwrap_or_else(|| match message.sealing {
            Sealing::Best => best(),
            Sealing::Network => Level::Network,
            Sealing::Device => Level::Device,
        })
    }
}

/// The name of the event that tells of it; `None` if there is nothing to tell yet.
pub(super) fn event_name(Outcome { message, is_final, is_withdrawn, .. }: &Outcome) -> Option<&'static str> {
    match message.status {
        _ if *is_withdrawn => Some(WITHDRAWN),
        MessageStatus::Completed => Some(COMPLETED),
        MessageStatus::Sent => Some(SENT),
        MessageStatus::Waiting if !is_final => None,
        // Why it was given up; time that is over needs no words.
        MessageStatus::Waiting if message.note.is_some() => Some(DROPPED),
        MessageStatus::Waiting => Some(EXPIRED),
    }
}

/// It was sent, or something more happened to it since.
pub(super) const SENT: &str = "sent";
/// It is answered.
pub(super) const COMPLETED: &str = "completed";
/// Its device did not speak in time.
pub(super) const EXPIRED: &str = "expired";
/// It is given up for another reason.
pub(super) const DROPPED: &str = "dropped";
/// It was taken back, or went with its device. It is not there any more.
pub(super) const WITHDRAWN: &str = "withdrawn";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::downlink::intent::Retry;
    use crate::id::Cursor;

    fn call(mut body: Value) -> Result<NewMessage, String> {
        body["deviceId"] = json!("d291d4d66bf0a955");
        let new = serde_json::from_value(body).map_err(|error| error.to_string())?;
        new_call(new, &Definitions::default(), 7).map_err(|error| {
            assert_eq!(error.status(), hyper::StatusCode::BAD_REQUEST, "{error}");
            error.to_string()
        })
    }

    #[test]
    fn a_command_is_named_by_its_number_or_its_name() {
        for rpc in [json!({"commandId": 9}), json!({"commandName": "application_info"})] {
            let new = call(json!({"rpc": rpc})).unwrap();
            assert_eq!(new.call, Some(MessageCall { request_id: 7, command_id: 9, data: None }));
            assert_eq!((new.packet_type, new.payload.len(), new.send_wait_timeout_ms), (PacketType::RPC_CMD, 0, 0));
            assert_eq!((new.sealing, new.retry, new.if_route), (Sealing::Best, Retry::Never, None));
        }
        assert!(call(json!({"rpc": {"commandId": 9, "commandName": "application_info"}})).is_ok());
        assert!(call(json!({"rpc": {"commandId": 40_000, "commandName": "of my own"}})).is_ok());
        for (rpc, words) in [
            (json!({}), "rpc names no command"),
            (json!({"commandName": "applicationInfo"}), "there is no command \"applicationInfo\""),
            (json!({"commandId": 3, "commandName": "application_info"}), "\"application_info\" is command 9"),
            (json!({"commandId": 65_536}), "65536"),
        ] {
            let error = call(json!({"rpc": rpc})).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn packed_parameters_win_and_others_need_definitions_unless_they_are_empty() {
        let both = json!({"commandId": 40_000, "params": {"a": "1"}, "paramsEncoded": "AAEC"});
        assert_eq!(&*call(json!({"rpc": both})).unwrap().payload, [0, 1, 2]);
        assert_eq!(&*call(json!({"rpc": {"commandId": 40_000, "params": {}}})).unwrap().payload, [0_u8; 0]);
        let error = call(json!({"rpc": {"commandId": 40_000, "params": {"a": "1"}}})).unwrap_err();
        assert!(error.contains("command 40000"), "{error}");
        assert!(call(json!({"rpc": {"commandId": 40_000, "paramsEncoded": "AAE"}})).is_err());
    }

    #[test]
    fn data_makes_its_own_header_or_fits_the_one_that_is_given() {
        let header = |size, rx_ack_period| Some(DataHeader { size, rx_ack_period });
        let with =
            |data_header: Value| call(json!({"data": "AAEC", "rpc": {"commandId": 44, "dataHeader": data_header}}));
        let plain = call(json!({"data": "AAEC", "rpc": {"commandId": 44}})).unwrap();
        assert_eq!((plain.call.unwrap().data, plain.data.as_deref()), (header(3, 8), Some(&[0, 1, 2][..])));
        for (given, period) in [(json!({"size": 3}), 8), (json!({"size": 3, "rxAckPeriod": 4}), 4)] {
            assert_eq!(with(given).unwrap().call.unwrap().data, header(3, period));
        }
        for (given, words) in [
            (json!({"size": 4}), "size is 4, and data has 3 bytes"),
            (json!({"size": 3, "rxAckPeriod": 9}), "rxAckPeriod is 9"),
        ] {
            let error = with(given).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let awaited = call(json!({"rpc": {"commandId": 14, "dataHeader": {"size": u32::MAX}}})).unwrap();
        assert_eq!((awaited.call.unwrap().data, awaited.data), (header(u32::MAX, 0), None));
        let too_long = Base64(vec![0; MAX_DATA + 1]);
        assert_eq!(data_header(None, Some(&too_long.0)), Err(UnfitMessage::DataTooLong(MAX_DATA + 1)));
        assert!(data_header(None, Some(&too_long.0[1..])).is_ok());
    }

    #[test]
    fn when_and_how_it_is_sent_is_said_beside_the_call() {
        let new = call(json!({"sendWaitTimeoutMs": 600_000, "level": "device", "retry": "untilAnswered",
            "ifRoute": "7-42", "rpc": {"commandId": 9}}));
        let new = new.unwrap();
        assert_eq!(
            (new.send_wait_timeout_ms, new.sealing, new.retry),
            (600_000, Sealing::Device, Retry::UntilAnswered)
        );
        assert_eq!(new.if_route, Some(Cursor { epoch: 7, n: 42 }));
        let error = call(json!({"sendWaitTimeoutMs": MAX_SEND_WAIT_MS + 1, "rpc": {"commandId": 9}})).unwrap_err();
        assert!(error.contains("from 0 to 31536000000"), "{error}");
    }

    #[test]
    fn a_command_that_moves_data_has_a_header_and_no_other_has() {
        let header = json!({"size": 7});
        for (rpc, words) in [
            (json!({"commandId": 14}), "command 14 (data_logger_read) moves data"),
            (json!({"commandName": "file_write"}), "command 44 (file_write) moves data"),
            (json!({"commandId": 9, "dataHeader": header}), "command 9 (application_info) moves no data"),
            (json!({"commandId": 14, "dataHeader": {"size": 7, "rxAckPeriod": 9}}), "rxAckPeriod is 9"),
        ] {
            let error = call(json!({"rpc": rpc})).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let error = call(json!({"data": "AAEC", "rpc": {"commandId": 9}})).unwrap_err();
        assert!(error.contains("moves no data"), "{error}");
        for rpc in [json!({"commandId": 40_000}), json!({"commandId": 40_000, "dataHeader": header})] {
            assert!(call(json!({"rpc": rpc})).is_ok(), "nobody else knows");
        }
    }

    #[test]
    fn a_call_that_is_sent_at_once_is_not_sent_again() {
        let new =
            |wait: u64| call(json!({"sendWaitTimeoutMs": wait, "retry": "untilAnswered", "rpc": {"commandId": 9}}));
        assert!(new(0).unwrap_err().contains("needs sendWaitTimeoutMs"));
        assert!(new(1).is_ok());
    }

    #[test]
    fn what_belongs_to_calls_is_no_plain_downlink_nor_is_what_devices_do_not_take() {
        let new = |packet_type, payload: &[u8], retry| NewDownlink {
            packet_type,
            payload: Base64(payload.to_vec()),
            sending: NewSending { retry, send_wait_timeout_ms: Some(1), ..NewSending::default() },
        };
        for (new, unfit) in [
            (new(3, &[1], None), UnfitMessage::Call(PacketType(3))),
            (new(4, &[1], None), UnfitMessage::Call(PacketType(4))),
            (new(8, &[1], None), UnfitMessage::Acknowledgement),
            (new(200, &[], None), UnfitMessage::Empty),
            (new(200, &[1], Some(AskedRetry::UntilAnswered)), UnfitMessage::RetryUnanswered),
        ] {
            assert_eq!(new_downlink(DeviceId(7), new).unwrap_err(), unfit.into());
        }
        let message = new_downlink(DeviceId(7), new(200, &[1], Some(AskedRetry::Never))).unwrap();
        assert_eq!((message.device, message.packet_type, &*message.payload), (DeviceId(7), PacketType(200), &[1][..]));
    }
}

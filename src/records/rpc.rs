//! Messages to devices as the API shows them, and the requests that make them. What is decoded of calls comes from the
//! definitions of commands, which are not known here.

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::message::MessageStatus;
use super::route::{DownlinkRoute, UplinkRoute};
use super::{Base64, Device, described, present};
use crate::downlink::intent::{Retry, Sealing};
use crate::id::{Cursor, DeviceId};
use crate::status::Time;
use crate::wire::rpc::DataHeader;

/// Fields of the parameters of a call. Numbers are decimal texts, structures are objects.
pub type Params = Map<String, Value>;

/// The request of `POST /rpc`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = NewRPCMessage)]
#[serde(rename_all = "camelCase", from = "NewRpcMessageFields")]
pub struct NewRpcMessage {
    /// To whom.
    pub device_id: DeviceId,
    /// What to do.
    pub rpc: NewRpc,
    /// Data for the device that follows the call: at most 1 MiB.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub data: Option<Base64>,
    /// When and how it is sent.
    #[serde(flatten)]
    pub sending: NewSending,
}

/// The call of a [`NewRpcMessage`]: one of its command's id and name is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = NewRPCReq)]
#[serde(rename_all = "camelCase")]
pub struct NewRpc {
    /// The number of the command.
    #[schema(maximum = 65535)]
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub command_id: Option<u16>,
    /// The name of the command, in place of its number or beside it.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub command_name: Option<String>,
    /// Its parameters, of a command whose fields the gateway knows.
    #[schema(schema_with = described::params)]
    #[serde(default, deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub params: Option<Params>,
    /// The packed parameters. They win over `params`.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub params_encoded: Option<Base64>,
    /// Of a command that moves data, which needs it or `data`, and of no other.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub data_header: Option<RpcDataHeader>,
}

/// How a command moves data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = RPCReqDataHeader)]
#[serde(rename_all = "camelCase")]
pub struct RpcDataHeader {
    /// Bytes to move; 4294967295 if it is not known how many the device will send.
    #[schema(maximum = 4_294_967_295_u32)]
    pub size: u32,
    /// The device acknowledges after so many packets of data, 1 to 8; 0: not at all. With `data`, 0 stands for 8.
    #[schema(maximum = 8, default = 0, required = true)]
    #[serde(default)]
    pub rx_ack_period: u8,
}

/// The request of `POST /device/deviceId/{deviceId}/downlink`: a packet that belongs to no call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", from = "NewDownlinkFields")]
pub struct NewDownlink {
    /// The type of the packet, one of those that are for devices and no part of a call.
    #[schema(schema_with = described::packet_type)]
    pub packet_type: u8,
    /// Its whole payload, at least one byte.
    pub payload: Base64,
    /// When and how it is sent.
    #[serde(flatten)]
    pub sending: NewSending,
}

/// When and how a message is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewSending {
    /// Milliseconds for which it may wait for the next packet of its device; 0, or absent: it is sent at once over the last
    /// route, or not at all.
    #[schema(maximum = 31_536_000_000_u64)]
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub send_wait_timeout_ms: Option<u64>,
    /// Under which key it goes; without it `best`.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub level: Option<AskedLevel>,
    /// How often it is sent; without it `never` again. `untilAnswered` is for calls that may wait.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub retry: Option<AskedRetry>,
    /// Only if the route has not moved since this position of the device.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub if_route: Option<Cursor>,
}

/// Under which key a message goes: `best` is the device's if it is known by then, else its network's; `device` waits until
/// that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DownlinkLevel)]
#[serde(rename_all = "camelCase")]
pub enum AskedLevel {
    /// The device's if it is known, else its network's.
    #[default]
    Best,
    /// The network's.
    Network,
    /// The device's.
    Device,
}

/// How often a message is sent: once, or each time its device speaks until it answers. Devices keep no replay state: what
/// is sent again may be carried out again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DownlinkRetry)]
#[serde(rename_all = "camelCase")]
pub enum AskedRetry {
    /// Once.
    #[default]
    Never,
    /// Each time the device speaks, until it answers or the time is up.
    UntilAnswered,
}

/// A [`NewRpcMessage`] as it is read: of parts that are put together by `flatten` an error would not say where it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewRpcMessageFields {
    device_id: DeviceId,
    rpc: NewRpc,
    #[serde(default, deserialize_with = "present")]
    data: Option<Base64>,
    #[serde(default, deserialize_with = "present")]
    send_wait_timeout_ms: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    level: Option<AskedLevel>,
    #[serde(default, deserialize_with = "present")]
    retry: Option<AskedRetry>,
    #[serde(default, deserialize_with = "present")]
    if_route: Option<Cursor>,
}

impl From<NewRpcMessageFields> for NewRpcMessage {
    fn from(fields: NewRpcMessageFields) -> Self {
        let NewRpcMessageFields { device_id, rpc, data, send_wait_timeout_ms, level, retry, if_route } = fields;
        Self { device_id, rpc, data, sending: NewSending { send_wait_timeout_ms, level, retry, if_route } }
    }
}

/// A [`NewDownlink`] as it is read, likewise.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewDownlinkFields {
    packet_type: u8,
    payload: Base64,
    #[serde(default, deserialize_with = "present")]
    send_wait_timeout_ms: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    level: Option<AskedLevel>,
    #[serde(default, deserialize_with = "present")]
    retry: Option<AskedRetry>,
    #[serde(default, deserialize_with = "present")]
    if_route: Option<Cursor>,
}

impl From<NewDownlinkFields> for NewDownlink {
    fn from(fields: NewDownlinkFields) -> Self {
        let NewDownlinkFields { packet_type, payload, send_wait_timeout_ms, level, retry, if_route } = fields;
        Self { packet_type, payload, sending: NewSending { send_wait_timeout_ms, level, retry, if_route } }
    }
}

/// That a message was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreatedRpcMessage {
    /// When.
    pub created_at: Time,
    /// By which it is read, waited for and taken back.
    pub id: Uuid,
    /// That of the downlink message in it, another one.
    pub downlink_message_id: Uuid,
}

/// `GET /rpc/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RpcMessage {
    /// That it was accepted.
    #[serde(flatten)]
    pub created: CreatedRpcMessage,
    /// To whom it goes.
    pub device: Device,
    /// What becomes of it.
    pub downlink_message: DownlinkMessage,
}

/// A call and what becomes of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DownlinkMessage {
    /// What every message has.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// The call.
    pub rpc_req: RpcReq,
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpc_rsp: Option<RpcRsp>,
}

/// `GET /downlink/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Downlink)]
#[serde(rename_all = "camelCase")]
pub struct PlainMessage {
    /// That it was accepted.
    #[serde(flatten)]
    pub created: CreatedRpcMessage,
    /// To whom it goes.
    pub device: Device,
    /// What becomes of it.
    pub downlink_message: PlainDownlink,
}

/// A packet that is no call, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlainDownlink {
    /// What every message has.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// Its payload.
    pub payload: Base64,
    /// The way it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<DownlinkRoute>,
}

/// What becomes of a message, whatever it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Its own id.
    pub id: Uuid,
    /// When it was accepted.
    pub created_at: Time,
    /// When something last happened to it.
    pub updated_at: Time,
    /// The record of its device, not the identifier of 16 hex digits.
    pub device_id: Uuid,
    /// The type of its packet; 3 for a call.
    #[schema(maximum = 255)]
    pub payload_type: u8,
    /// The key it went under, or would go under now: 1 the network's, 2 the device's.
    pub auth: u8,
    /// How far it has come. One that expired waits, with `expiresAt` in the past.
    #[schema(schema_with = described::message_status)]
    #[serde(with = "status_text")]
    pub status: MessageStatus,
    /// Milliseconds for which it may wait.
    pub send_wait_timeout_ms: u64,
    /// Until when it may be sent.
    pub expires_at: Time,
    /// When it was sent, the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Time>,
    /// When its answer came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// How often it was sent.
    pub attempts: u32,
    /// Under which key it is to go.
    pub level: AskedLevel,
    /// How often it is to be sent.
    pub retry: AskedRetry,
    /// Only if the route has not moved since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_route: Option<Cursor>,
    /// Bytes of data that the device sent before its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_length: Option<u64>,
    /// Why the relay's connection to the device ended: a code of the Bluetooth link, or why there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_terminated: Option<i16>,
    /// What there is to say about whether the device heard it, or why it is not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A call as it was sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RpcReq {
    /// Chosen by the gateway, repeated by the device.
    #[schema(maximum = 4_294_967_295_u32)]
    pub request_id: u32,
    /// The number of the command.
    #[schema(maximum = 65535)]
    pub command_id: u16,
    /// Its name, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_name: Option<String>,
    /// Its parameters.
    #[serde(flatten)]
    pub fields: Fields,
    /// Of a command that moves data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_header: Option<RpcDataHeader>,
    /// The way it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<DownlinkRoute>,
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RpcRsp {
    /// How it came.
    pub route: UplinkRoute,
    /// 0 for success.
    pub return_code: i16,
    /// The result.
    #[serde(flatten)]
    pub fields: Fields,
}

/// Parameters or a result: decoded where that is possible, else packed, and neither of both where there are none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = RPCFields)]
#[serde(rename_all = "camelCase")]
pub struct Fields {
    /// The fields.
    #[schema(schema_with = described::params)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Value>,
    /// The packed structure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params_encoded: Option<Base64>,
}

impl Fields {
    /// `bytes` as `decode` reads them, if it can.
    pub fn of(bytes: &[u8], decode: impl FnOnce(&[u8]) -> Option<Value>) -> Self {
        match decode(bytes) {
            Some(params) => Self { params: Some(params), params_encoded: None },
            None if bytes.is_empty() => Self::default(),
            None => Self { params: None, params_encoded: Some(Base64(bytes.to_vec())) },
        }
    }
}

impl From<DataHeader> for RpcDataHeader {
    fn from(DataHeader { size, rx_ack_period }: DataHeader) -> Self {
        Self { size, rx_ack_period }
    }
}

impl From<AskedLevel> for Sealing {
    fn from(level: AskedLevel) -> Self {
        match level {
            AskedLevel::Best => Self::Best,
            AskedLevel::Network => Self::Network,
            AskedLevel::Device => Self::Device,
        }
    }
}

impl From<Sealing> for AskedLevel {
    fn from(sealing: Sealing) -> Self {
        match sealing {
            Sealing::Best => Self::Best,
            Sealing::Network => Self::Network,
            Sealing::Device => Self::Device,
        }
    }
}

impl From<AskedRetry> for Retry {
    fn from(retry: AskedRetry) -> Self {
        match retry {
            AskedRetry::Never => Self::Never,
            AskedRetry::UntilAnswered => Self::UntilAnswered,
        }
    }
}

impl From<Retry> for AskedRetry {
    fn from(retry: Retry) -> Self {
        match retry {
            Retry::Never => Self::Never,
            Retry::UntilAnswered => Self::UntilAnswered,
        }
    }
}

/// An object that is there. Of itself a map would take the nothing of MessagePack for one without fields.
fn object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Params>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Object(fields) => Ok(Some(fields)),
        Value::Null => Err(de::Error::custom("params are an object, and not null; leave them out if there are none")),
        _ => Err(de::Error::custom("params are an object")),
    }
}

/// The names of how far a message has come.
mod status_text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use super::MessageStatus;

    pub(super) fn serialize<S: Serializer>(status: &MessageStatus, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(status.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MessageStatus, D::Error> {
        let text = String::deserialize(deserializer)?;
        let status = MessageStatus::ALL.into_iter().find(|status| status.name() == text);
        status.ok_or_else(|| de::Error::custom("a message is completed, sent or waiting"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_decoded_or_packed_or_not_there() {
        let params = json!({"uptime": "7"});
        let json = |fields: Fields| serde_json::to_value(fields).unwrap();
        assert_eq!(json(Fields::of(&[7], |_| Some(params))), json!({"params": {"uptime": "7"}}));
        assert_eq!(json(Fields::of(&[7, 0], |_| None)), json!({"paramsEncoded": "BwA="}));
        assert_eq!(json(Fields::of(&[], |_| None)), json!({}));
        assert_eq!(json(Fields::of(&[], |_| Some(json!({})))), json!({"params": {}}));
    }

    #[test]
    fn a_request_needs_no_more_than_a_device_and_a_command_and_takes_no_null() {
        let least = json!({"deviceId": "d291d4d66bf0a955", "rpc": {"commandId": 9}});
        let parsed: NewRpcMessage = serde_json::from_value(least.clone()).unwrap();
        assert_eq!(parsed.sending, NewSending::default());
        assert_eq!(serde_json::to_value(parsed).unwrap(), least);
        for field in ["sendWaitTimeoutMs", "level", "retry", "ifRoute", "data"] {
            let mut with_null = least.clone();
            with_null[field] = Value::Null;
            assert!(serde_json::from_value::<NewRpcMessage>(with_null).is_err(), "{field}");
        }
        let whole = json!({"deviceId": "d291d4d66bf0a955", "sendWaitTimeoutMs": 600_000, "level": "device",
            "retry": "untilAnswered", "ifRoute": "7-42", "data": "AAEC",
            "rpc": {"commandName": "file_write", "params": {"action": "1"}, "paramsEncoded": "AA==",
                "dataHeader": {"size": 3, "rxAckPeriod": 4}}});
        let parsed: NewRpcMessage = serde_json::from_value(whole.clone()).unwrap();
        assert_eq!(serde_json::to_value(parsed).unwrap(), whole);
    }

    #[test]
    fn params_are_an_object_in_both_forms() {
        for (params, is_one) in [(json!({}), true), (json!({"a": "1"}), true), (Value::Null, false), (json!([]), false)]
        {
            let rpc = json!({"commandId": 9, "params": params});
            let packed = rmp_serde::to_vec_named(&rpc).unwrap();
            assert_eq!(serde_json::from_value::<NewRpc>(rpc).is_ok(), is_one, "{params}");
            assert_eq!(rmp_serde::from_slice::<NewRpc>(&packed).is_ok(), is_one, "{params}");
        }
    }

    #[test]
    fn names_of_levels_and_retries_go_both_ways() {
        for sealing in [Sealing::Best, Sealing::Network, Sealing::Device] {
            assert_eq!(Sealing::from(AskedLevel::from(sealing)), sealing);
        }
        for retry in [Retry::Never, Retry::UntilAnswered] {
            assert_eq!(Retry::from(AskedRetry::from(retry)), retry);
        }
        assert_eq!(serde_json::to_value(AskedRetry::UntilAnswered).unwrap(), json!("untilAnswered"));
    }
}

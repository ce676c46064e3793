//! How the values that have a text form of their own are described to clients, in the terms of JSON Schema.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, Object, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::message::MessageStatus;
use super::{Base64, Key32, McuId, NetworkId};
use crate::id::{Cursor, DeviceId, KeyId};
use crate::wire::container::RouteInterface;
use crate::wire::frame::PacketType;

/// How [`super::Metadata`] is described.
pub(super) struct DeviceMetadata;

/// One of `values`.
pub(crate) fn one_of(values: &[&str]) -> ObjectBuilder {
    Object::builder().schema_type(Type::String).enum_values(Some(values.iter().copied()))
}

/// The medium of a packet.
pub(crate) fn route_type() -> Object {
    one_of(
        &[
            RouteInterface::BtAdv,
            RouteInterface::BtCentral,
            RouteInterface::BtPeripheral,
            RouteInterface::Hci,
            RouteInterface::Serial,
            RouteInterface::Udp,
            RouteInterface::Unknown(u8::MAX),
        ]
        .map(RouteInterface::name),
    )
    .build()
}

/// The kind of a Bluetooth address.
pub(crate) fn bt_address_type() -> Object {
    one_of(&["public", "random", "unknown"]).build()
}

/// How far a message has come.
pub(super) fn message_status() -> Object {
    one_of(&MessageStatus::ALL.map(MessageStatus::name)).build()
}

/// The types of packets to devices that are asked for by number.
pub(super) fn packet_type() -> RefOr<Schema> {
    let own = [PacketType::ECHO_REQ, PacketType::EPACKET_FORWARD, PacketType::EPACKET_FORWARD_AUTO_CONN];
    let integer = || Object::builder().schema_type(Type::Integer);
    OneOfBuilder::new()
        .item(integer().enum_values(Some(own.map(|packet_type| packet_type.0))))
        .item(integer().minimum(Some(128)).maximum(Some(u8::MAX)))
        .description(Some(
            "The type of the packet: 0 asks for an echo, 9 and 12 have a relay pass a packet on, 128 to 255 are the customer's own. \
             Calls belong to `POST /rpc`; all else is what devices send, or the gateway by itself.",
        ))
        .into()
}

/// Fields of a call.
pub(super) fn params() -> Object {
    Object::builder()
        .schema_type(Type::Object)
        .description(Some("Fields by name. Numbers are decimal texts, structures are objects."))
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(true)))
        .build()
}

impl PartialSchema for DeviceId {
    fn schema() -> RefOr<Schema> {
        text("64-bit device identifier, most significant digit first; the gateway writes it in lower case.")
            .pattern(Some("^[0-9a-fA-F]{16}$"))
            .examples(["d291d4d66bf0a955"])
            .into()
    }
}

impl PartialSchema for Cursor {
    fn schema() -> RefOr<Schema> {
        text("A position in the packets of one device, as the gateway returned it; one of another count is told by its epoch.")
            .pattern(Some("^[0-9]{1,20}-[0-9]{1,20}$"))
            .examples(["2442174857555738624-3"])
            .into()
    }
}

impl PartialSchema for McuId {
    fn schema() -> RefOr<Schema> {
        text(
            "Hardware identifier in hex, compared without regard to case: 16 digits for nRF parts, 24 for STM32 parts.",
        )
        .pattern(Some(format!("^([0-9a-fA-F]{{2}}){{1,{}}}$", Self::MAX_LEN / 2)))
        .examples(["0011223344556677"])
        .into()
    }
}

impl PartialSchema for Key32 {
    fn schema() -> RefOr<Schema> {
        // The last character carries four bits only; the other two are zero.
        text("Exactly 32 bytes in standard base64 with padding.")
            .pattern(Some("^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$"))
            .content_encoding("base64")
            .examples(["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="])
            .into()
    }
}

impl PartialSchema for Base64 {
    fn schema() -> RefOr<Schema> {
        text("Standard base64 with padding.")
            .pattern(Some("^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"))
            .content_encoding("base64")
            .examples(["AAEC"])
            .into()
    }
}

impl PartialSchema for NetworkId {
    fn schema() -> RefOr<Schema> {
        Object::builder()
            .schema_type(Type::Integer)
            .description(Some("What packets carry as their 24-bit key id."))
            .minimum(Some(0))
            .maximum(Some(KeyId::MAX))
            .into()
    }
}

impl PartialSchema for DeviceMetadata {
    fn schema() -> RefOr<Schema> {
        let name = Object::builder().schema_type(Type::String).min_length(Some(1)).max_length(Some(255));
        let value = Object::builder().schema_type(Type::String).max_length(Some(4096));
        Object::builder()
            .schema_type(Type::Object)
            .description(Some("Free names with a text each; all of them may have 16 KiB."))
            .max_properties(Some(64))
            .property_names(Some(Schema::Object(name.build())))
            .additional_properties(Some(AdditionalProperties::RefOr(RefOr::T(Schema::Object(value.build())))))
            .into()
    }
}

impl ToSchema for DeviceId {}
impl ToSchema for Cursor {}
impl ToSchema for McuId {}
impl ToSchema for Key32 {}
impl ToSchema for Base64 {}
impl ToSchema for NetworkId {}
impl ToSchema for DeviceMetadata {}

fn text(description: &str) -> ObjectBuilder {
    Object::builder().schema_type(Type::String).description(Some(description))
}

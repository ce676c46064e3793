//! What operations take in their paths and queries.

use utoipa::PartialSchema;
use utoipa::openapi::path::{Parameter, ParameterIn, ParameterStyle};
use utoipa::openapi::schema::{Array, KnownFormat, Object, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Required};

use super::super::query::MAX_LIMIT;
use crate::id::{Cursor, DeviceId};
use crate::records::{McuId, one_of};
use crate::status::Time;

/// `id`: the record.
pub(super) fn record_id() -> Parameter {
    in_path("id", "The record, as it was answered when it was made.", uuid())
}

/// `deviceId`: the device.
pub(super) fn device_id() -> Parameter {
    in_path("deviceId", "16 hex digits.", DeviceId::schema())
}

/// `name`: percent-encoded.
pub(super) fn name() -> Parameter {
    let text = Object::builder().schema_type(Type::String).min_length(Some(1));
    in_path("name", "The exact name; percent-encoded, the slash included.", text)
}

/// `soc`: percent-encoded.
pub(super) fn soc() -> Parameter {
    let text = Object::builder().schema_type(Type::String).min_length(Some(1)).examples(["nRF9151"]);
    in_path("soc", "The system on chip of the device's board; percent-encoded, the slash included.", text)
}

/// `mcuId`: the hardware.
pub(super) fn mcu_id() -> Parameter {
    in_path("mcuId", "The hardware id, compared without regard to case.", McuId::schema())
}

/// `organisationId`: whose records a list has.
pub(super) fn organisation_id() -> Parameter {
    let mut parameter = in_query("organisationId", "The owner.", uuid());
    parameter.required = Required::True;
    parameter
}

/// `includePublic`: whether a list also has what others own and show.
pub(super) fn include_public() -> Parameter {
    let schema = Object::builder().schema_type(Type::Boolean).default(Some(false.into()));
    in_query("includePublic", "Also list public ones of other organisations.", schema)
}

/// `boardIds`: as often as there are boards.
pub(super) fn board_ids() -> Parameter {
    let list = Array::new(uuid().build());
    let mut parameter = in_query("boardIds", "Only devices of these boards: once for each.", list);
    (parameter.style, parameter.explode) = (Some(ParameterStyle::Form), Some(true));
    parameter
}

/// `metadataName` and `metadataValue`: which go together.
pub(super) fn metadata() -> [Parameter; 2] {
    let text = || Object::with_type(Type::String);
    [
        in_query("metadataName", "A name of the metadata to filter by; goes with `metadataValue`.", text()),
        in_query("metadataValue", "The value it must have, exactly; goes with `metadataName`.", text()),
    ]
}

/// `limit` and `offset`: a part of a list.
pub(super) fn part() -> [Parameter; 2] {
    let number = || Object::builder().schema_type(Type::Integer);
    let limit = number().minimum(Some(1)).maximum(Some(MAX_LIMIT)).default(Some(100.into()));
    let offset = number().minimum(Some(0)).maximum(Some(i64::MAX as isize)).default(Some(0.into()));
    [in_query("limit", "Records at most.", limit), in_query("offset", "Records left out before them.", offset)]
}

/// `orderDir`: which way a list goes.
pub(super) fn direction() -> Parameter {
    let direction = one_of(&["asc", "desc"]).default(Some("asc".into()));
    in_query("orderDir", "The least or the greatest first.", direction)
}

/// What lists that have an order take. `order` are the orders by which they go, `createdAt` unless another one is named.
pub(super) fn page(order: &[&str]) -> [Parameter; 4] {
    let order = one_of(order).default(Some("createdAt".into()));
    let [limit, offset] = part();
    [
        limit,
        offset,
        direction(),
        in_query("orderBy", "By what the list is ordered; ties go by when they were made.", order),
    ]
}

/// What an export takes.
pub(super) fn export() -> [Parameter; 3] {
    let limit = Object::builder().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(MAX_LIMIT));
    [
        in_query("organisationId", "The owner; without one, all whose devices the caller may see.", uuid()),
        in_query("after", "The last record of the page before; without one, from the beginning.", uuid()),
        in_query("limit", "Records at most.", limit.default(Some(100.into()))),
    ]
}

/// An age in milliseconds.
pub(super) fn age(name: &str, meaning: &str) -> Parameter {
    in_query(
        name,
        meaning,
        Object::builder().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(i64::MAX as isize)),
    )
}

/// What a wait for one device takes.
pub(super) fn wait() -> [Parameter; 2] {
    [
        in_query("timeoutMs", "How long to wait.", super::names::timeout_ms()),
        in_query("after", "The position to wait after; without one, from now on.", Cursor::schema()),
    ]
}

/// `Last-Event-ID`: what browsers send by themselves.
pub(super) fn last_event_id() -> Parameter {
    let meaning = "Streams only: the last event seen, after which each device goes on.";
    let mut parameter = in_query("Last-Event-ID", meaning, Object::with_type(Type::String));
    parameter.parameter_in = ParameterIn::Header;
    parameter
}

/// `organisationId`, where it need not be given.
pub(super) fn of_organisation() -> Parameter {
    in_query("organisationId", "The owner of the devices; without one, all whose devices the caller may see.", uuid())
}

/// `deviceId`, where it need not be given.
pub(super) fn of_device() -> Parameter {
    in_query("deviceId", "Only those to this device.", DeviceId::schema())
}

/// One of some values.
pub(super) fn choice(name: &str, meaning: &str, values: &[&str]) -> Parameter {
    in_query(name, meaning, one_of(values))
}

/// A moment, with its zone.
pub(super) fn moment(name: &str, meaning: &str) -> Parameter {
    in_query(name, meaning, Time::schema())
}

/// `rpcCommandId`: the number of a command.
pub(super) fn command_id() -> Parameter {
    let number = Object::builder().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(u16::MAX));
    in_query("rpcCommandId", "Only those of this command.", number)
}

/// `showExpired`: whether a list also has what expired before it was sent.
pub(super) fn show_expired() -> Parameter {
    let schema = Object::builder().schema_type(Type::Boolean).default(Some(true.into()));
    in_query("showExpired", "With `false`, without those that expired before they were sent.", schema)
}

/// What a list of messages takes.
pub(super) fn page_of_messages() -> [Parameter; 4] {
    let order = ["commandId", "completedAt", "createdAt", "deviceId", "expiresAt", "sentAt", "status", "updatedAt"];
    let [limit, offset, _, order] = page(&order);
    let direction = one_of(&["asc", "desc"]).default(Some("desc".into()));
    [limit, offset, in_query("orderDir", "The least or the greatest first.", direction), order]
}

/// `timeoutMs`: how long to wait for what becomes of a message.
pub(super) fn timeout_ms() -> Parameter {
    let schema = Object::builder().schema_type(Type::Integer).minimum(Some(0)).maximum(Some(600_000));
    let meaning =
        "Milliseconds to wait, which are shortened at random by up to a tenth; without it, nothing is waited for.";
    in_query("timeoutMs", meaning, schema)
}

/// A parameter that need not be given.
pub(super) fn in_query(name: &str, meaning: &str, schema: impl Into<RefOr<Schema>>) -> Parameter {
    let parameter = Parameter::builder().name(name).parameter_in(ParameterIn::Query).required(Required::False);
    parameter.description(Some(meaning)).schema(Some(schema)).build()
}

/// A record id.
pub(super) fn uuid() -> ObjectBuilder {
    Object::builder().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)))
}

fn in_path(name: &str, meaning: &str, schema: impl Into<RefOr<Schema>>) -> Parameter {
    let mut parameter = in_query(name, meaning, schema);
    (parameter.parameter_in, parameter.required) = (ParameterIn::Path, Required::True);
    parameter
}

//! Texts of which only some are in use, and where else the type of a field says less than is true of it.

use utoipa::PartialSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AdditionalProperties, Object, Schema, Type};

use crate::id::{Cursor, DeviceId};
use crate::records::one_of;
use crate::table::route::Trust;

/// How a route was proved.
pub(in crate::api) fn trust() -> Object {
    one_of(&[Trust::Network, Trust::Device, Trust::Verified].map(Trust::name)).build()
}

/// When a wait for many devices is over.
pub(in crate::api) fn wait_mode() -> Object {
    one_of(&["any", "all"]).default(Some("any".into())).description(Some("`all` only with deviceIds.")).build()
}

/// How long a wait lasts.
pub(in crate::api) fn timeout_ms() -> Object {
    Object::builder()
        .schema_type(Type::Integer)
        .description(Some("Milliseconds; they are shortened at random by up to a tenth. A stream lasts without end unless this is given."))
        .minimum(Some(0))
        .maximum(Some(600_000))
        .default(Some(60_000.into()))
        .build()
}

/// A position for each device.
pub(in crate::api) fn positions() -> Object {
    let id = match DeviceId::schema() {
        RefOr::T(schema) => Some(schema),
        RefOr::Ref(_) => None,
    };
    Object::builder()
        .schema_type(Type::Object)
        .description(Some("The position to wait after, by device id; each device has to be in deviceIds, or registered for the organisation. Without one a device counts from now on."))
        .property_names(id)
        .additional_properties(Some(AdditionalProperties::<Schema>::RefOr(Cursor::schema())))
        .build()
}

//! What a request says beyond its path, read as its handler reads it, and nothing of it carried out: to try requests that are
//! made up against what is understood, without a server.

use serde::de::DeserializeOwned;

use crate::definitions::Definitions;
use crate::records::rpc::{NewDownlink, NewRpcMessage};
use crate::records::{
    DeviceUpdate, GivenKey, NewApiKey, NewBoard, NewDevice, NewDeviceState, NewNetwork, NewOrganisation,
};

use super::ApiConfig;
use super::device_keys::{Derived, Key, Meant, OfDevice};
use super::error::ApiError;
use super::format::Format;
use super::messages::{new_call, new_downlink};
use super::outcomes::followed;
use super::query::Query;
use super::router::Endpoint;
use super::strict::Bounds;
use super::transfer::import;
use super::views;
use super::wanted::{WaitQuery, Wanted};

/// Reads a query in every way that some endpoint reads one; gives what each refuses.
pub fn query(text: &str) -> Vec<ApiError> {
    let query = Query::parse(text);
    let refused = [
        WaitQuery::parse(text).err(),
        query.timeout().err(),
        query.page().err(),
        query.page_of_messages().err(),
        query.limit().err(),
        query.goes_by_after().err(),
        query.organisation().err(),
        query.record("after").err(),
        query.include_public().err(),
        query.boards().err(),
        query.metadata().err(),
        query.heard().err(),
        query.messages().err(),
        query.message_order().err(),
        query.organisation_order().err(),
        query.kind_order().err(),
        query.device_order().err(),
        query.state_order().err(),
        followed(&query).err(),
    ];
    refused.into_iter().flatten().collect()
}

/// Reads the body of a request to `endpoint`, within the default bounds; most have none. `definitions` are those of the
/// calls.
///
/// # Errors
/// What the request would be answered with for its body alone.
pub fn body(endpoint: &Endpoint, format: Format, bytes: &[u8], definitions: &Definitions) -> Result<(), ApiError> {
    let max = ApiConfig::default().max_devices_per_request;
    let body = Body { format, bytes, bounds: Bounds::of_lists(max) };
    match endpoint {
        Endpoint::CreateApiKey => body.is::<NewApiKey>(),
        Endpoint::CreateOrganisation => body.is::<NewOrganisation>(),
        Endpoint::CreateBoard => body.is::<NewBoard>(),
        Endpoint::CreateNetwork => body.is::<NewNetwork>(),
        Endpoint::CreateDevice => body.is::<NewDevice>(),
        Endpoint::CreateDevices => body.is::<views::NewDevices>(),
        Endpoint::ImportDevices => import(format, bytes, max).map(|_| ()),
        Endpoint::UpdateDevice(_) => body.is::<DeviceUpdate>(),
        Endpoint::SetState(_) => body.is::<NewDeviceState>(),
        Endpoint::SetDeviceKey(_) => body.is::<GivenKey>(),
        Endpoint::ConfirmDeviceKey(_) if bytes.is_empty() => Ok(()),
        Endpoint::ConfirmDeviceKey(_) => body.is::<Meant>(),
        Endpoint::LastRoutes => body.read::<views::LastRoutes>()?.ids().map(|_| ()),
        Endpoint::WaitForPackets => Wanted::of(body.read()?, max).map(|_| ()),
        Endpoint::SendRpc => new_call(body.read::<NewRpcMessage>()?, definitions, 1).map(|_| ()),
        Endpoint::SendDownlink(id) => new_downlink(*id, body.read::<NewDownlink>()?).map(|_| ()),
        Endpoint::SharedSecret => body.is::<Key>(),
        Endpoint::DeviceSharedSecret => body.is::<OfDevice>(),
        Endpoint::DerivedKey => body.is::<Derived>(),
        _ => Ok(()),
    }
}

/// A body that is not read yet.
struct Body<'a> {
    format: Format,
    bytes: &'a [u8],
    bounds: Bounds,
}

impl Body<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        Ok(self.format.decode(self.bytes, self.bounds)?)
    }

    fn is<T: DeserializeOwned>(&self) -> Result<(), ApiError> {
        self.read::<T>().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::router::{ROWS, Router};
    use super::*;

    /// The paths whose requests bring a body, for which nothing is none.
    #[test]
    fn the_body_of_every_request_that_brings_one_is_read() {
        let router = Router::new();
        let mut without = Vec::new();
        for row in ROWS.iter().filter(|row| ["POST", "PUT"].contains(&row.method.as_str())) {
            let path = row.template.replace("{deviceId}", "d291d4d66bf0a955");
            let path = path.replace("{id}", "0198c0de-0000-7000-8000-00000000002a");
            let endpoint = router.resolve(row.method, &path).endpoint.unwrap();
            let read = |bytes: &[u8]| body(&endpoint, Format::Json, bytes, &Definitions::default());
            if read(b"7").is_ok() {
                without.push(row.template);
            }
        }
        assert_eq!(without, [""; 0]);
    }

    #[test]
    fn what_a_handler_refuses_is_refused() {
        let read = |endpoint, text: &str| body(&endpoint, Format::Json, text.as_bytes(), &Definitions::default());
        assert_eq!(read(Endpoint::LastRoutes, r#"{"deviceIds":["d291d4d66bf0a955"]}"#), Ok(()));
        assert!(matches!(
            read(Endpoint::LastRoutes, r#"{"deviceIds":["x"]}"#),
            Err(ApiError::BodyDevice { index: 0, .. })
        ));
        assert_eq!(read(Endpoint::WaitForPackets, "{}"), Err(ApiError::DevicesOrOrganisation));
        assert_eq!(read(Endpoint::Health, "anything"), Ok(()), "it is not read");
        let refused = query("limit=0").into_iter().filter(|error| matches!(error, ApiError::QueryValue { .. }));
        assert_eq!(refused.count(), 4, "of a page, of one of messages, of a limit, and where events are followed");
        let names: BTreeMap<_, _> = query("").into_iter().map(|error| (error.to_string(), ())).collect();
        assert_eq!(names.len(), 1, "only an organisation is ever missing: {names:?}");
    }
}

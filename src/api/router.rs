//! Which endpoint answers a request: a pure function of method and path.
//!
//! The path is split before its parts are percent-decoded, so an encoded slash belongs to a part. Paths are exact: one more
//! or one less slash is another path.

use std::borrow::Cow;

use hyper::Method;
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use crate::id::{DeviceId, IdError};

pub use super::endpoint::{Endpoint, Hardware};

/// What an endpoint demands of its caller. Each but the first also demands what is before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Not even credentials.
    Nothing,
    /// To read what the caller may see.
    Read,
    /// To change what is the caller's organisation's.
    Write,
    /// To read what concerns all organisations.
    Operator,
    /// To change what concerns all organisations.
    Administrator,
}

impl Needs {
    /// Whether something is changed.
    pub const fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Administrator)
    }
}

/// Why no endpoint answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unroutable {
    /// No such path.
    Path,
    /// The path has no such method.
    Method {
        /// The methods it has, as in the header `Allow`.
        allow: String,
    },
    /// The path names no device.
    Device(IdError),
    /// The path has no record id where one should be.
    Record,
    /// The path has a part that is no text.
    Text,
}

/// What a path was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched {
    /// The template of the path, or [`UNMATCHED`]: the only form in which paths appear in metrics.
    pub template: &'static str,
    /// What is demanded of the caller. Where there is no endpoint, credentials that are good for anything.
    pub needs: Needs,
    /// The endpoint.
    pub endpoint: Result<Endpoint, Unroutable>,
}

/// A method of a path.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The path, with the names of its variable parts in braces.
    pub template: &'static str,
    /// The method.
    pub method: &'static Method,
    /// What is demanded of the caller.
    pub needs: Needs,
    endpoint: Make,
}

/// The template of all paths that do not exist.
pub const UNMATCHED: &str = "unmatched";

/// Every method of every path. Those of one path stand together, in the order in which `Allow` names them.
pub const ROWS: &[Row] = &[
    get("/health", Needs::Nothing, |_| Ok(Endpoint::Health)),
    get("/readyz", Needs::Nothing, |_| Ok(Endpoint::Ready)),
    get(METRICS, Needs::Operator, |_| Ok(Endpoint::Metrics)),
    get("/gateway", Needs::Operator, |_| Ok(Endpoint::Gateway)),
    get("/apiKey", Needs::Operator, |_| Ok(Endpoint::ApiKeys)),
    post("/apiKey", Needs::Administrator, |_| Ok(Endpoint::CreateApiKey)),
    delete("/apiKey/id/{id}", Needs::Administrator, |path| path.record().map(Endpoint::DeleteApiKey)),
    get("/openapi.json", Needs::Nothing, |_| Ok(Endpoint::Description)),
    get("/docs", Needs::Nothing, |_| Ok(Endpoint::Page)),
    get("/docs/page.js", Needs::Nothing, |_| Ok(Endpoint::PageScript)),
    get("/docs/page.css", Needs::Nothing, |_| Ok(Endpoint::PageStyle)),
    get("/organisation", Needs::Read, |_| Ok(Endpoint::Organisations)),
    post("/organisation", Needs::Administrator, |_| Ok(Endpoint::CreateOrganisation)),
    get("/organisation/id/{id}", Needs::Read, |path| path.record().map(Endpoint::Organisation)),
    delete("/organisation/id/{id}", Needs::Administrator, |path| path.record().map(Endpoint::DeleteOrganisation)),
    get("/organisation/name/{name}", Needs::Read, |path| path.text("name").map(Endpoint::OrganisationNamed)),
    get("/board", Needs::Read, |_| Ok(Endpoint::Boards)),
    post("/board", Needs::Write, |_| Ok(Endpoint::CreateBoard)),
    get("/board/id/{id}", Needs::Read, |path| path.record().map(Endpoint::Board)),
    delete("/board/id/{id}", Needs::Write, |path| path.record().map(Endpoint::DeleteBoard)),
    get("/board/id/{id}/devices", Needs::Read, |path| path.record().map(Endpoint::DevicesOfBoard)),
    get("/network", Needs::Read, |_| Ok(Endpoint::Networks)),
    post("/network", Needs::Write, |_| Ok(Endpoint::CreateNetwork)),
    get("/network/id/{id}", Needs::Read, |path| path.record().map(Endpoint::Network)),
    delete("/network/id/{id}", Needs::Write, |path| path.record().map(Endpoint::DeleteNetwork)),
    get("/device", Needs::Read, |_| Ok(Endpoint::Devices)),
    post("/device", Needs::Write, |_| Ok(Endpoint::CreateDevice)),
    post("/device/batch", Needs::Write, |_| Ok(Endpoint::CreateDevices)),
    post("/device/import", Needs::Write, |_| Ok(Endpoint::ImportDevices)),
    get("/device/export", Needs::Read, |_| Ok(Endpoint::ExportDevices)),
    get("/device/unregistered", Needs::Operator, |_| Ok(Endpoint::UnregisteredDevices)),
    get("/device-and-state", Needs::Read, |_| Ok(Endpoint::DevicesAndStates)),
    get("/device/id/{id}", Needs::Read, |path| path.record().map(Endpoint::Device)),
    put("/device/id/{id}", Needs::Write, |path| path.record().map(Endpoint::UpdateDevice)),
    delete("/device/id/{id}", Needs::Write, |path| path.record().map(Endpoint::DeleteDevice)),
    get("/device/id/{id}/state", Needs::Read, |path| path.record().map(Endpoint::StateOfRecord)),
    put("/device/id/{id}/state", Needs::Write, |path| path.record().map(Endpoint::SetState)),
    get("/device/deviceId/{deviceId}", Needs::Read, |path| path.device().map(Endpoint::DeviceWithId)),
    get("/device/deviceId/{deviceId}/key", Needs::Read, |path| path.device().map(Endpoint::DeviceKey)),
    put("/device/deviceId/{deviceId}/key", Needs::Write, |path| path.device().map(Endpoint::SetDeviceKey)),
    post("/device/deviceId/{deviceId}/key/confirm", Needs::Write, |path| path.device().map(Endpoint::ConfirmDeviceKey)),
    post("/device/deviceId/{deviceId}/downlink", Needs::Write, |path| path.device().map(Endpoint::SendDownlink)),
    get("/device/deviceId/{deviceId}/state", Needs::Read, |path| path.device().map(Endpoint::State)),
    get(LAST_ROUTE, Needs::Read, |path| path.device().map(Endpoint::LastRoute)),
    get("/device/deviceId/{deviceId}/explain", Needs::Read, |path| path.device().map(Endpoint::Explain)),
    get("/device/deviceId/{deviceId}/waitForPacket", Needs::Read, |path| path.device().map(Endpoint::WaitForPacket)),
    get("/device/soc/{soc}/mcuId/{mcuId}", Needs::Read, |path| {
        let hardware = Hardware { soc: path.text("soc")?, mcu_id: path.text("mcuId")? };
        Ok(Endpoint::DeviceWithHardware(Box::new(hardware)))
    }),
    post("/device/lastRoute", Needs::Read, |_| Ok(Endpoint::LastRoutes)),
    post("/device/waitForPacket", Needs::Read, |_| Ok(Endpoint::WaitForPackets)),
    get("/rpc", Needs::Read, |_| Ok(Endpoint::Rpcs)),
    post("/rpc", Needs::Write, |_| Ok(Endpoint::SendRpc)),
    get("/rpc/{id}", Needs::Read, |path| path.record().map(Endpoint::Rpc)),
    delete("/rpc/{id}", Needs::Write, |path| path.record().map(Endpoint::WithdrawRpc)),
    get("/rpc/{id}/data", Needs::Read, |path| path.record().map(Endpoint::RpcData)),
    get("/downlink/{id}", Needs::Read, |path| path.record().map(Endpoint::Downlink)),
    delete("/downlink/{id}", Needs::Write, |path| path.record().map(Endpoint::WithdrawDownlink)),
    get("/key/publicKey", Needs::Read, |_| Ok(Endpoint::PublicKey)),
    post("/key/sharedSecret", Needs::Administrator, |_| Ok(Endpoint::SharedSecret)),
    post("/key/sharedSecret/device", Needs::Write, |_| Ok(Endpoint::DeviceSharedSecret)),
    post("/key/derived/device", Needs::Write, |_| Ok(Endpoint::DerivedKey)),
];

const METRICS: &str = "/metrics";
/// What is asked for most.
pub(super) const LAST_ROUTE: &str = "/device/deviceId/{deviceId}/lastRoute";

type Make = fn(&Named) -> Result<Endpoint, Unroutable>;

const fn get(template: &'static str, needs: Needs, endpoint: Make) -> Row {
    Row { template, method: &Method::GET, needs, endpoint }
}

const fn post(template: &'static str, needs: Needs, endpoint: Make) -> Row {
    Row { template, method: &Method::POST, needs, endpoint }
}

const fn put(template: &'static str, needs: Needs, endpoint: Make) -> Row {
    Row { template, method: &Method::PUT, needs, endpoint }
}

const fn delete(template: &'static str, needs: Needs, endpoint: Make) -> Row {
    Row { template, method: &Method::DELETE, needs, endpoint }
}

/// The paths and their methods.
#[derive(Clone, Debug)]
pub struct Router {
    paths: matchit::Router<&'static [Row]>,
    has_last_route: bool,
}

impl Router {
    /// Every path of the API.
    pub fn new() -> Self {
        Self::of(|_| true)
    }

    /// `GET /metrics` and nothing else.
    pub fn metrics_only() -> Self {
        Self::of(|template| template == METRICS)
    }

    #[allow(clippy::expect_used, reason = "the rows are constants, and every test builds a router of them")]
    fn of(keep: impl Fn(&str) -> bool) -> Self {
        let mut paths = matchit::Router::new();
        for rows in ROWS.chunk_by(|row, next| row.template == next.template) {
            let template = rows[0].template;
            if keep(template) {
                paths.insert(template, rows).expect("distinct templates, the rows of each together");
            }
        }
        Self { paths, has_last_route: keep(LAST_ROUTE) }
    }

    /// Finds the endpoint of a request. `HEAD` is answered wherever `GET` is.
    pub fn resolve(&self, method: &Method, path: &str) -> Matched {
        match last_route(path).filter(|_| self.has_last_route && *method == Method::GET) {
            Some(id) => Matched { template: LAST_ROUTE, needs: Needs::Read, endpoint: Ok(Endpoint::LastRoute(id)) },
            None => self.search(method, path),
        }
    }

    fn search(&self, method: &Method, path: &str) -> Matched {
        let Ok(found) = self.paths.at(path) else {
            return Matched { template: UNMATCHED, needs: Needs::Read, endpoint: Err(Unroutable::Path) };
        };
        let rows = *found.value;
        let template = rows[0].template;
        match rows.iter().find(|row| row.accepts(method)) {
            Some(row) => Matched { template, needs: row.needs, endpoint: (row.endpoint)(&Named(found.params)) },
            None => Matched {
                template,
                needs: rows[0].needs.min(Needs::Read),
                endpoint: Err(Unroutable::Method { allow: allow(rows) }),
            },
        }
    }
}

#[cfg(test)]
impl Router {
    /// One whose path `/panic` no request gets past.
    pub(super) fn that_panics() -> Self {
        const ROW: &[Row] = &[get("/panic", Needs::Nothing, |_| panic!("as intended"))];
        let mut router = Self::new();
        router.paths.insert(ROW[0].template, ROW).unwrap();
        router
    }
}

impl Default for Router {
    fn default() -> Self {
        Self::new()
    }
}

impl Row {
    fn accepts(&self, method: &Method) -> bool {
        method == self.method || (method == Method::HEAD && self.method == Method::GET)
    }
}

/// The device whose last route has this path, in which mostly nothing is encoded.
fn last_route(path: &str) -> Option<DeviceId> {
    path.strip_prefix("/device/deviceId/")?.strip_suffix("/lastRoute")?.parse().ok()
}

fn allow(rows: &[Row]) -> String {
    let names = rows.iter().map(|row| if row.method == Method::GET { "GET, HEAD" } else { row.method.as_str() });
    names.collect::<Vec<_>>().join(", ")
}

/// The variable parts of a path.
struct Named<'k, 'v>(matchit::Params<'k, 'v>);

impl Named<'_, '_> {
    fn device(&self) -> Result<DeviceId, Unroutable> {
        let text = self.decoded("deviceId").map_err(|_| Unroutable::Device(IdError::Device))?;
        text.parse().map_err(Unroutable::Device)
    }

    fn record(&self) -> Result<Uuid, Unroutable> {
        record_id(&self.decoded("id").map_err(|_| Unroutable::Record)?).ok_or(Unroutable::Record)
    }

    fn text(&self, name: &str) -> Result<Box<str>, Unroutable> {
        self.decoded(name).map(Into::into)
    }

    fn decoded(&self, name: &str) -> Result<Cow<'_, str>, Unroutable> {
        let encoded = self.0.get(name).unwrap_or_default();
        percent_decode_str(encoded).decode_utf8().map_err(|_| Unroutable::Text)
    }
}

/// A record id in its one text form: groups of hex digits, in whatever case, and hyphens.
pub(super) fn record_id(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok()?;
    (text.len() == uuid::fmt::Hyphenated::LENGTH).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId(0xd291_d4d6_6bf0_a955);
    const RECORD: Uuid = Uuid::from_u128(0x0198_c0de_0000_7000_8000_0000_0000_002a);

    fn resolve(method: &str, path: &str) -> Result<Endpoint, Unroutable> {
        Router::new().resolve(&method.parse().unwrap(), path).endpoint
    }

    #[test]
    fn every_path_has_its_endpoint() {
        let hardware =
            Endpoint::DeviceWithHardware(Box::new(Hardware { soc: "nRF9151".into(), mcu_id: "00aaBB".into() }));
        let mut named = std::collections::BTreeSet::new();
        for (method, path, endpoint) in [
            ("GET", "/health", Endpoint::Health),
            ("HEAD", "/health", Endpoint::Health),
            ("GET", "/readyz", Endpoint::Ready),
            ("GET", "/metrics", Endpoint::Metrics),
            ("GET", "/gateway", Endpoint::Gateway),
            ("POST", "/apiKey", Endpoint::CreateApiKey),
            ("GET", "/apiKey", Endpoint::ApiKeys),
            ("DELETE", "/apiKey/id/0198c0de-0000-7000-8000-00000000002a", Endpoint::DeleteApiKey(RECORD)),
            ("GET", "/openapi.json", Endpoint::Description),
            ("GET", "/docs", Endpoint::Page),
            ("GET", "/docs/page.js", Endpoint::PageScript),
            ("GET", "/docs/page.css", Endpoint::PageStyle),
            ("GET", "/organisation", Endpoint::Organisations),
            ("POST", "/organisation", Endpoint::CreateOrganisation),
            ("GET", "/organisation/id/0198c0de-0000-7000-8000-00000000002a", Endpoint::Organisation(RECORD)),
            ("DELETE", "/organisation/id/0198C0DE-0000-7000-8000-00000000002A", Endpoint::DeleteOrganisation(RECORD)),
            ("GET", "/organisation/name/Acme", Endpoint::OrganisationNamed("Acme".into())),
            ("GET", "/board", Endpoint::Boards),
            ("POST", "/board", Endpoint::CreateBoard),
            ("GET", "/board/id/0198c0de-0000-7000-8000-00000000002a", Endpoint::Board(RECORD)),
            ("DELETE", "/board/id/0198c0de-0000-7000-8000-00000000002a", Endpoint::DeleteBoard(RECORD)),
            ("GET", "/board/id/0198c0de-0000-7000-8000-00000000002a/devices", Endpoint::DevicesOfBoard(RECORD)),
            ("GET", "/network", Endpoint::Networks),
            ("POST", "/network", Endpoint::CreateNetwork),
            ("GET", "/network/id/0198c0de-0000-7000-8000-00000000002a", Endpoint::Network(RECORD)),
            ("DELETE", "/network/id/0198c0de-0000-7000-8000-00000000002a", Endpoint::DeleteNetwork(RECORD)),
            ("GET", "/device", Endpoint::Devices),
            ("POST", "/device", Endpoint::CreateDevice),
            ("POST", "/device/batch", Endpoint::CreateDevices),
            ("POST", "/device/import", Endpoint::ImportDevices),
            ("GET", "/device/export", Endpoint::ExportDevices),
            ("GET", "/device/unregistered", Endpoint::UnregisteredDevices),
            ("GET", "/device-and-state", Endpoint::DevicesAndStates),
            ("GET", "/device/id/0198c0de-0000-7000-8000-00000000002a", Endpoint::Device(RECORD)),
            ("PUT", "/device/id/0198c0de-0000-7000-8000-00000000002a", Endpoint::UpdateDevice(RECORD)),
            ("DELETE", "/device/id/0198c0de-0000-7000-8000-00000000002a", Endpoint::DeleteDevice(RECORD)),
            ("GET", "/device/id/0198c0de-0000-7000-8000-00000000002a/state", Endpoint::StateOfRecord(RECORD)),
            ("PUT", "/device/id/0198c0de-0000-7000-8000-00000000002a/state", Endpoint::SetState(RECORD)),
            ("GET", "/device/deviceId/d291d4d66bf0a955", Endpoint::DeviceWithId(DEVICE)),
            ("PUT", "/device/deviceId/d291d4d66bf0a955/key", Endpoint::SetDeviceKey(DEVICE)),
            ("GET", "/device/deviceId/D291D4D66BF0A955/state", Endpoint::State(DEVICE)),
            ("GET", "/device/deviceId/d291d4d66bf0a955/lastRoute", Endpoint::LastRoute(DEVICE)),
            ("GET", "/device/deviceId/d291d4d66bf0a955/explain", Endpoint::Explain(DEVICE)),
            ("HEAD", "/device/deviceId/d291d4d66bf0a955/lastRoute", Endpoint::LastRoute(DEVICE)),
            ("GET", "/device/deviceId/d291d4d66bf0a955/waitForPacket", Endpoint::WaitForPacket(DEVICE)),
            ("GET", "/device/soc/nRF9151/mcuId/00aaBB", hardware),
            ("POST", "/device/lastRoute", Endpoint::LastRoutes),
            ("POST", "/device/waitForPacket", Endpoint::WaitForPackets),
            ("GET", "/device/deviceId/d291d4d66bf0a955/key", Endpoint::DeviceKey(DEVICE)),
            ("POST", "/device/deviceId/d291d4d66bf0a955/key/confirm", Endpoint::ConfirmDeviceKey(DEVICE)),
            ("POST", "/device/deviceId/d291d4d66bf0a955/downlink", Endpoint::SendDownlink(DEVICE)),
            ("GET", "/rpc", Endpoint::Rpcs),
            ("POST", "/rpc", Endpoint::SendRpc),
            ("GET", "/rpc/0198c0de-0000-7000-8000-00000000002a", Endpoint::Rpc(RECORD)),
            ("DELETE", "/rpc/0198c0de-0000-7000-8000-00000000002a", Endpoint::WithdrawRpc(RECORD)),
            ("GET", "/rpc/0198c0de-0000-7000-8000-00000000002a/data", Endpoint::RpcData(RECORD)),
            ("GET", "/downlink/0198c0de-0000-7000-8000-00000000002a", Endpoint::Downlink(RECORD)),
            ("DELETE", "/downlink/0198c0de-0000-7000-8000-00000000002a", Endpoint::WithdrawDownlink(RECORD)),
            ("GET", "/key/publicKey", Endpoint::PublicKey),
            ("POST", "/key/sharedSecret", Endpoint::SharedSecret),
            ("POST", "/key/sharedSecret/device", Endpoint::DeviceSharedSecret),
            ("POST", "/key/derived/device", Endpoint::DerivedKey),
        ] {
            let matched = Router::new().resolve(&method.parse().unwrap(), path);
            assert_eq!(matched.endpoint, Ok(endpoint), "{method} {path}");
            named.insert((matched.template, method));
        }
        for row in ROWS {
            assert!(named.contains(&(row.template, row.method.as_str())), "{row:?} is not in this table");
        }
    }

    #[test]
    fn a_path_is_exact() {
        for path in [
            "",
            "/",
            "*",
            "/Health",
            "/health/",
            "//health",
            "/organisation/",
            "/organisation/id",
            "/organisation/id/",
            "/organisation/name/",
            "/organisation/name/a/b",
            "/board/id/0198c0de-0000-7000-8000-00000000002a/devices/",
            "/device/",
            "/devices",
            "/device/soc//mcuId/00",
            "/device/soc/nRF9151/mcuId/",
            "/device/soc/nRF9151/mcuid/00",
            "/device/deviceid/d291d4d66bf0a955",
            "/device/deviceId//lastRoute",
            "/device/deviceId/d291d4d66bf0a955/lastRoute/",
            "/device/lastRoute/",
            "/device/deviceId/d291d4d66bf0a955/x",
            "/device/deviceId/d291d4d66bf0a955/application/state",
            "/device/deviceId/d291d4d66bf0a955/loggerStates",
            "/device/deviceId/d291/d4d66bf0a955/state",
            "/metrics/x",
            "/rpc/",
            "/rpc/0198c0de-0000-7000-8000-00000000002a/x",
            "/downlink",
            "/key",
        ] {
            assert_eq!(resolve("GET", path), Err(Unroutable::Path), "{path}");
        }
    }

    #[test]
    fn what_is_asked_for_most_is_what_a_search_would_find() {
        let router = Router::new();
        for id in [
            "d291d4d66bf0a955",
            "D291D4D66BF0A955",
            "0000000000000000",
            "d291d4d66bf0a95",
            "d291d4d66bf0a9555",
            "",
            "/",
        ] {
            for path in [format!("/device/deviceId/{id}/lastRoute"), format!("/device/deviceId/{id}/lastRoute/")] {
                for method in [Method::GET, Method::HEAD, Method::POST] {
                    assert_eq!(router.resolve(&method, &path), router.search(&method, &path), "{method} {path}");
                }
            }
        }
    }

    #[test]
    fn a_wrong_method_names_the_right_ones() {
        for (method, path, allow) in [
            ("POST", "/health", "GET, HEAD"),
            ("OPTIONS", "/metrics", "GET, HEAD"),
            ("GET", "/device/lastRoute", "POST"),
            ("HEAD", "/device/lastRoute", "POST"),
            ("GET", "/device/waitForPacket", "POST"),
            ("GET", "/device/batch", "POST"),
            ("DELETE", "/device/deviceId/d291d4d66bf0a955/state", "GET, HEAD"),
            ("PUT", "/device/deviceId/no-device/lastRoute", "GET, HEAD"),
            ("POST", "/device/deviceId/d291d4d66bf0a955/key", "GET, HEAD, PUT"),
            ("PUT", "/rpc/no-record", "GET, HEAD, DELETE"),
            ("DELETE", "/device", "GET, HEAD, POST"),
            ("PATCH", "/device/id/no-record", "GET, HEAD, PUT, DELETE"),
            ("POST", "/device/id/no-record/state", "GET, HEAD, PUT"),
            ("PUT", "/network/id/no-record", "GET, HEAD, DELETE"),
            ("get", "/health", "GET, HEAD"),
        ] {
            assert_eq!(resolve(method, path), Err(Unroutable::Method { allow: allow.to_owned() }), "{method} {path}");
        }
    }

    #[test]
    fn a_part_is_decoded_after_the_path_is_split() {
        let encoded = "/device/deviceId/%64291d4d66bf0a95%35/state";
        assert_eq!(resolve("GET", encoded), Ok(Endpoint::State(DEVICE)));
        for bad in ["d291", "+291d4d66bf0a955", "d291d4d6%2F6bf0a95", "%ff", "%zz", "d291d4d66bf0a955%00", "%"] {
            let path = format!("/device/deviceId/{bad}/state");
            assert_eq!(resolve("GET", &path), Err(Unroutable::Device(IdError::Device)), "{path}");
        }
    }

    #[test]
    fn a_text_in_a_path_may_have_any_character_as_long_as_it_is_encoded() {
        for (encoded, name) in [
            ("a%2Fb", "a/b"),
            ("%2F", "/"),
            ("%2E%2E", ".."),
            ("a+b%20c", "a+b c"),
            ("%25", "%"),
            ("%zz%", "%zz%"),
            ("Gro%C3%9F", "Groß"),
            ("%3F%23", "?#"),
        ] {
            let path = format!("/organisation/name/{encoded}");
            assert_eq!(resolve("GET", &path), Ok(Endpoint::OrganisationNamed(name.into())), "{path}");
        }
        let hardware = Endpoint::DeviceWithHardware(Box::new(Hardware { soc: "a/b".into(), mcu_id: "x".into() }));
        assert_eq!(resolve("GET", "/device/soc/a%2fb/mcuId/%78"), Ok(hardware));
        assert_eq!(resolve("GET", "/organisation/name/%ff"), Err(Unroutable::Text));
        assert_eq!(resolve("GET", "/device/soc/x/mcuId/%c3"), Err(Unroutable::Text));
    }

    #[test]
    fn a_record_id_has_one_form() {
        for bad in [
            "1",
            "d291d4d66bf0a955",
            "0198c0de00007000800000000000002a",
            "%7B0198c0de-0000-7000-8000-00000000002a%7D",
            "urn:uuid:0198c0de-0000-7000-8000-00000000002a",
            "0198c0de-0000-7000-8000-00000000002g",
            "0198c0de-0000-7000-8000-00000000002a%00",
            "%ff",
        ] {
            assert_eq!(resolve("GET", &format!("/device/id/{bad}")), Err(Unroutable::Record), "{bad}");
        }
    }

    #[test]
    fn templates_name_no_device_and_only_the_probes_and_the_description_are_open() {
        let router = Router::new();
        let matched = |path| router.resolve(&Method::GET, path);
        let state = matched("/device/deviceId/d291d4d66bf0a955/state");
        assert_eq!(state.template, "/device/deviceId/{deviceId}/state");
        assert_eq!((matched("/d291d4d66bf0a955").template, matched("/x").needs), (UNMATCHED, Needs::Read));
        let open: Vec<_> = ROWS.iter().filter(|row| row.needs == Needs::Nothing).map(|row| row.template).collect();
        let described = ["/openapi.json", "/docs", "/docs/page.js", "/docs/page.css"];
        assert_eq!(open, [&["/health", "/readyz"], &described[..]].concat());
        assert_eq!(router.resolve(&Method::PUT, "/health").needs, Needs::Nothing);
        assert_eq!(router.resolve(&Method::PUT, "/metrics").needs, Needs::Read);
    }

    #[test]
    fn what_changes_something_needs_more_than_to_read() {
        let reads = ["/device/lastRoute", "/device/waitForPacket"];
        for row in ROWS {
            let changes = row.method != Method::GET && !reads.contains(&row.template);
            assert_eq!(changes, row.needs.changes(), "{row:?}");
        }
    }

    #[test]
    fn the_metrics_listener_knows_nothing_else() {
        let router = Router::metrics_only();
        assert_eq!(router.resolve(&Method::GET, "/metrics").endpoint, Ok(Endpoint::Metrics));
        for row in ROWS.iter().filter(|row| row.template != METRICS) {
            assert_eq!(router.resolve(row.method, row.template).endpoint, Err(Unroutable::Path));
        }
    }
}

//! Which endpoint answers a request: a pure function of method and path.
//!
//! The path is split before its parts are percent-decoded, so an encoded slash belongs to a part. Paths are exact: one more
//! or one less slash is another path.

use hyper::Method;
use percent_encoding::percent_decode_str;

use crate::id::{DeviceId, IdError};

/// An endpoint, with what its path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `GET /health`: the process answers.
    Health,
    /// `GET /readyz`: it also takes requests.
    Ready,
    /// `GET /metrics`.
    Metrics,
    /// `GET /gateway`: how the gateway is.
    Gateway,
    /// `GET /device/deviceId/{deviceId}/lastRoute`.
    LastRoute(DeviceId),
    /// `POST /device/lastRoute`.
    LastRoutes,
    /// `GET /device/deviceId/{deviceId}/state`.
    State(DeviceId),
    /// `GET /device/deviceId/{deviceId}/waitForPacket`.
    WaitForPacket(DeviceId),
    /// `POST /device/waitForPacket`.
    WaitForPackets,
}

/// Why no endpoint answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unroutable {
    /// No such path.
    Path,
    /// The path has no such method.
    Method {
        /// The methods it has, as in the header `Allow`.
        allow: &'static str,
    },
    /// The path names no device.
    Device(IdError),
}

/// What a path was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// The template of the path, or [`UNMATCHED`]: the only form in which paths appear in metrics.
    pub template: &'static str,
    /// Whether it is served without credentials.
    pub open: bool,
    /// The endpoint.
    pub endpoint: Result<Endpoint, Unroutable>,
}

/// The template of all paths that do not exist.
pub const UNMATCHED: &str = "unmatched";

/// The paths and their methods.
#[derive(Clone, Debug)]
pub struct Router(matchit::Router<Row>);

#[derive(Clone, Copy, Debug)]
struct Row {
    template: &'static str,
    method: &'static Method,
    endpoint: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain(Endpoint),
    OfDevice(fn(DeviceId) -> Endpoint),
}

const ROWS: [Row; 9] = [
    Row { template: "/health", method: &Method::GET, endpoint: Kind::Plain(Endpoint::Health) },
    Row { template: "/readyz", method: &Method::GET, endpoint: Kind::Plain(Endpoint::Ready) },
    Row { template: METRICS, method: &Method::GET, endpoint: Kind::Plain(Endpoint::Metrics) },
    Row { template: "/gateway", method: &Method::GET, endpoint: Kind::Plain(Endpoint::Gateway) },
    Row { template: "/device/lastRoute", method: &Method::POST, endpoint: Kind::Plain(Endpoint::LastRoutes) },
    Row { template: "/device/waitForPacket", method: &Method::POST, endpoint: Kind::Plain(Endpoint::WaitForPackets) },
    Row {
        template: "/device/deviceId/{deviceId}/lastRoute",
        method: &Method::GET,
        endpoint: Kind::OfDevice(Endpoint::LastRoute),
    },
    Row {
        template: "/device/deviceId/{deviceId}/state",
        method: &Method::GET,
        endpoint: Kind::OfDevice(Endpoint::State),
    },
    Row {
        template: "/device/deviceId/{deviceId}/waitForPacket",
        method: &Method::GET,
        endpoint: Kind::OfDevice(Endpoint::WaitForPacket),
    },
];

const METRICS: &str = "/metrics";

impl Router {
    /// Every path of the API.
    pub fn new() -> Self {
        Self::of(|_| true)
    }

    /// `GET /metrics` and nothing else, without credentials.
    pub fn metrics_only() -> Self {
        Self::of(|row| row.template == METRICS)
    }

    #[allow(clippy::expect_used, reason = "the rows are constants, and every test builds a router of them")]
    fn of(keep: impl Fn(&Row) -> bool) -> Self {
        let mut router = matchit::Router::new();
        for row in ROWS.into_iter().filter(keep) {
            router.insert(row.template, row).expect("distinct templates");
        }
        Self(router)
    }

    /// Finds the endpoint of a request. `HEAD` is answered wherever `GET` is.
    pub fn resolve(&self, method: &Method, path: &str) -> Matched {
        let Ok(found) = self.0.at(path) else {
            return Matched { template: UNMATCHED, open: false, endpoint: Err(Unroutable::Path) };
        };
        let row = found.value;
        let open = matches!(row.endpoint, Kind::Plain(Endpoint::Health | Endpoint::Ready));
        let endpoint = if row.accepts(method) {
            row.endpoint(found.params.get("deviceId"))
        } else {
            Err(Unroutable::Method { allow: row.allow() })
        };
        Matched { template: row.template, open, endpoint }
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

    fn allow(&self) -> &'static str {
        if self.method == Method::GET { "GET, HEAD" } else { "POST" }
    }

    fn endpoint(&self, device: Option<&str>) -> Result<Endpoint, Unroutable> {
        let of_device = match self.endpoint {
            Kind::Plain(endpoint) => return Ok(endpoint),
            Kind::OfDevice(of_device) => of_device,
        };
        let text = percent_decode_str(device.unwrap_or_default()).decode_utf8();
        let id = text.map_err(|_| IdError::Device).and_then(|text| text.parse());
        id.map(of_device).map_err(Unroutable::Device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId(0xd291_d4d6_6bf0_a955);

    fn resolve(method: &str, path: &str) -> Result<Endpoint, Unroutable> {
        Router::new().resolve(&method.parse().unwrap(), path).endpoint
    }

    #[test]
    fn every_path_has_its_endpoint() {
        for (method, path, endpoint) in [
            ("GET", "/health", Endpoint::Health),
            ("HEAD", "/health", Endpoint::Health),
            ("GET", "/readyz", Endpoint::Ready),
            ("GET", "/metrics", Endpoint::Metrics),
            ("GET", "/gateway", Endpoint::Gateway),
            ("POST", "/device/lastRoute", Endpoint::LastRoutes),
            ("POST", "/device/waitForPacket", Endpoint::WaitForPackets),
            ("GET", "/device/deviceId/d291d4d66bf0a955/lastRoute", Endpoint::LastRoute(DEVICE)),
            ("HEAD", "/device/deviceId/d291d4d66bf0a955/lastRoute", Endpoint::LastRoute(DEVICE)),
            ("GET", "/device/deviceId/D291D4D66BF0A955/state", Endpoint::State(DEVICE)),
            ("GET", "/device/deviceId/d291d4d66bf0a955/waitForPacket", Endpoint::WaitForPacket(DEVICE)),
        ] {
            assert_eq!(resolve(method, path), Ok(endpoint), "{method} {path}");
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
            "/device",
            "/device/deviceId/d291d4d66bf0a955",
            "/device/deviceId//lastRoute",
            "/device/deviceId/d291d4d66bf0a955/lastRoute/",
            "/device/lastRoute/",
            "/device/deviceId/d291d4d66bf0a955/x",
            "/device/deviceId/d291/d4d66bf0a955/state",
            "/metrics/x",
        ] {
            assert_eq!(resolve("GET", path), Err(Unroutable::Path), "{path}");
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
            ("DELETE", "/device/deviceId/d291d4d66bf0a955/state", "GET, HEAD"),
            ("PUT", "/device/deviceId/no-device/lastRoute", "GET, HEAD"),
            ("get", "/health", "GET, HEAD"),
        ] {
            assert_eq!(resolve(method, path), Err(Unroutable::Method { allow }), "{method} {path}");
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
    fn templates_name_no_device_and_only_the_two_probes_are_open() {
        let router = Router::new();
        let matched = |path| router.resolve(&Method::GET, path);
        let state = matched("/device/deviceId/d291d4d66bf0a955/state");
        assert_eq!(state.template, "/device/deviceId/{deviceId}/state");
        assert_eq!(matched("/d291d4d66bf0a955").template, UNMATCHED);
        let open: Vec<_> = ROWS.iter().filter(|row| matched(row.template).open).map(|row| row.template).collect();
        assert_eq!(open, ["/health", "/readyz"]);
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

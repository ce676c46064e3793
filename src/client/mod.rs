//! A small client of a gateway's API, for the tools that watch or fill one: requests with a time-out and a bound on the answer,
//! and errors that say what to do. What the answers mean for a tool belongs there.

mod error;
mod time;

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, LOCATION};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::{Cursor, DeviceId};
use crate::quote::{one_line, reason};
use crate::status::GatewayStatus;
pub use error::ClientError;
use time::{GatewayTime, date};

/// Where a gateway on this machine serves its API unless it is told otherwise.
pub const DEFAULT_ADDRESS: &str = "http://127.0.0.1:8080";

/// The time one request may take, from the look-up of the name to the last byte of the answer, unless more is granted.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest answer that is read, unless longer ones are expected: a status with thousands of route moves has less.
pub const MAX_ANSWER: usize = 1 << 20;

/// Longer texts of a gateway than this, in characters, are cut in errors: they are shown in one line.
const MAX_QUOTE: usize = 200;

/// A client of one gateway. Keeps its connection open from one request to the next. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    address: String,
    /// The header of the API key; marked as sensitive, so that it prints as such.
    key: Option<HeaderValue>,
    timeout: Duration,
    max_answer: usize,
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    time: Arc<GatewayTime>,
}

/// The last route of a device, as `GET /device/deviceId/{deviceId}/lastRoute` tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct LastRoute {
    /// The body.
    pub route: Value,
    /// The position of the device's last packet.
    pub cursor: Option<Cursor>,
    /// What proved the route: `network` or `device`.
    pub trust: Option<String>,
}

impl Client {
    /// A client of the gateway whose API is at `address`: `http://`, a name or IP address, a port unless it is 80, and a
    /// path if a proxy serves the API below one. Shows the API key `key`, if the gateway wants one. Opens no connection.
    ///
    /// # Errors
    /// An address that cannot be asked; a key that no header can hold.
    pub fn new(address: &str, key: Option<&str>) -> Result<Self, ClientError> {
        let address = checked_address(address)?;
        let key = key.map(authorization).transpose()?;
        let http = legacy::Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build_http();
        Ok(Self { address, key, timeout: TIMEOUT, max_answer: MAX_ANSWER, http, time: Arc::default() })
    }

    /// The same client, for requests that may take up to `timeout` and whose answers may have up to `max_answer` bytes.
    pub fn with_limits(self, timeout: Duration, max_answer: usize) -> Self {
        Self { timeout, max_answer, ..self }
    }

    /// The same client, for requests that may take up to `timeout`.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The address of the API, without a slash at its end.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the gateway's clock has passed by now, as far as its answers have told: it is at most about a second further.
    /// Before any answer, or if they do not tell, the time of this machine.
    pub fn now(&self) -> Timestamp {
        self.time.now()
    }

    /// Takes note that the gateway's clock has passed this time.
    pub fn learn_time(&self, passed: Timestamp) {
        self.time.learn(passed);
    }

    /// How the gateway is: `GET /gateway`.
    ///
    /// # Errors
    /// Every [`ClientError`] of a request.
    pub async fn status(&self) -> Result<GatewayStatus, ClientError> {
        let path = "/gateway";
        let missing = || ClientError::Missing { address: self.address.clone(), path: path.to_owned() };
        self.get_json(path).await?.ok_or_else(missing)
    }

    /// Where the device was heard last; `None` if it was never heard.
    ///
    /// # Errors
    /// Every [`ClientError`] of a request.
    pub async fn last_route(&self, id: DeviceId) -> Result<Option<LastRoute>, ClientError> {
        let answer = self.get(&format!("/device/deviceId/{id}/lastRoute")).await?;
        let Some((headers, route)) = answer else { return Ok(None) };
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let cursor = text("lastroute-cursor").and_then(|text| text.parse().ok());
        Ok(Some(LastRoute { route, cursor, trust: text("lastroute-trust").map(str::to_owned) }))
    }

    /// The state of the device; `None` if it is not registered.
    ///
    /// # Errors
    /// Every [`ClientError`] of a request.
    pub async fn state(&self, id: DeviceId) -> Result<Option<Value>, ClientError> {
        self.get_json(&format!("/device/deviceId/{id}/state")).await
    }

    /// The record id of an organisation, by that or its name; `None` if there is none, or the key does not see it.
    ///
    /// # Errors
    /// Every [`ClientError`] of a request.
    pub async fn organisation(&self, named: &str) -> Result<Option<Uuid>, ClientError> {
        let path = match Uuid::try_parse(named) {
            Ok(id) => format!("/organisation/id/{id}"),
            Err(_) => format!("/organisation/name/{}", utf8_percent_encode(named, NON_ALPHANUMERIC)),
        };
        let found: Option<Identified> = self.get_json(&path).await?;
        Ok(found.map(|found| found.id))
    }

    /// The JSON at `path`, which begins with a slash and is encoded; `None` if there is nothing (404).
    ///
    /// # Errors
    /// Every [`ClientError`] of a request.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ClientError> {
        Ok(self.get(path).await?.map(|(_, body)| body))
    }

    /// The bytes at `path`, whatever they are; `None` if there is nothing (404).
    ///
    /// # Errors
    /// Every [`ClientError`] of a request.
    pub async fn get_bytes(&self, path: &str) -> Result<Option<Bytes>, ClientError> {
        match self.exchange_in_time(path, Request::default()).await? {
            (StatusCode::OK, _, body) => Ok(Some(body)),
            (StatusCode::NOT_FOUND, ..) => Ok(None),
            (status, headers, body) => Err(self.refusal(path, status, &headers, &body)),
        }
    }

    /// The JSON that answers a `POST` of `body`, which is JSON, to `path`; `None` if there is no such thing (404).
    ///
    /// # Errors
    /// Every [`ClientError`] of a request.
    pub async fn post_json<T: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<Option<T>, ClientError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(self.ask(path, request).await?.map(|(_, body)| body))
    }

    /// Deletes what is at `path`; false if there is nothing (404).
    ///
    /// # Errors
    /// Every [`ClientError`] of a request.
    pub async fn delete(&self, path: &str) -> Result<bool, ClientError> {
        let mut request = Request::default();
        *request.method_mut() = Method::DELETE;
        match self.exchange_in_time(path, request).await? {
            (StatusCode::NO_CONTENT, ..) => Ok(true),
            (StatusCode::NOT_FOUND, ..) => Ok(false),
            (status, headers, body) => Err(self.refusal(path, status, &headers, &body)),
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<(HeaderMap, T)>, ClientError> {
        self.ask(path, Request::default()).await
    }

    /// What answers `request` at `path`, if it is a success or 404.
    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<Option<(HeaderMap, T)>, ClientError> {
        let (status, headers, body) = self.exchange_in_time(path, request).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK | StatusCode::CREATED => match serde_json::from_slice(&body) {
                Ok(value) => Ok(Some((headers, value))),
                Err(error) => Err(ClientError::Malformed {
                    address: self.address.clone(),
                    path: path.to_owned(),
                    reason: quoted(&error.to_string()),
                }),
            },
            _ => Err(self.refusal(path, status, &headers, &body)),
        }
    }

    async fn exchange_in_time(
        &self,
        path: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), ClientError> {
        let late = |_| ClientError::TimedOut { address: self.address.clone(), timeout: self.timeout };
        timeout(self.timeout, self.exchange(path, request)).await.map_err(late)?
    }

    /// One request and its whole answer.
    async fn exchange(
        &self,
        path: &str,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), ClientError> {
        let uri: Uri = format!("{}{path}", self.address).parse().map_err(|_| ClientError::Address {
            address: format!("{}{path}", self.address),
            problem: "its path has signs that must be percent-encoded",
        })?;
        *request.uri_mut() = uri;
        if let Some(key) = &self.key {
            request.headers_mut().insert(AUTHORIZATION, key.clone());
        }
        let response = self.http.request(request).await.map_err(|error| self.failure(&error))?;
        self.whole(path, response).await
    }

    async fn whole(
        &self,
        path: &str,
        response: Response<Incoming>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), ClientError> {
        let (head, body) = response.into_parts();
        if let Some(date) = head.headers.get(DATE).and_then(date) {
            self.learn_time(date);
        }
        match Limited::new(body, self.max_answer).collect().await {
            Ok(body) => Ok((head.status, head.headers, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(ClientError::TooLong { address: self.address.clone(), path: path.to_owned(), max: self.max_answer })
            }
            Err(error) => Err(ClientError::Broken { address: self.address.clone(), reason: innermost(&*error) }),
        }
    }

    fn failure(&self, error: &legacy::Error) -> ClientError {
        let (address, reason) = (self.address.clone(), innermost(error));
        if error.is_connect() {
            ClientError::Unreachable { address, reason }
        } else {
            ClientError::Broken { address, reason }
        }
    }

    /// What an answer says that brings nothing.
    fn refusal(&self, path: &str, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ClientError {
        let (address, path) = (self.address.clone(), path.to_owned());
        let message = match serde_json::from_slice(body) {
            Ok(Explained { message }) => quoted(&message),
            Err(_) => status.canonical_reason().unwrap_or("an unknown status").to_owned(),
        };
        if status == StatusCode::UNAUTHORIZED {
            // What follows in the message is for whoever writes requests.
            let reason = message.split(';').next().unwrap_or_default().to_owned();
            return ClientError::Unauthorized { address, refusal: self.key.as_ref().map(|_| reason) };
        }
        let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
        if let Some(location) = location.filter(|_| status.is_redirection()) {
            return ClientError::Redirect { address, location: quoted(location) };
        }
        ClientError::Status { address, path, status: status.as_u16(), message }
    }
}

/// The part of a record that names it.
#[derive(Deserialize)]
struct Identified {
    id: Uuid,
}

/// The part of an error body that is for people.
#[derive(Deserialize)]
struct Explained {
    message: String,
}

/// The address without a slash at its end, so that paths can follow.
fn checked_address(address: &str) -> Result<String, ClientError> {
    let fault = |problem| ClientError::Address { address: address.to_owned(), problem };
    let example = "write for example http://127.0.0.1:8080";
    let uri: Uri = address.parse().map_err(|_| fault(example))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("https"), _) => Err(fault(
            "TLS is not supported; name the plain side of the proxy, or make a tunnel to it, for example with \
             ssh -L 8080:127.0.0.1:8080, and name its end: http://127.0.0.1:8080",
        )),
        // Does not quote it: it may hold a password.
        (Some("http"), Some(authority)) if authority.as_str().contains('@') => Err(ClientError::Address {
            address: "http://...@...".to_owned(),
            problem: "it holds a user or password; give the API key with --api-key-file",
        }),
        (Some("http"), Some(authority)) if !names_a_host_and_port(authority) => Err(fault(example)),
        (Some("http"), Some(_)) if uri.query().is_none() => Ok(address.trim_end_matches('/').to_owned()),
        (Some("http"), Some(_)) => Err(fault("leave out the question mark and what follows it")),
        _ => Err(fault(example)),
    }
}

/// Whether there is a host, and a port that is one if any is given. Without this a request with its key would go to the
/// usual port instead.
fn names_a_host_and_port(authority: &Authority) -> bool {
    let host = authority.host();
    let has_port = authority.as_str().len() > host.len();
    !host.is_empty() && (!has_port || authority.port().is_some())
}

fn authorization(key: &str) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(&format!("ApiKey {key}")).map_err(|_| ClientError::Key)?;
    value.set_sensitive(true);
    Ok(value)
}

/// What lies at the bottom of an error, which is what the system said if it said something.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let text = match inner.downcast_ref::<io::Error>() {
        Some(error) => reason(error),
        None => inner.to_string(),
    };
    quoted(&text)
}

/// A text from elsewhere as it may be shown: one line of bounded length that cannot steer a terminal.
fn quoted(text: &str) -> String {
    one_line(text).chars().take(MAX_QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;

    use super::*;

    const DEVICE: DeviceId = DeviceId(0xd291_d4d6_6bf0_a955);

    async fn request_head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// A server that answers one request with these bytes and closes; gives the heads of the requests it got.
    async fn server(answers: Vec<String>) -> (SocketAddr, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut heads = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                heads.push(request_head(&mut stream).await);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            heads
        });
        (address, serving)
    }

    fn answer(status: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}")
    }

    /// The error of asking for the status where this is the answer, with `GATEWAY` in place of the address.
    async fn error_of(answer: String, key: Option<&str>) -> String {
        let (address, _) = server(vec![answer]).await;
        let client = Client::new(&format!("http://{address}/"), key).unwrap();
        let error = client.status().await.unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error.replace(&format!("http://{address}"), "GATEWAY")
    }

    const STATUS: &str = r#"{"version":"0.1.0","startedAt":"2026-11-25T16:00:00.000Z","now":"2026-11-25T16:00:02.500Z",
        "datagrams":{"accepted":7},"entries":{},"kernelDrops":0,"routeMoves":1,"acksSent":2,"acksFailed":0,
        "devices":{"total":3,"unregistered":1,
        "heard":{"countedAt":"2026-11-25T16:00:02.000Z","within5m":3,"within1h":3,"within24h":3}},
        "waiters":{"now":4,"woken":5},"connections":6,"latestMoves":[{"deviceId":"d291d4d66bf0a955",
        "at":"2026-11-25T16:00:01.000Z","from":"203.0.113.7:6200","to":"[2001:db8::1]:6201","trust":"device"}]}"#;

    #[tokio::test]
    async fn the_status_is_read_whatever_else_it_may_say_in_time_to_come() {
        let newer = STATUS.replacen('{', r#"{"moon":"full","#, 1);
        let (address, _) = server(vec![answer("200 OK", "", &newer)]).await;
        let status = Client::new(&format!("http://{address}"), None).unwrap().status().await.unwrap();
        assert_eq!((status.datagrams["accepted"], status.devices.total, status.waiters.now), (7, 3, 4));
        assert_eq!((status.latest_moves[0].device_id, status.latest_moves[0].to.port()), (DEVICE, 6201));
    }

    #[tokio::test]
    async fn the_last_route_comes_with_its_cursor_and_trust_and_is_absent_if_never_heard() {
        let headers = "Lastroute-Cursor: 7-12\r\nlastroute-trust: network\r\n";
        let found = answer("200 OK", headers, r#"{"interface":"udp"}"#);
        let none = answer("404 Not Found", "", r#"{"code":404,"message":"never heard"}"#);
        let (address, heads) = server(vec![found, none.clone(), none]).await;
        let client = Client::new(&format!("http://{address}"), None).unwrap();
        let route = client.last_route(DEVICE).await.unwrap().unwrap();
        assert_eq!(route.route["interface"], "udp");
        assert_eq!((route.cursor, route.trust.as_deref()), (Some(Cursor { epoch: 7, n: 12 }), Some("network")));
        assert_eq!((client.last_route(DEVICE).await, client.state(DEVICE).await), (Ok(None), Ok(None)));
        let heads = heads.await.unwrap();
        assert!(heads[0].starts_with("GET /device/deviceId/d291d4d66bf0a955/lastRoute HTTP/1.1\r\n"), "{heads:?}");
        assert!(heads[2].starts_with("GET /device/deviceId/d291d4d66bf0a955/state HTTP/1.1\r\n"), "{heads:?}");
    }

    #[tokio::test]
    async fn the_key_is_sent_and_never_printed_and_a_proxy_may_serve_the_api_below_a_path() {
        let (address, heads) = server(vec![answer("200 OK", "", STATUS)]).await;
        let client = Client::new(&format!("http://{address}/fleet/"), Some("ik_0123456789abcdef")).unwrap();
        client.status().await.unwrap();
        let heads = heads.await.unwrap();
        assert!(heads[0].starts_with("GET /fleet/gateway HTTP/1.1\r\n"), "{heads:?}");
        assert!(heads[0].contains("authorization: ApiKey ik_0123456789abcdef\r\n"), "{heads:?}");
        assert!(!format!("{client:?}").contains("0123456789"), "{client:?}");
        assert_eq!(Client::new("http://gateway", Some("ik\n")).unwrap_err(), ClientError::Key);
    }

    #[tokio::test]
    async fn what_is_posted_is_announced_as_json_and_answered_in_the_limits_of_the_client() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let client = Client::new(&address, None).unwrap().with_limits(TIMEOUT, 7);
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heads = Vec::new();
            for answer in ["[1,2,3]", "[1,2,34]"] {
                heads.push(request_head(&mut stream).await);
                let mut body = [0; 4];
                stream.read_exact(&mut body).await.unwrap();
                assert_eq!(&body, b"[42]");
                let answer = format!("HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            heads
        };
        let body = Bytes::from_static(b"[42]");
        let asking = async {
            let fits = client.post_json::<Vec<u8>>("/numbers", body.clone()).await;
            (fits, client.post_json::<Vec<u8>>("/numbers", body).await)
        };
        let ((fits, too_long), heads) = tokio::join!(asking, serving);
        assert_eq!(fits, Ok(Some(vec![1, 2, 3])));
        assert_eq!(too_long, Err(ClientError::TooLong { address, path: "/numbers".to_owned(), max: 7 }));
        assert!(heads[0].starts_with("POST /numbers HTTP/1.1\r\n"), "{heads:?}");
        assert!(heads[0].contains("content-type: application/json\r\n"), "{heads:?}");
    }

    #[tokio::test]
    async fn two_requests_share_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            for _ in 0..2 {
                request_head(&mut stream).await;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{STATUS}", STATUS.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let asking = async { (client.status().await.is_ok(), client.status().await.is_ok()) };
        assert_eq!(tokio::join!(asking, serving).0, (true, true));
    }

    #[tokio::test]
    async fn what_a_gateway_refuses_says_what_to_do() {
        for (answer, error) in [
            (
                answer("404 Not Found", "", "{}"),
                "GATEWAY has no /gateway; it is an older gateway, which knows only /metrics, or none: update it, or \
                 name another with --gateway-api",
            ),
            (answer("401 Unauthorized", "", ""), "GATEWAY asks for an API key; give one with --api-key-file"),
            (
                answer("503 Service Unavailable", "", r#"{"code":503,"message":"shutting\u001b[2J\ndown"}"#),
                "GATEWAY/gateway answered 503: shutting[2Jdown",
            ),
            (answer("502 Bad Gateway", "", "<html>"), "GATEWAY/gateway answered 502: Bad Gateway"),
            (
                answer("308 Permanent Redirect", "location: https://gateway/\r\n", ""),
                "GATEWAY redirects to \"https://gateway/\"; redirects are not followed: name the gateway itself, \
                 without TLS",
            ),
            (
                answer("200 OK", "", "{\"version\":1}"),
                "GATEWAY/gateway answered something else than expected: invalid type: integer `1`, expected a string \
                 at line 1 column 12; use the gateway's own version of lastroute",
            ),
            (
                answer("200 OK", "", &" ".repeat(MAX_ANSWER + 1)),
                "GATEWAY/gateway answered more than 1048576 bytes; see that it is the address of a gateway's API",
            ),
        ] {
            assert_eq!(error_of(answer, None).await, error);
        }
        let expired = r#"{"code":401,"message":"this API key has expired; ask an administrator for another"}"#;
        for (body, reason) in [("", "Unauthorized"), (expired, "this API key has expired")] {
            let error = error_of(answer("401 Unauthorized", "", body), Some("ik_0123456789abcdef")).await;
            assert_eq!(error, format!("GATEWAY refuses this API key: {reason}; give another with --api-key-file"));
        }
    }

    #[tokio::test]
    async fn what_is_no_http_or_breaks_off_is_an_error() {
        for broken in ["", "\x15\x03\x01\0\x02", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"] {
            let error = error_of(broken.to_owned(), None).await;
            assert!(error.starts_with("no whole answer from GATEWAY: "), "{error}");
            assert!(error.ends_with("; see that it is the plain HTTP address of the gateway's API"), "{error}");
        }
    }

    #[tokio::test]
    async fn where_nobody_listens_the_address_and_the_remedy_are_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = Client::new(&format!("http://{address}"), None).unwrap().status().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot reach http://{address}: Connection refused; is the gateway running there? name its API with \
                 --gateway-api"
            )
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let error = Client::new(&address, None).unwrap().status().await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("{address} did not answer within 10s; ")), "{error}");
    }

    #[test]
    fn an_address_that_cannot_be_asked_is_refused_with_a_remedy() {
        for (address, words) in [
            ("https://gateway.example", "TLS is not supported"),
            ("127.0.0.1:8080", "write for example http://127.0.0.1:8080"),
            ("gateway", "write for example"),
            ("", "write for example"),
            ("http://", "write for example"),
            ("http://a b", "write for example"),
            ("http://127.0.0.1:99999", "write for example"),
            ("http://[::1]:65536/fleet", "write for example"),
            ("http://gateway:", "write for example"),
            ("http://:8080", "write for example"),
            ("ftp://gateway", "write for example"),
            ("http://gateway/?a=b", "leave out the question mark"),
        ] {
            let error = Client::new(address, None).unwrap_err().to_string();
            assert!(error.contains(words) && error.starts_with(&format!("{address:?}")), "{error}");
        }
        let error = Client::new("http://user:secret@gateway", None).unwrap_err().to_string();
        assert!(error.contains("--api-key-file") && !error.contains("secret"), "{error}");
        assert_eq!(Client::new("http://[::1]:80//", None).unwrap().address(), "http://[::1]:80");
    }
}

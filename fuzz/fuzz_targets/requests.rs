//! Any query, and any body in JSON and MessagePack for every endpoint that takes one: what is refused is refused with a
//! sentence, and what is taken in one form is taken in the other.
//!
//! An input is a byte, by which the endpoint and the form are chosen, and the body, which is read as a query as well.

use std::sync::LazyLock;

use lastroute::api::error::ApiError;
use lastroute::api::format::Format;
use lastroute::api::router::{Endpoint, ROWS, Router};
use lastroute::api::understand;
use lastroute::definitions::Definitions;

const MESSAGE_PACK: Format = Format::MessagePack("application/msgpack");
const DEVICE: &str = "d291d4d66bf0a955";
const RECORD: &str = "0198c0de-0000-7000-8000-00000000002a";
static DEFINITIONS: LazyLock<Definitions> = LazyLock::new(Definitions::default);
/// Those that take a body, in the order of their paths.
static ENDPOINTS: LazyLock<Vec<Endpoint>> = LazyLock::new(|| {
    let router = Router::new();
    let with_body = ROWS.iter().filter(|row| matches!(row.method.as_str(), "POST" | "PUT"));
    let paths = with_body.map(|row| (row, row.template.replace("{deviceId}", DEVICE).replace("{id}", RECORD)));
    paths.map(|(row, path)| router.resolve(row.method, &path).endpoint.expect("a path that is one")).collect()
});

/// One input.
pub(crate) fn run(input: &[u8]) {
    let Some((choice, body)) = input.split_first() else { return };
    let endpoint = &ENDPOINTS[usize::from(choice & 0x7f) % ENDPOINTS.len()];
    let format = if choice & 0x80 == 0 { Format::Json } else { MESSAGE_PACK };
    read(endpoint, format, body);
    if let Ok(text) = str::from_utf8(body) {
        understand::query(text).iter().for_each(check);
    }
}

fn read(endpoint: &Endpoint, format: Format, body: &[u8]) {
    match understand::body(endpoint, format, body, &DEFINITIONS) {
        Err(error) => check(&error),
        Ok(()) if format == Format::Json && !body.is_empty() => read_again(endpoint, body),
        Ok(()) => {}
    }
}

/// What JSON says can be said in MessagePack.
fn read_again(endpoint: &Endpoint, body: &[u8]) {
    // What no field asks for may be what no other form has: a number beyond all bounds, half a character.
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else { return };
    let packed = MESSAGE_PACK.encode(&value).expect("what JSON says has a form");
    assert_eq!(understand::body(endpoint, MESSAGE_PACK, &packed, &DEFINITIONS), Ok(()), "{value}");
}

/// That an error tells a person something, on one line, and has a status that fits.
fn check(error: &ApiError) {
    let text = error.to_string();
    assert!(text.len() > 10 && !text.contains(['\n', '\r']), "{text:?}");
    assert!(text.len() < 20_000, "{} bytes", text.len());
    assert!(error.status().is_client_error(), "{error:?}");
}

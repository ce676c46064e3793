//! JSON and MessagePack: which one a request asks for, which one it brings, and bodies in either.

use std::cmp::Reverse;

use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::strict::{self, Bounds, Unfit};

/// The form of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// MessagePack with named fields, under one of its three names.
    MessagePack(&'static str),
}

/// Names of MessagePack in use; the first is the registered one.
pub(super) const MESSAGE_PACK: [&str; 3] = ["application/msgpack", "application/vnd.msgpack", "application/x-msgpack"];
const JSON: &str = "application/json";
/// How deep lists and objects of a MessagePack body may lie in each other: far deeper than any that is of use. JSON has the
/// same bound.
const MAX_DEPTH: usize = 128;
/// Server-sent events, which are no form of a body but a body without end.
pub(super) const EVENTS: &str = "text/event-stream";

impl Format {
    /// The form in which to answer, by the header `Accept`: the one with the highest quality; among equals the one named
    /// most exactly, then the one named first. JSON if nothing on offer is acceptable.
    pub fn accepted(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(ACCEPT).iter();
        match (values.next(), values.next()) {
            // What nearly every client says needs no weighing.
            (None, _) => return Self::Json,
            (Some(only), None) if only == JSON || only == "*/*" => return Self::Json,
            _ => {}
        }
        let accepted = Accepted::of(headers);
        let weighed = |form: Self| accepted.weight(form.content_type()).map(|weight| (weight, form));
        // The last of several equals wins: JSON, then the registered name.
        Self::all().filter_map(weighed).max_by_key(|(weight, _)| *weight).map_or(Self::Json, |(_, form)| form)
    }

    /// Whether server-sent events are wanted more than a body: only if they are named.
    pub fn events_accepted(headers: &HeaderMap) -> bool {
        let accepted = Accepted::of(headers);
        let best = Self::all().filter_map(|form| accepted.weight(form.content_type())).max();
        let named = accepted.0.iter().any(|range| range.essence.eq_ignore_ascii_case(EVENTS));
        named && accepted.weight(EVENTS) > best
    }

    fn all() -> impl Iterator<Item = Self> {
        MESSAGE_PACK.into_iter().rev().map(Self::MessagePack).chain([Self::Json])
    }

    /// The form of the body a request brings, by its header `Content-Type`; without one, JSON. `None` for anything else.
    pub fn of_body(headers: &HeaderMap) -> Option<Self> {
        let Some(value) = headers.get(CONTENT_TYPE) else { return Some(Self::Json) };
        let essence = value.to_str().ok()?.split(';').next()?.trim();
        if essence.eq_ignore_ascii_case(JSON) {
            return Some(Self::Json);
        }
        MESSAGE_PACK.into_iter().find(|name| essence.eq_ignore_ascii_case(name)).map(Self::MessagePack)
    }

    /// The value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::MessagePack(name) => name,
        }
    }

    /// The same, as it is put into an answer.
    pub(super) fn content_type_header(self) -> HeaderValue {
        match self {
            Self::Json => const { HeaderValue::from_static(JSON) },
            Self::MessagePack(name) => HeaderValue::from_static(name),
        }
    }

    /// The bytes of `value`. Fails only for values that have no such form, which no body of this API is.
    pub fn encode(self, value: &impl Serialize) -> Result<Vec<u8>, String> {
        match self {
            Self::Json => serde_json::to_vec(value).map_err(|error| error.to_string()),
            Self::MessagePack(_) => {
                let mut bytes = Vec::new();
                // As text where JSON has text: addresses would be arrays of numbers otherwise.
                let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map().with_human_readable();
                value.serialize(&mut serializer).map_err(|error| error.to_string())?;
                Ok(bytes)
            }
        }
    }

    /// The value of `bytes`, within `bounds`, or what is wrong with them. Nothing but the value may be in them.
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8], bounds: Bounds) -> Result<T, Unfit> {
        match self {
            Self::Json => {
                let mut deserializer = serde_json::Deserializer::from_slice(bytes);
                let value = strict::decode(&mut deserializer, bounds)?;
                deserializer.end().map_err(|error| Unfit::Malformed(error.to_string()))?;
                Ok(value)
            }
            Self::MessagePack(_) => {
                let mut deserializer = rmp_serde::Deserializer::new(bytes).with_human_readable();
                deserializer.set_max_depth(MAX_DEPTH);
                let value = strict::decode(&mut deserializer, bounds)?;
                match deserializer.get_ref().len() {
                    0 => Ok(value),
                    len => Err(Unfit::Malformed(format!("{len} trailing bytes; send nothing after the value"))),
                }
            }
        }
    }
}

/// What the header `Accept` says.
struct Accepted<'a>(Vec<Range<'a>>);

/// How much a form is wanted: by quality, then by how exactly it is named, then by place.
type Weight = (u16, u8, Reverse<usize>);

impl<'a> Accepted<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let texts = values.flat_map(|value| value.split(',')).enumerate();
        Self(texts.filter_map(|(position, text)| Range::parse(position, text)).collect())
    }

    /// `None` if the form is not acceptable.
    fn weight(&self, content_type: &str) -> Option<Weight> {
        // The most exact range that covers a form decides about it (RFC 9110, 12.5.1).
        let covering = self.0.iter().filter(|range| range.covers(content_type));
        let best = covering.max_by_key(|range| (range.exactness(), Reverse(range.position)))?;
        (best.quality > 0).then_some((best.quality, best.exactness(), Reverse(best.position)))
    }
}

/// One media range of `Accept`.
#[derive(Clone, Copy, Debug)]
struct Range<'a> {
    essence: &'a str,
    /// Thousandths.
    quality: u16,
    position: usize,
}

impl<'a> Range<'a> {
    fn parse(position: usize, text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next().filter(|essence| !essence.is_empty())?;
        let quality = parts.find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| thousandths(value.trim()))
        });
        // A quality that is none makes the range worthless, not wanted most.
        Some(Self { essence, quality: quality.unwrap_or(Some(1000)).unwrap_or(0), position })
    }

    fn covers(&self, content_type: &str) -> bool {
        self.essence == "*/*" || self.essence == "application/*" || self.essence.eq_ignore_ascii_case(content_type)
    }

    fn exactness(&self) -> u8 {
        match self.essence {
            "*/*" => 0,
            essence if essence.ends_with("/*") => 1,
            _ => 2,
        }
    }
}

/// A quality value: 0 to 1 with at most three decimals.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let decimals: u16 = format!("{decimals:0<3}").parse().ok()?;
    match (whole, decimals) {
        ("0", decimals) => Some(decimals),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(values: &[&str]) -> &'static str {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, HeaderValue::from_str(value).unwrap());
        }
        Format::accepted(&headers).content_type()
    }

    #[test]
    fn the_answer_has_the_form_wanted_most() {
        for (accept, expected) in [
            (&[][..], JSON),
            (&["*/*"], JSON),
            (&["application/*"], JSON),
            (&["application/json"], JSON),
            (&["text/html"], JSON),
            (&["nonsense, ;;, q=1"], JSON),
            (&["application/msgpack"], "application/msgpack"),
            (&["Application/MsgPack ; q=0.1"], "application/msgpack"),
            (&["application/x-msgpack"], "application/x-msgpack"),
            (&["application/vnd.msgpack"], "application/vnd.msgpack"),
            (&["text/html, application/msgpack;q=0.5"], "application/msgpack"),
            (&["application/msgpack, */*"], "application/msgpack"),
            (&["*/*, application/msgpack"], "application/msgpack"),
            (&["application/msgpack;q=0.5, */*"], JSON),
            (&["application/msgpack;q=0.5, application/json"], JSON),
            (&["application/json;q=0.5, application/msgpack;q=0.501"], "application/msgpack"),
            (&["application/json", "application/msgpack"], JSON),
            (&["application/msgpack", "application/json"], "application/msgpack"),
            (&["application/msgpack;q=0"], JSON),
            (&["application/json;q=0, */*"], "application/msgpack"),
            (&["application/msgpack;q=2, application/json;q=0.1"], JSON),
            (&["application/msgpack;q=0.0001, application/json;q=0.1"], JSON),
        ] {
            assert_eq!(accepted(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn events_are_sent_to_those_who_name_them_and_want_nothing_more() {
        for (accept, expected) in [
            ("text/event-stream", true),
            ("Text/Event-Stream;q=0.1", true),
            ("text/event-stream, */*", true),
            ("text/event-stream, application/json", true),
            ("application/json;q=0.5, text/event-stream", true),
            ("application/json, text/event-stream", false),
            ("text/event-stream;q=0.5, */*", false),
            ("text/event-stream;q=0", false),
            ("*/*", false),
            ("text/*", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(Format::events_accepted(&headers), expected, "{accept}");
        }
        assert!(!Format::events_accepted(&HeaderMap::new()));
        assert_eq!(accepted(&["text/event-stream"]), JSON, "errors have to have a form");
    }

    #[test]
    fn a_body_is_json_unless_it_says_otherwise() {
        let of_body = |value: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            value.map(|value| headers.insert(CONTENT_TYPE, HeaderValue::from_static(value)));
            Format::of_body(&headers).map(Format::content_type)
        };
        assert_eq!(of_body(None), Some(JSON));
        assert_eq!(of_body(Some("Application/JSON; charset=utf-8")), Some(JSON));
        for name in MESSAGE_PACK {
            assert_eq!(of_body(Some(name)), Some(name));
        }
        for other in ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"] {
            assert_eq!(of_body(Some(other)), None, "{other}");
        }
    }
    #[test]
    fn nothing_may_follow_the_value() {
        for format in [Format::Json, Format::MessagePack(MESSAGE_PACK[0])] {
            let mut bytes = format.encode(&vec!["a", "b"]).unwrap();
            let bounds = Bounds::of_lists(2);
            assert_eq!(format.decode::<Vec<String>>(&bytes, bounds), Ok(vec!["a".to_owned(), "b".to_owned()]));
            bytes.extend(format.encode(&0).unwrap());
            let refused = format.decode::<Vec<String>>(&bytes, bounds).unwrap_err().to_string();
            assert!(refused.contains("trailing"), "{format:?}");
        }
    }
}

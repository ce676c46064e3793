//! What a request to wait asks for: by its query, its body and its headers.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName};
use uuid::Uuid;

use crate::id::{Cursor, DeviceId};
use crate::wait::many::{Devices, Mode};
use crate::wait::stream::Origin;

use super::error::ApiError;
use super::format::Format;
use super::query::{Query, whole};
use super::router::record_id;
use super::views;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The longest wait: longer ones end at every proxy in between.
const MAX_WAIT_MS: u64 = 600_000;

/// The query of a wait. Parameters this gateway does not know are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WaitQuery {
    pub(super) timeout: Option<Duration>,
    pub(super) after: Option<Cursor>,
}

impl WaitQuery {
    pub(super) fn parse(query: &str) -> Result<Self, ApiError> {
        let query = Query::parse(query);
        let timeout = query.timeout()?;
        let after = query.one("after")?.map(|text| text.parse().map_err(ApiError::QueryCursor)).transpose()?;
        Ok(Self { timeout, after })
    }
}

impl Query<'_> {
    /// How long to wait, if that is asked for.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, ApiError> {
        let timeout_ms = self.one("timeoutMs")?.map(wait_ms).transpose()?;
        Ok(timeout_ms.map(Duration::from_millis))
    }
}

fn wait_ms(text: &str) -> Result<u64, ApiError> {
    whole(text).filter(|value| *value <= MAX_WAIT_MS).ok_or(ApiError::TimeoutMs { max: MAX_WAIT_MS })
}

/// What a request for many devices asks for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) whose: Whose,
    pub(super) timeout: Option<Duration>,
}

/// Whose packets are waited for.
#[derive(Debug)]
pub(super) enum Whose {
    /// Those of any of these devices, or of each.
    Devices(Devices, Mode),
    /// Those of any device of the organisation, of which some come with a position.
    Organisation(Uuid, Devices),
}

impl Wanted {
    pub(super) fn of(body: views::WaitForPackets, max_devices: usize) -> Result<Self, ApiError> {
        let timeout = body.timeout_ms.map(timeout_ms).transpose()?;
        let mode = match body.mode.as_deref() {
            None | Some("any") => Mode::Any,
            Some("all") => Mode::All,
            Some(other) => return Err(ApiError::mode(other.to_owned())),
        };
        let whose = match (body.device_ids, body.organisation_id) {
            (Some(names), None) => Whose::Devices(devices(&names, &body.after)?, mode),
            (None, Some(id)) => {
                let id = record_id(&id).ok_or(ApiError::OrganisationId)?;
                Whose::Organisation(id, some_devices(&body.after, mode, max_devices)?)
            }
            _ => return Err(ApiError::DevicesOrOrganisation),
        };
        Ok(Self { whose, timeout })
    }
}

/// The devices of a list, which has at least one, with their positions.
fn devices(names: &[String], after: &BTreeMap<String, String>) -> Result<Devices, ApiError> {
    if names.is_empty() {
        return Err(ApiError::NoDevices);
    }
    let mut after = positions(after)?;
    let device = |(index, name): (usize, &String)| {
        let id = name.parse().map_err(|error| ApiError::BodyDevice { index, error })?;
        // Of a device named twice the first mention counts, and gets it.
        Ok((id, after.remove(&id)))
    };
    let devices = names.iter().enumerate().map(device).collect::<Result<_, ApiError>>()?;
    match after.pop_first() {
        Some((unnamed, _)) => Err(ApiError::AfterUnnamed(unnamed)),
        None => Ok(devices),
    }
}

/// At most `max` devices of an organisation with their positions.
fn some_devices(after: &BTreeMap<String, String>, mode: Mode, max: usize) -> Result<Devices, ApiError> {
    if mode == Mode::All {
        return Err(ApiError::AllOfOrganisation);
    }
    if after.len() > max {
        return Err(ApiError::TooManyPositions { len: after.len(), max });
    }
    Ok(positions(after)?.into_iter().map(|(id, position)| (id, Some(position))).collect())
}

/// One position for each device, however its id is spelt.
fn positions(after: &BTreeMap<String, String>) -> Result<BTreeMap<DeviceId, Cursor>, ApiError> {
    let mut positions = BTreeMap::new();
    for (name, text) in after {
        let id = name.parse().map_err(|error| ApiError::after_device(name.clone(), error))?;
        let cursor = text.parse().map_err(|error| ApiError::AfterCursor { device: id, error })?;
        if positions.insert(id, cursor).is_some() {
            return Err(ApiError::AfterTwice(id));
        }
    }
    Ok(positions)
}

fn timeout_ms(value: f64) -> Result<Duration, ApiError> {
    let whole = value.fract() == 0.0 && (0.0..=MAX_WAIT_MS as f64).contains(&value);
    if whole { Ok(Duration::from_millis(value as u64)) } else { Err(ApiError::TimeoutMs { max: MAX_WAIT_MS }) }
}

/// Whether a client waits for one answer, or for events and where they begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Answer,
    Events(Origin),
}

impl Kind {
    /// By the headers `Accept` and `Last-Event-ID`. A client does not choose the latter: one that makes no sense is like one
    /// that is not remembered, from which it can go on.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        if !Format::events_accepted(headers) {
            return Self::Answer;
        }
        Self::Events(match headers.get(LAST_EVENT_ID) {
            None => Origin::Devices,
            Some(id) if id.is_empty() => Origin::Devices,
            Some(id) => id.to_str().ok().and_then(|id| id.parse().ok()).map_or(Origin::Lost, Origin::Event),
        })
    }
}

/// Whether a client was here before, and wants to go on after the last event that it has seen.
pub(super) fn comes_back(headers: &HeaderMap) -> bool {
    headers.get(LAST_EVENT_ID).is_some_and(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use hyper::header::{ACCEPT, HeaderValue};
    use serde_json::json;

    use super::super::format::EVENTS;
    use super::*;
    use crate::id::{EventId, IdError};

    fn parsed(query: &str) -> Result<(Option<u128>, Option<Cursor>), ApiError> {
        WaitQuery::parse(query).map(|query| (query.timeout.map(|timeout| timeout.as_millis()), query.after))
    }

    #[test]
    fn a_query_says_how_long_and_after_which_position() {
        let cursor = Some(Cursor { epoch: 7, n: 42 });
        for (query, expected) in [
            ("", (None, None)),
            ("&&", (None, None)),
            ("timeoutMs=0", (Some(0), None)),
            ("timeoutMs=600000&after=7-42", (Some(600_000), cursor)),
            ("after=7%2D42&timeout%4ds=5", (Some(5), cursor)),
            ("unknown=1&unknown=2&timeoutms=x", (None, None)),
        ] {
            assert_eq!(parsed(query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn a_bad_query_is_refused_by_name() {
        for bad in ["timeoutMs", "timeoutMs=", "timeoutMs=-1", "timeoutMs=+1", "timeoutMs=600001", "timeoutMs=1.5"] {
            assert_eq!(parsed(bad), Err(ApiError::TimeoutMs { max: MAX_WAIT_MS }), "{bad}");
        }
        for bad in ["after", "after=", "after=7"] {
            assert_eq!(parsed(bad), Err(ApiError::QueryCursor(IdError::Cursor)), "{bad}");
        }
        assert_eq!(parsed("after=%ff"), Err(ApiError::QueryText { name: "after" }));
        assert_eq!(parsed("timeoutMs=1&timeoutMs=1"), Err(ApiError::QueryTwice { name: "timeoutMs" }));
        assert_eq!(parsed("after=1-1&after=1-1"), Err(ApiError::QueryTwice { name: "after" }));
    }

    #[test]
    fn a_stream_begins_after_the_last_event_that_the_client_has_seen() {
        let kind = |last_event_id: Option<&'static [u8]>| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(EVENTS));
            last_event_id.map(|id| headers.insert(LAST_EVENT_ID, HeaderValue::from_bytes(id).unwrap()));
            Kind::of(&headers)
        };
        for (last_event_id, expected) in [
            (None, Origin::Devices),
            (Some(&b""[..]), Origin::Devices),
            (Some(b"7-42"), Origin::Event(EventId { stream: 7, n: 42 })),
            (Some(b"7"), Origin::Lost),
            (Some(b"7-42 "), Origin::Lost),
            (Some(b"\xff"), Origin::Lost),
        ] {
            assert_eq!(kind(last_event_id), Kind::Events(expected), "{last_event_id:?}");
        }
        let mut only_id = HeaderMap::new();
        only_id.insert(LAST_EVENT_ID, HeaderValue::from_static("7-42"));
        assert_eq!(Kind::of(&only_id), Kind::Answer);
    }

    fn wanted(body: serde_json::Value) -> Result<Wanted, ApiError> {
        Wanted::of(serde_json::from_value(body).unwrap(), 3)
    }

    #[test]
    fn a_list_of_devices_brings_their_positions_along() {
        let body = json!({"deviceIds": ["0000000000000002", "000000000000000A", "000000000000000a"],
            "after": {"000000000000000A": "7-42"}, "timeoutMs": 1e3, "mode": "all"});
        let wanted = wanted(body).unwrap();
        let Whose::Devices(devices, mode) = wanted.whose else { panic!("{wanted:?}") };
        let devices: Vec<_> = devices.iter().collect();
        assert_eq!(devices, [(DeviceId(2), None), (DeviceId(10), Some(Cursor { epoch: 7, n: 42 }))]);
        assert_eq!((mode, wanted.timeout), (Mode::All, Some(Duration::from_secs(1))));
        let short =
            Wanted::of(views::WaitForPackets { device_ids: Some(vec!["0".repeat(16)]), ..Default::default() }, 1);
        assert!(matches!(short, Ok(Wanted { whose: Whose::Devices(_, Mode::Any), timeout: None })), "{short:?}");
    }

    #[test]
    fn an_organisation_brings_the_positions_of_some_devices_along() {
        let id = "0198c0de-0000-7000-8000-00000000002a";
        let position = (DeviceId(10), Some(Cursor { epoch: 7, n: 42 }));
        for (body, expected) in [
            (json!({"organisationId": id}), vec![]),
            (json!({"organisationId": id, "mode": "any", "after": {"000000000000000A": "7-42"}}), vec![position]),
        ] {
            let Whose::Organisation(named, devices) = wanted(body).unwrap().whose else { panic!("{expected:?}") };
            assert_eq!((named.to_string(), devices.iter().collect()), (id.to_owned(), expected));
        }
    }

    #[test]
    fn what_is_wrong_with_a_list_is_named() {
        let (one, organisation) = (json!(["0000000000000001"]), "0198c0de-0000-7000-8000-00000000002a");
        for (body, expected) in [
            (json!({}), ApiError::DevicesOrOrganisation),
            (json!({"deviceIds": one, "organisationId": "x"}), ApiError::DevicesOrOrganisation),
            (json!({"organisationId": "x"}), ApiError::OrganisationId),
            (json!({"organisationId": organisation, "mode": "all"}), ApiError::AllOfOrganisation),
            (json!({"organisationId": organisation, "mode": "some"}), ApiError::Mode("some".to_owned())),
            (
                json!({"organisationId": organisation, "after": {"1": "", "2": "", "3": "", "4": ""}}),
                ApiError::TooManyPositions { len: 4, max: 3 },
            ),
            (
                json!({"organisationId": organisation, "after": {"1": "7-42"}}),
                ApiError::AfterDevice { name: "1".to_owned(), error: IdError::Device },
            ),
            (json!({"deviceIds": []}), ApiError::NoDevices),
            (
                json!({"deviceIds": ["0000000000000001", "1"]}),
                ApiError::BodyDevice { index: 1, error: IdError::Device },
            ),
            (
                json!({"deviceIds": one, "after": {"1": "7-42"}}),
                ApiError::AfterDevice { name: "1".to_owned(), error: IdError::Device },
            ),
            (json!({"deviceIds": one, "after": {"0000000000000002": "7-42"}}), ApiError::AfterUnnamed(DeviceId(2))),
            (
                json!({"deviceIds": one, "after": {"0000000000000001": "now"}}),
                ApiError::AfterCursor { device: DeviceId(1), error: IdError::Cursor },
            ),
            (
                json!({"deviceIds": ["000000000000000a"], "after": {"000000000000000a": "7-42", "000000000000000A": "7-42"}}),
                ApiError::AfterTwice(DeviceId(10)),
            ),
            (json!({"deviceIds": one, "mode": "some"}), ApiError::Mode("some".to_owned())),
            (json!({"deviceIds": one, "timeoutMs": 600_001}), ApiError::TimeoutMs { max: MAX_WAIT_MS }),
            (json!({"deviceIds": one, "timeoutMs": -1}), ApiError::TimeoutMs { max: MAX_WAIT_MS }),
            (json!({"deviceIds": one, "timeoutMs": 0.5}), ApiError::TimeoutMs { max: MAX_WAIT_MS }),
        ] {
            assert_eq!(wanted(body.clone()).unwrap_err(), expected, "{body}");
        }
    }
}

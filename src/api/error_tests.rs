use std::collections::BTreeSet;

use super::*;
use crate::registry::Conflict;

#[test]
fn the_code_of_the_body_is_the_status() {
    let wait = |error| ApiError::from(DeviceError { device: DeviceId(7), error });
    for (error, code) in [
        (ApiError::from(Unroutable::Path), 404),
        (ApiError::from(Unroutable::Method { allow: "POST".to_owned() }), 405),
        (ApiError::from(Unroutable::Device(IdError::Device)), 400),
        (ApiError::from(Unroutable::Record), 400),
        (ApiError::from(Unroutable::Text), 404),
        (wait(WaitError::NotRegistered), 404),
        (wait(Ended::Dismissed.into()), 404),
        (wait(Full::Device.into()), 429),
        (wait(Full::Total.into()), 503),
        (OrganisationError::Full(Full::Organisation).into(), 429),
        (OrganisationError::Full(Full::Total).into(), 503),
        (OrganisationError::NotOfIt(DeviceId(7)).into(), 404),
        (OrganisationError::Deleted.into(), 404),
        (ApiError::CredentialFull, 429),
        (RegistryError::NotFound { kind: "board", id: "7".to_owned() }.into(), 404),
        (RegistryError::Conflict(Conflict::Taken { what: "deviceId", value: "7".to_owned() }).into(), 409),
        (RegistryError::Rule("no".to_owned()).into(), 422),
        (RegistryError::PageTooLong.into(), 400),
        (RegistryError::Unavailable("write").into(), 503),
        (ApiError::entry("devices", 17, RegistryError::Unavailable("write")), 503),
        (ApiError::entry("devices", 17, RegistryError::Rule("no".to_owned())), 422),
        (ApiError::NoRoom, 503),
        (ApiError::Slow, 503),
        (ApiError::ShuttingDown, 503),
    ] {
        let view = error.view();
        assert_eq!((view.code, error.status().as_u16()), (code, code), "{error}");
        let mut headers = HeaderMap::new();
        error.add_headers(&mut headers);
        assert_eq!(headers.contains_key(RETRY_AFTER), code == 429 || code == 503, "{error}");
    }
    let mut headers = HeaderMap::new();
    ApiError::SlowChange.add_headers(&mut headers);
    assert_eq!((ApiError::SlowChange.status().as_u16(), headers.len()), (503, 0), "it may have happened");
}

#[test]
fn those_told_of_a_shutdown_come_back_at_different_times() {
    let seconds = (0..200).map(|_| {
        let mut headers = HeaderMap::new();
        ApiError::ShuttingDown.add_headers(&mut headers);
        headers[RETRY_AFTER].to_str().unwrap().to_owned()
    });
    assert_eq!(seconds.collect::<BTreeSet<_>>(), ["1", "2", "3", "4", "5"].map(str::to_owned).into());
}

#[test]
fn a_parser_cannot_quote_a_whole_body() {
    let ApiError::Body(message) = ApiError::from(Unfit::Malformed("\u{e4}".repeat(5000))) else { panic!() };
    assert_eq!(message.len(), MAX_QUOTED);
}

//! The query of a request: its parameters by name, and the values that they may have. Parameters that no endpoint asks for
//! are ignored.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use percent_encoding::percent_decode;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::records::message::MessageStatus;
use crate::registry::messages::{MessageFilter, MessageOrder};
use crate::registry::{DeviceOrder, HeardFilter, HeardOrder, KindOrder, OrganisationOrder, Page};

use crate::status::Time;

use super::error::ApiError;
use super::router::record_id;

/// Records of one page at most: an answer of a few megabytes.
pub(super) const MAX_LIMIT: u32 = 10_000;
/// Records of one page, unless asked otherwise.
const DEFAULT_LIMIT: u32 = 100;
/// The greatest number that every database takes.
const MAX_NUMBER: u64 = i64::MAX as u64;

/// The parameters of a query, decoded as forms are. A name that is no text is none that is asked for.
#[derive(Debug)]
pub(super) struct Query<'q>(Vec<(Cow<'q, str>, Value<'q>)>);

/// The value of a parameter; `None` if it is no text.
type Value<'q> = Option<Cow<'q, str>>;

/// An order of devices in a list that shows their states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StateOrder {
    Record(DeviceOrder),
    Heard(HeardOrder),
}

impl<'q> Query<'q> {
    pub(super) fn parse(query: &'q str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name)?, decoded(value)))
        });
        Self(decoded.flatten().collect())
    }

    /// Every value of a parameter.
    fn all(&self, name: &'static str) -> impl Iterator<Item = Result<&str, ApiError>> {
        let values = self.0.iter().filter(move |(found, _)| found == name);
        values.map(move |(_, value)| value.as_deref().ok_or(ApiError::QueryText { name }))
    }

    /// The value of a parameter, which may be given once.
    pub(super) fn one(&self, name: &'static str) -> Result<Option<&str>, ApiError> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() { Err(ApiError::QueryTwice { name }) } else { first.transpose() }
    }

    /// Which part of a list is asked for.
    pub(super) fn page(&self) -> Result<Page, ApiError> {
        self.page_unless_asked(false)
    }

    /// The same of a list of messages, of which the latest come first.
    pub(super) fn page_of_messages(&self) -> Result<Page, ApiError> {
        self.page_unless_asked(true)
    }

    fn page_unless_asked(&self, descending: bool) -> Result<Page, ApiError> {
        let limit = self.limit()?;
        let descending = self.choice("orderDir", &[("asc", false), ("desc", true)])?.unwrap_or(descending);
        let offset = self.number("offset", 0..=MAX_NUMBER)?.unwrap_or_default();
        Ok(Page { limit, offset, descending })
    }

    /// How many records are asked for.
    pub(super) fn limit(&self) -> Result<u32, ApiError> {
        let limit = self.number("limit", 1..=u64::from(MAX_LIMIT))?.and_then(|limit| u32::try_from(limit).ok());
        Ok(limit.unwrap_or(DEFAULT_LIMIT))
    }

    /// That none of the parameters of other lists is given, where pages go by `after`: who counts on one would read the
    /// first page for ever.
    pub(super) fn goes_by_after(&self) -> Result<(), ApiError> {
        let other = ["offset", "orderBy", "orderDir"].into_iter().find(|name| self.all(name).next().is_some());
        other.map_or(Ok(()), |name| Err(ApiError::QueryUnfit { name }))
    }

    /// The organisation whose records are listed.
    pub(super) fn organisation(&self) -> Result<Uuid, ApiError> {
        const NAME: &str = "organisationId";
        let text = self.one(NAME)?.ok_or(ApiError::QueryMissing { name: NAME, expected: RECORD_ID })?;
        record(NAME, text)
    }

    /// The record that a parameter names, if it is given.
    pub(super) fn record(&self, name: &'static str) -> Result<Option<Uuid>, ApiError> {
        self.one(name)?.map(|text| record(name, text)).transpose()
    }

    /// Whether public records of other organisations are listed as well.
    pub(super) fn include_public(&self) -> Result<bool, ApiError> {
        Ok(self.choice("includePublic", &[("true", true), ("false", false)])?.unwrap_or_default())
    }

    /// The boards to whose devices a list is limited, if there are any.
    pub(super) fn boards(&self) -> Result<Vec<Uuid>, ApiError> {
        self.all("boardIds").map(|text| record("boardIds", text?)).collect()
    }

    /// The name and the value of the metadata to whose devices a list is limited.
    pub(super) fn metadata(&self) -> Result<Option<(String, String)>, ApiError> {
        match (self.one("metadataName")?, self.one("metadataValue")?) {
            (None, None) => Ok(None),
            (Some(name), Some(value)) => Ok(Some((name.to_owned(), value.to_owned()))),
            (Some(_), None) => Err(ApiError::QueryMissing { name: "metadataValue", expected: BESIDE_NAME }),
            (None, Some(_)) => Err(ApiError::QueryMissing { name: "metadataName", expected: BESIDE_VALUE }),
        }
    }

    /// To which devices a list is limited by when they were heard.
    pub(super) fn heard(&self) -> Result<HeardFilter, ApiError> {
        Ok(HeardFilter {
            silent_for_ms: self.number("silentForMs", 0..=MAX_NUMBER)?,
            heard_within_ms: self.number("heardWithinMs", 0..=MAX_NUMBER)?,
        })
    }

    /// The device to which a list is limited.
    pub(super) fn device(&self) -> Result<Option<DeviceId>, ApiError> {
        const NAME: &str = "deviceId";
        let expected = || "16 hex digits, for example d291d4d66bf0a955".to_owned();
        let text = self.one(NAME)?;
        text.map(|text| text.parse().map_err(|_| ApiError::query(NAME, text, expected()))).transpose()
    }

    /// Which calls are listed.
    pub(super) fn messages(&self) -> Result<MessageFilter, ApiError> {
        let statuses = MessageStatus::ALL.map(|status| (status.name(), status));
        let command_id = self.number("rpcCommandId", 0..=u64::from(u16::MAX))?;
        Ok(MessageFilter {
            organisation: self.record("organisationId")?,
            device: self.device()?,
            status: self.choice("status", &statuses)?,
            from: self.time("startTime")?,
            to: self.time("endTime")?,
            command_id: command_id.and_then(|id| u16::try_from(id).ok()),
            hide_expired: self.choice("showExpired", &[("true", false), ("false", true)])?.unwrap_or_default(),
            calls_only: true,
        })
    }

    /// In which order messages are listed.
    pub(super) fn message_order(&self) -> Result<MessageOrder, ApiError> {
        Ok(self.order(&MESSAGE_ORDERS)?.unwrap_or_default())
    }

    /// That none of the parameters of a list is given where events of messages are followed: who counts on one would be told
    /// of more than it lets through.
    pub(super) fn goes_by_events(&self) -> Result<(), ApiError> {
        let of_lists =
            ["status", "startTime", "endTime", "rpcCommandId", "showExpired", "limit", "offset", "orderBy", "orderDir"];
        let expected = || "left out where events are followed, which go by organisationId and deviceId".to_owned();
        for name in of_lists {
            if let Some(text) = self.one(name)? {
                return Err(ApiError::query(name, text, expected()));
            }
        }
        Ok(())
    }

    /// A moment, which is to be given with its zone.
    fn time(&self, name: &'static str) -> Result<Option<Timestamp>, ApiError> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        let expected = || "a time with its zone, for example 2026-11-23T03:00:00.123Z; encode a + as %2B".to_owned();
        let time = text.parse::<Time>().map_err(|_| ApiError::query(name, text, expected()))?;
        Ok(Some(time.0))
    }

    /// In which order organisations are listed.
    pub(super) fn organisation_order(&self) -> Result<OrganisationOrder, ApiError> {
        Ok(self.order(&ORGANISATION_ORDERS)?.unwrap_or_default())
    }

    /// In which order boards or networks are listed.
    pub(super) fn kind_order(&self) -> Result<KindOrder, ApiError> {
        Ok(self.order(&KIND_ORDERS)?.unwrap_or_default())
    }

    /// In which order devices are listed.
    pub(super) fn device_order(&self) -> Result<DeviceOrder, ApiError> {
        Ok(self.order(&DEVICE_ORDERS)?.unwrap_or_default())
    }

    /// In which order devices are listed with their states.
    pub(super) fn state_order(&self) -> Result<StateOrder, ApiError> {
        Ok(self.order(&STATE_ORDERS)?.unwrap_or(StateOrder::Record(DeviceOrder::default())))
    }

    fn order<T: Copy>(&self, orders: &[(&'static str, T)]) -> Result<Option<T>, ApiError> {
        self.choice("orderBy", orders)
    }

    fn choice<T: Copy>(&self, name: &'static str, choices: &[(&'static str, T)]) -> Result<Option<T>, ApiError> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        match choices.iter().find(|(choice, _)| *choice == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => {
                let names = choices.iter().map(|(choice, _)| *choice).collect::<Vec<_>>();
                Err(ApiError::query(name, text, one_of(&names)))
            }
        }
    }

    fn number(&self, name: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        let number = whole(text).filter(|number| range.contains(number));
        let expected = || format!("a whole number from {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| ApiError::query(name, text, expected()))
    }
}

/// A number of digits and nothing else.
pub(super) fn whole(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

pub(super) const RECORD_ID: &str = "a record id, for example 0198c0de-0000-7000-8000-00000000002a";
const BESIDE_NAME: &str = "the value of the metadata called metadataName, or leave both out";
const BESIDE_VALUE: &str = "the name of the metadata that has metadataValue, or leave both out";

const ORGANISATION_ORDERS: [(&str, OrganisationOrder); 3] = [
    ("createdAt", OrganisationOrder::CreatedAt),
    ("name", OrganisationOrder::Name),
    ("updatedAt", OrganisationOrder::UpdatedAt),
];

const KIND_ORDERS: [(&str, KindOrder); 4] = [
    ("createdAt", KindOrder::CreatedAt),
    ("name", KindOrder::Name),
    ("public", KindOrder::Public),
    ("updatedAt", KindOrder::UpdatedAt),
];

const DEVICE_ORDERS: [(&str, DeviceOrder); 6] = [
    ("boardId", DeviceOrder::BoardId),
    ("createdAt", DeviceOrder::CreatedAt),
    ("deviceId", DeviceOrder::DeviceId),
    ("mcuId", DeviceOrder::McuId),
    ("organisationId", DeviceOrder::OrganisationId),
    ("updatedAt", DeviceOrder::UpdatedAt),
];

const STATE_ORDERS: [(&str, StateOrder); 9] = [
    ("boardId", StateOrder::Record(DeviceOrder::BoardId)),
    ("createdAt", StateOrder::Record(DeviceOrder::CreatedAt)),
    ("deviceId", StateOrder::Record(DeviceOrder::DeviceId)),
    ("firstPacketTime", StateOrder::Heard(HeardOrder::FirstPacketTime)),
    ("lastRouteTime", StateOrder::Heard(HeardOrder::LastRouteTime)),
    ("lastRouteUdpTime", StateOrder::Heard(HeardOrder::LastRouteUdpTime)),
    ("mcuId", StateOrder::Record(DeviceOrder::McuId)),
    ("organisationId", StateOrder::Record(DeviceOrder::OrganisationId)),
    ("updatedAt", StateOrder::Record(DeviceOrder::UpdatedAt)),
];

const MESSAGE_ORDERS: [(&str, MessageOrder); 8] = [
    ("commandId", MessageOrder::CommandId),
    ("completedAt", MessageOrder::CompletedAt),
    ("createdAt", MessageOrder::CreatedAt),
    ("deviceId", MessageOrder::DeviceId),
    ("expiresAt", MessageOrder::ExpiresAt),
    ("sentAt", MessageOrder::SentAt),
    ("status", MessageOrder::Status),
    ("updatedAt", MessageOrder::UpdatedAt),
];

/// A part of a query as forms encode it: `+` for a space, and bytes by percents.
fn decoded(text: &str) -> Value<'_> {
    if !text.contains(['+', '%']) {
        return Some(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    percent_decode(spaced.as_bytes()).decode_utf8().ok().map(|text| Cow::Owned(text.into_owned()))
}

fn record(name: &'static str, text: &str) -> Result<Uuid, ApiError> {
    record_id(text).ok_or_else(|| ApiError::query(name, text, RECORD_ID.to_owned()))
}

fn one_of(names: &[&str]) -> String {
    match names {
        [names @ .., last] if !names.is_empty() => format!("{} or {last}", names.join(", ")),
        names => names.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0198c0de-0000-7000-8000-00000000002a";
    const UUID: Uuid = Uuid::from_u128(0x0198_c0de_0000_7000_8000_0000_0000_002a);

    fn refused<T: std::fmt::Debug>(parsed: Result<T, ApiError>) -> String {
        let error = parsed.unwrap_err();
        assert_eq!(error.status(), hyper::StatusCode::BAD_REQUEST);
        error.to_string()
    }

    #[test]
    fn a_page_has_the_defaults_of_the_contract() {
        let page = |query| Query::parse(query).page();
        let default = Page { limit: 100, offset: 0, descending: false };
        for (query, expected) in [
            ("", default),
            ("&&=&x", default),
            ("unknown=1&unknown=2&Limit=x", default),
            ("limit=1", Page { limit: 1, ..default }),
            ("limit=10000&offset=9223372036854775807", Page { limit: 10_000, offset: MAX_NUMBER, descending: false }),
            ("orderDir=desc", Page { descending: true, ..default }),
            ("orderDir=asc&offset=007", Page { offset: 7, ..default }),
            ("l%69mit=%35", Page { limit: 5, ..default }),
        ] {
            assert_eq!(page(query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn a_bad_page_is_refused_by_name_value_and_range() {
        let limit = "it must be a whole number from 1 to 10000";
        let offset = "it must be a whole number from 0 to 9223372036854775807";
        for (query, said) in [
            ("limit=0", format!(r#"query parameter limit is "0"; {limit}"#)),
            ("limit=10001", format!(r#"query parameter limit is "10001"; {limit}"#)),
            ("limit=", format!(r#"query parameter limit is ""; {limit}"#)),
            ("limit", format!(r#"query parameter limit is ""; {limit}"#)),
            ("limit=-1", format!(r#"query parameter limit is "-1"; {limit}"#)),
            ("limit=+1", format!(r#"query parameter limit is " 1"; {limit}"#)),
            ("limit=1.0", format!(r#"query parameter limit is "1.0"; {limit}"#)),
            ("limit=null", format!(r#"query parameter limit is "null"; {limit}"#)),
            ("limit=99999999999999999999999", format!("query parameter limit is \"99999999999999999999999\"; {limit}")),
            ("offset=9223372036854775808", format!("query parameter offset is \"9223372036854775808\"; {offset}")),
            ("offset=%ff", "query parameter offset is no UTF-8 text; encode it as UTF-8, then by percents".to_owned()),
            ("orderDir=ASC", r#"query parameter orderDir is "ASC"; it must be asc or desc"#.to_owned()),
            ("limit=1&limit=1", "query parameter limit is given more than once; give it once".to_owned()),
            ("orderDir=asc&orderDir=desc", "query parameter orderDir is given more than once; give it once".to_owned()),
        ] {
            assert_eq!(refused(Query::parse(query).page()), said, "{query}");
        }
    }

    #[test]
    fn every_order_of_the_contract_is_known_and_no_other() {
        let orders = |orders: &[&str]| orders.iter().map(|order| format!("orderBy={order}")).collect::<Vec<_>>();
        let organisations = [OrganisationOrder::CreatedAt, OrganisationOrder::Name, OrganisationOrder::UpdatedAt];
        for (query, order) in orders(&["createdAt", "name", "updatedAt"]).iter().zip(organisations) {
            assert_eq!(Query::parse(query).organisation_order(), Ok(order));
        }
        let kinds = [KindOrder::CreatedAt, KindOrder::Name, KindOrder::Public, KindOrder::UpdatedAt];
        for (query, order) in orders(&["createdAt", "name", "public", "updatedAt"]).iter().zip(kinds) {
            assert_eq!(Query::parse(query).kind_order(), Ok(order));
        }
        let devices = [
            DeviceOrder::BoardId,
            DeviceOrder::CreatedAt,
            DeviceOrder::DeviceId,
            DeviceOrder::McuId,
            DeviceOrder::OrganisationId,
            DeviceOrder::UpdatedAt,
        ];
        let named = ["boardId", "createdAt", "deviceId", "mcuId", "organisationId", "updatedAt"];
        for (query, order) in orders(&named).iter().zip(devices) {
            assert_eq!(Query::parse(query).device_order(), Ok(order));
            assert_eq!(Query::parse(query).state_order(), Ok(StateOrder::Record(order)));
        }
        let heard = [HeardOrder::FirstPacketTime, HeardOrder::LastRouteTime, HeardOrder::LastRouteUdpTime];
        for (query, order) in orders(&["firstPacketTime", "lastRouteTime", "lastRouteUdpTime"]).iter().zip(heard) {
            assert_eq!(Query::parse(query).state_order(), Ok(StateOrder::Heard(order)));
            assert!(Query::parse(query).device_order().is_err());
        }
        assert_eq!(Query::parse("").organisation_order(), Ok(OrganisationOrder::CreatedAt));
        assert_eq!(Query::parse("").kind_order(), Ok(KindOrder::CreatedAt));
        assert_eq!(Query::parse("").state_order(), Ok(StateOrder::Record(DeviceOrder::CreatedAt)));
        let said = r#"query parameter orderBy is "public"; it must be createdAt, name or updatedAt"#;
        assert_eq!(refused(Query::parse("orderBy=public").organisation_order()), said);
    }

    #[test]
    fn an_organisation_has_to_be_named_by_its_record_id() {
        assert_eq!(Query::parse(&format!("organisationId={ID}")).organisation(), Ok(UUID));
        let said = refused(Query::parse("organisationid=x").organisation());
        assert_eq!(said, format!("query parameter organisationId is missing; give {RECORD_ID}"));
        for bad in ["", "1", "null", "0198c0de00007000800000000000002a"] {
            let said = refused(Query::parse(&format!("organisationId={bad}")).organisation());
            assert_eq!(said, format!("query parameter organisationId is {bad:?}; it must be {RECORD_ID}"));
        }
    }

    #[test]
    fn boards_may_be_several_and_public_ones_are_asked_for_by_true() {
        let query = format!("boardIds={ID}&boardIds=00000000-0000-0000-0000-000000000001");
        assert_eq!(Query::parse(&query).boards(), Ok(vec![UUID, Uuid::from_u128(1)]));
        assert_eq!(Query::parse("").boards(), Ok(Vec::new()));
        assert!(
            refused(Query::parse(&format!("boardIds={ID},{ID}")).boards()).starts_with("query parameter boardIds is")
        );
        for (query, expected) in [("", false), ("includePublic=false", false), ("includePublic=true", true)] {
            assert_eq!(Query::parse(query).include_public(), Ok(expected));
        }
        for bad in ["includePublic", "includePublic=1", "includePublic=True"] {
            assert!(refused(Query::parse(bad).include_public()).ends_with("it must be true or false"), "{bad}");
        }
    }

    #[test]
    fn metadata_is_asked_for_by_name_and_value_together() {
        let metadata = |query| Query::parse(query).metadata();
        let pair = |name: &str, value: &str| Ok(Some((name.to_owned(), value.to_owned())));
        assert_eq!(metadata(""), Ok(None));
        assert_eq!(metadata("metadataName=a&metadataValue="), pair("a", ""));
        let encoded = "metadataValue=Gro%C3%9Fe+Halle%2B%26%3D&metadataName=place%20in+town";
        assert_eq!(metadata(encoded), pair("place in town", "Große Halle+&="));
        assert!(refused(metadata("metadataName=a")).starts_with("query parameter metadataValue is missing; give"));
        assert!(refused(metadata("metadataValue=a")).starts_with("query parameter metadataName is missing; give"));
        assert!(
            refused(metadata("metadataName=a&metadataName=b&metadataValue=")).contains("metadataName is given more")
        );
    }

    #[test]
    fn a_value_that_is_no_utf8_is_refused_by_name_and_a_name_that_is_none_is_ignored() {
        let said = "query parameter metadataValue is no UTF-8 text; encode it as UTF-8, then by percents";
        assert_eq!(refused(Query::parse("metadataName=a&metadataValue=%C3").metadata()), said);
        assert!(refused(Query::parse("boardIds=%ff").boards()).contains("boardIds is no UTF-8 text"));
        let page = Page { limit: 100, offset: 0, descending: false };
        assert_eq!(Query::parse("%ff=1&unknown=%ff").page(), Ok(page));
    }

    #[test]
    fn silence_is_given_in_whole_milliseconds() {
        let heard = |query| Query::parse(query).heard();
        assert_eq!(heard(""), Ok(HeardFilter::default()));
        let both = HeardFilter { silent_for_ms: Some(0), heard_within_ms: Some(86_400_000) };
        assert_eq!(heard("heardWithinMs=86400000&silentForMs=0"), Ok(both));
        for bad in ["silentForMs=1h", "silentForMs=", "heardWithinMs=-1", "heardWithinMs=1.5", "heardWithinMs=1e3"] {
            assert!(refused(heard(bad)).contains("a whole number from 0 to"), "{bad}");
        }
    }
}

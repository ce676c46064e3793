//! Times, places and numbers as the sentence says them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::Known;
use crate::clock::Timestamp;
use crate::id::DeviceId;
use crate::table::contest::Place;
use crate::table::route::Route;

/// A time that has passed or will, in its greatest unit of which there are at least two.
pub(super) fn span(time: Duration) -> String {
    let rounded = |unit: u64| (time.as_secs_f64() / unit as f64).round() as u64;
    match time.as_secs() {
        0 => "less than 1 s".to_owned(),
        1..120 => format!("{} s", rounded(1)),
        120..7200 => format!("{} min", rounded(60)),
        7200..172_800 => format!("{} h", rounded(3600)),
        _ => format!("{} days", rounded(86_400)),
    }
}

/// How often something happens that happens so long after the time before.
pub(super) fn often(average: Duration) -> String {
    if average < Duration::from_secs(1) {
        "more than once a second on average".to_owned()
    } else {
        format!("about every {} on average", span(average))
    }
}

/// A moment near `now`: the time of day, and the date if that is another one. In UTC.
pub(super) fn moment(at: Timestamp, now: Timestamp) -> String {
    let [at, now] = [at, now].map(|time| {
        jiff::Timestamp::from_millisecond(i64::try_from(time.0).unwrap_or(i64::MAX)).unwrap_or(jiff::Timestamp::MAX)
    });
    let day = |time: jiff::Timestamp| time.strftime("%Y-%m-%d").to_string();
    let format = if day(at) == day(now) { "%H:%M UTC" } else { "%Y-%m-%d %H:%M UTC" };
    at.strftime(format).to_string()
}

/// Where a route leads.
pub(super) fn route(known: &Known, route: &Route) -> String {
    match route {
        Route::Direct(direct) => direct.address.to_string(),
        Route::Relayed(relayed) => {
            let through = &relayed.through;
            format!("{} ({}, {} dBm)", relay(known, through.relay), through.interface.name(), through.rssi_dbm)
        }
    }
}

/// A place.
pub(super) fn place(known: &Known, place: &Place) -> String {
    match place {
        Place::Direct(address) => address.to_string(),
        Place::Relayed { relay: through, .. } => relay(known, *through),
    }
}

fn relay(known: &Known, relay: DeviceId) -> String {
    if known.tells_of(relay) { format!("relay {relay}") } else { "a relay of another organisation".to_owned() }
}

/// Several addresses, as one, two, or one and a number: those of one host are one.
pub(super) fn sources(sources: &[SocketAddr]) -> String {
    let hosts: BTreeSet<_> = sources.iter().map(SocketAddr::ip).collect();
    let last = sources.first().map(|source| source.ip());
    let mut others = hosts.iter().filter(|host| Some(**host) != last);
    match (last, others.next(), others.count()) {
        (None, ..) => "nowhere".to_owned(),
        (Some(last), None, _) => last.to_string(),
        (Some(last), Some(other), 0) => format!("{last} and {other}"),
        (Some(last), Some(_), more) => format!("{last} and {} other addresses", more + 1),
    }
}

/// So many things, of which one is called so.
pub(super) fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_one_unit_and_is_rounded() {
        let spans = [0, 999, 1000, 40_400, 119_999, 120_000, 5_400_000, 7_200_000, 150_000_000, 172_800_000];
        let texts = spans.map(|ms| span(Duration::from_millis(ms)));
        let expected =
            ["less than 1 s", "less than 1 s", "1 s", "40 s", "120 s", "2 min", "90 min", "2 h", "42 h", "2 days"];
        assert_eq!(texts, expected);
        assert_eq!(often(Duration::from_millis(300)), "more than once a second on average");
        assert_eq!(often(Duration::from_secs(60)), "about every 60 s on average");
    }

    #[test]
    fn a_moment_of_another_day_has_its_date() {
        let now = Timestamp(1_795_402_800_123);
        assert_eq!(moment(Timestamp(now.0 - 60_000), now), "02:59 UTC");
        assert_eq!(moment(Timestamp(now.0 - 86_400_000), now), "2026-11-22 03:00 UTC");
    }

    #[test]
    fn addresses_of_one_host_are_one_and_many_are_counted() {
        let of = |hosts: &[u8]| {
            let addresses: Vec<_> = hosts.iter().map(|host| SocketAddr::from(([192, 0, 2, *host], 7))).collect();
            sources(&addresses)
        };
        assert_eq!([of(&[]), of(&[1]), of(&[1, 1])], ["nowhere", "192.0.2.1", "192.0.2.1"]);
        assert_eq!([of(&[2, 1, 2]), of(&[3, 2, 1])], ["192.0.2.2 and 192.0.2.1", "192.0.2.3 and 2 other addresses"]);
        assert_eq!([count(1, "message"), count(2, "message")], ["1 message", "2 messages"]);
    }
}

//! What the text of a value means: addresses, sizes, counts, choices, identifiers. Pure; where the text came from is the
//! caller's business.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::ConfigError;
use crate::clock::ClockStep;
use crate::duration::duration;
use crate::id::KeyId;
use crate::registry::device_keys::KeyChange;
use crate::table::{RoutePolicy, Unregistered};

/// What is wrong with a value, and what to do about it. Neither part quotes a secret or breaks the line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    problem: String,
    remedy: String,
}

impl Fault {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }

    /// The error of the value at `place`: a file and line, a variable or a flag.
    pub(super) fn at(self, place: impl Into<String>) -> ConfigError {
        ConfigError { place: place.into(), fault: self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

/// Sizes a receive buffer may have. The system counts it in a signed 32-bit number, at twice what was asked for.
const BUFFER_SIZES: std::ops::RangeInclusive<usize> = 4 << 10..=(1 << 30) - 1;

/// Ingest threads that an address may have: beyond so many, memory is the limit. Each way in has one of 255 names.
const THREADS: std::ops::RangeInclusive<usize> = 1..=16;

/// How long messages may be kept: no shorter than a person who sent one looks for it.
const RETENTIONS: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(3650 * 86_400);

/// An IP address and port; IPv6 in brackets.
pub(super) fn address(text: &str) -> Result<SocketAddr, Fault> {
    text.parse().map_err(|_| {
        Fault::new(
            format!("{text:?} is not an IP address and port"),
            "write for example 127.0.0.1:8080 or [::1]:8080 (no host names)",
        )
    })
}

/// A whole number from 1.
pub(super) fn count(text: &str) -> Result<usize, Fault> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits { text.parse::<u32>().ok() } else { None };
    match number {
        Some(number @ 1..) => Ok(number as usize),
        _ => Err(Fault::new(
            format!("{text:?} is not a whole number from 1 to {}", u32::MAX),
            "write digits alone, for example 100000",
        )),
    }
}

/// A size of a receive buffer with its unit, in bytes.
pub(super) fn buffer_size(text: &str) -> Result<usize, Fault> {
    const UNITS: [(&str, usize); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let size = UNITS.iter().find_map(|(unit, bytes)| {
        let number = text.strip_suffix(unit)?.trim_end();
        count(number).ok()?.checked_mul(*bytes)
    });
    size.filter(|size| BUFFER_SIZES.contains(size)).ok_or_else(|| {
        Fault::new(
            format!("{text:?} is not a size from 4KiB to below 1GiB"),
            "write a whole number and KiB or MiB, for example 64MiB",
        )
    })
}

/// A number of ingest threads.
pub(super) fn threads(text: &str) -> Result<usize, Fault> {
    count(text).ok().filter(|threads| THREADS.contains(threads)).ok_or_else(|| {
        Fault::new(format!("{text:?} is not a whole number from 1 to 16"), "write as many as there are cores to spare")
    })
}

/// What [`buffer_size`] reads, for whole KiB.
pub(super) fn size_text(bytes: usize) -> String {
    match bytes >> 10 {
        kib if kib.is_multiple_of(1 << 10) => format!("{}MiB", kib >> 10),
        kib => format!("{kib}KiB"),
    }
}

/// A name that is not empty.
pub(super) fn name(text: &str) -> Result<String, Fault> {
    if text.is_empty() {
        Err(Fault::new("the name is empty", "name one, or leave the setting out"))
    } else {
        Ok(text.to_owned())
    }
}

/// `allow` or `deny`.
pub(super) fn unregistered(text: &str) -> Result<Unregistered, Fault> {
    choice(text, [Unregistered::Allow, Unregistered::Deny], unregistered_text)
}

/// What [`unregistered`] reads.
pub(super) const fn unregistered_text(value: Unregistered) -> &'static str {
    match value {
        Unregistered::Allow => "allow",
        Unregistered::Deny => "deny",
    }
}

/// `newest` or `strict`.
pub(super) fn route_policy(text: &str) -> Result<RoutePolicy, Fault> {
    choice(text, [RoutePolicy::Newest, RoutePolicy::Strict], route_policy_text)
}

/// What [`route_policy`] reads.
pub(super) const fn route_policy_text(value: RoutePolicy) -> &'static str {
    match value {
        RoutePolicy::Newest => "newest",
        RoutePolicy::Strict => "strict",
    }
}

/// `accept` or `hold`.
pub(super) fn key_change(text: &str) -> Result<KeyChange, Fault> {
    choice(text, [KeyChange::Accept, KeyChange::Hold], key_change_text)
}

/// What [`key_change`] reads.
pub(super) const fn key_change_text(value: KeyChange) -> &'static str {
    match value {
        KeyChange::Accept => "accept",
        KeyChange::Hold => "hold",
    }
}

/// `follow` or `hold`.
pub(super) fn clock_step(text: &str) -> Result<ClockStep, Fault> {
    choice(text, [ClockStep::Follow, ClockStep::Hold], clock_step_text)
}

/// What [`clock_step`] reads.
pub(super) const fn clock_step_text(value: ClockStep) -> &'static str {
    match value {
        ClockStep::Follow => "follow",
        ClockStep::Hold => "hold",
    }
}

/// How long something is kept, with its unit.
pub(super) fn retention(text: &str) -> Result<Duration, Fault> {
    let kept = duration(text).ok().filter(|kept| RETENTIONS.contains(kept) && kept.subsec_nanos() == 0);
    kept.ok_or_else(|| {
        Fault::new(format!("{text:?} is not a time from 1m to 3650d"), "write a number with its unit, for example 30d")
    })
}

/// What [`retention`] reads, in its greatest unit that is whole.
pub(super) fn retention_text(kept: Duration) -> String {
    match kept.as_secs() {
        seconds if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        seconds if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        seconds if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

fn choice<T: Copy>(text: &str, choices: [T; 2], name: fn(T) -> &'static str) -> Result<T, Fault> {
    choices.into_iter().find(|choice| name(*choice) == text).ok_or_else(|| {
        let names = choices.map(name).join(" or ");
        Fault::new(format!("{text:?} is none of its values"), format!("write {names}"))
    })
}

/// What to log: a level, or levels by module.
pub(super) fn log_filter(text: &str) -> Result<String, Fault> {
    // The filter itself takes a misspelt level for the name of a module and would log nothing else.
    let meant = |part: &str| !part.is_empty() && (part.contains(['=', '[']) || part.parse::<LevelFilter>().is_ok());
    if text.split(',').all(|part| meant(part.trim())) && EnvFilter::try_new(text).is_ok() {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{text:?} is not a log filter"),
        "write error, warn, info, debug, trace or off, or levels by module such as info,lastroute=debug",
    ))
}

/// A 24-bit key id, as text.
pub(super) fn key_id(text: &str) -> Result<KeyId, Fault> {
    text.parse().map_err(|_| not_a_key_id())
}

/// A 24-bit key id, as a number.
pub(super) fn key_id_number(number: i128) -> Result<KeyId, Fault> {
    u32::try_from(number).ok().and_then(KeyId::new).ok_or_else(not_a_key_id)
}

/// The fault of anything that is no key id.
pub(super) fn not_a_key_id() -> Fault {
    Fault::new("not a 24-bit id", r#"write six hex digits in quotes, for example "000a17", or a number to 0xffffff"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_numeric_and_have_a_port() {
        assert_eq!(address("[::]:3001").unwrap().to_string(), "[::]:3001");
        assert_eq!(address("10.0.0.1:0").unwrap().port(), 0);
        for bad in ["", "3001", ":3001", "localhost:3001", "::1:3001x", "10.0.0.1", "10.0.0.1:65536"] {
            assert!(address(bad).is_err(), "{bad}");
        }
        assert_eq!(
            address("a\nb").unwrap_err().to_string(),
            "\"a\\nb\" is not an IP address and port; write for example 127.0.0.1:8080 or [::1]:8080 (no host names)"
        );
    }

    #[test]
    fn counts_are_digits_from_1() {
        assert_eq!((count("1"), count("4294967295")), (Ok(1), Ok(4_294_967_295)));
        for bad in ["", "0", "-1", "+1", "1.5", "1_000", "4294967296", " 1"] {
            assert!(count(bad).is_err(), "{bad}");
        }
        assert_eq!(
            count("0").unwrap_err().to_string(),
            "\"0\" is not a whole number from 1 to 4294967295; write digits alone, for example 100000"
        );
    }

    #[test]
    fn a_retention_is_whole_seconds_with_a_unit_and_is_told_in_its_greatest() {
        for text in ["1m", "61s", "90m", "36h", "30d", "3650d"] {
            assert_eq!(retention(text).map(retention_text).as_deref(), Ok(text));
        }
        assert_eq!(retention("1d 12h").map(retention_text).as_deref(), Ok("36h"));
        for bad in ["", "30", "59s", "3651d", "90500ms", "-1d"] {
            assert!(retention(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_carry_their_unit() {
        assert_eq!(buffer_size("4KiB"), Ok(4096));
        assert_eq!(buffer_size("64 MiB"), Ok(67_108_864));
        for text in ["4KiB", "1MiB", "1025KiB", "1023MiB"] {
            assert_eq!(buffer_size(text).map(size_text).as_deref(), Ok(text));
        }
        for bad in ["", "4096", "64MB", "64", "MiB", "0MiB", "1KiB", "1GiB", "1048576KiB", "4294967295GiB", "1.5MiB"] {
            assert!(buffer_size(bad).is_err(), "{bad}");
        }
        assert_eq!(
            buffer_size("64").unwrap_err().to_string(),
            "\"64\" is not a size from 4KiB to below 1GiB; write a whole number and KiB or MiB, for example 64MiB"
        );
    }

    #[test]
    fn a_choice_names_its_values() {
        assert_eq!(unregistered("deny"), Ok(Unregistered::Deny));
        assert_eq!(route_policy("strict"), Ok(RoutePolicy::Strict));
        assert_eq!(
            unregistered("Allow").unwrap_err().to_string(),
            "\"Allow\" is none of its values; write allow or deny"
        );
        assert_eq!(route_policy("").unwrap_err().to_string(), "\"\" is none of its values; write newest or strict");
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_module() {
        for good in ["info", "off", "warn,lastroute::ingest=debug", "lastroute[accept{device=1}]=trace"] {
            assert_eq!(log_filter(good).as_deref(), Ok(good));
        }
        for bad in ["", "inof", "info,lastroute", "lastroute=loud"] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn key_ids_are_texts_or_small_numbers() {
        let fleet = KeyId::new(0xa17);
        assert_eq!([key_id("000a17").ok(), key_id_number(0xa17).ok()], [fleet; 2]);
        assert_eq!(key_id("a17"), Err(not_a_key_id()));
        assert!(key_id_number(-1).is_err() && key_id_number(0x100_0000).is_err());
    }
}

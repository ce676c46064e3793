//! Numbers and times as people read them.

use std::time::Duration;

use crate::clock::Timestamp;

/// A count with its thousands apart: `1 234 567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A count in at most `room` characters: as [`count`] has it, without gaps, or rounded to three digits, as `1.84e19`. Where
/// not even that has room there is nothing: a piece of a number is another number.
pub(super) fn count_within(number: u64, room: usize) -> String {
    let forms = [count(number), number.to_string(), format!("{number:.2e}")];
    forms.into_iter().find(|form| form.len() <= room).unwrap_or_default()
}

/// A rate in at most `room` characters, as [`rate`] and [`count_within`] have it.
pub(super) fn rate_within(of: Option<f64>, room: usize) -> String {
    match of {
        Some(number) if number >= 9.95 => count_within(number.round() as u64, room),
        _ => Some(rate(of)).filter(|text| text.len() <= room).unwrap_or_default(),
    }
}

/// A rate: with a decimal below ten, where it tells something, else whole. `-` where there is none.
pub(super) fn rate(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(small) if small < 0.05 => "<0.1".to_owned(),
        Some(small) if small < 9.95 => format!("{small:.1}"),
        // Casts of floats saturate.
        Some(rate) => count(rate.round() as u64),
    }
}

/// A time that has passed, in its two greatest units.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h {minutes:02}m"),
        _ => format!("{days}d {hours:02}h"),
    }
}

/// The time from `then` to `now` of the same clock; `0s` if that was set back in between.
pub(super) fn since(then: Timestamp, now: Timestamp) -> String {
    span(Duration::from_millis(now.0.saturating_sub(then.0)))
}

/// A moment with its date, in UTC.
pub(super) fn date_and_time(time: Timestamp) -> String {
    utc(time, "%Y-%m-%d %H:%M:%S UTC")
}

/// A moment of these days, in UTC.
pub(super) fn time_of_day(time: Timestamp) -> String {
    utc(time, "%H:%M:%S UTC")
}

fn utc(time: Timestamp, format: &str) -> String {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(time.0).unwrap_or(i64::MAX));
    time.unwrap_or(jiff::Timestamp::MAX).strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let texts = [0, 999, 1000, 12_345, 1_234_567, u64::MAX].map(count);
        assert_eq!(texts, ["0", "999", "1 000", "12 345", "1 234 567", "18 446 744 073 709 551 615"]);
    }

    #[test]
    fn a_rate_has_as_many_digits_as_tell_something() {
        let texts = [Some(0.0), Some(0.01), Some(0.5), Some(9.94), Some(9.96), Some(1234.5), None].map(rate);
        assert_eq!(texts, ["0", "<0.1", "0.5", "9.9", "10", "1 235", "-"]);
    }

    #[test]
    fn a_number_without_room_is_rounded_or_left_out_and_never_cut() {
        let texts = [26, 25, 20, 19, 7, 6, 0].map(|room| count_within(u64::MAX, room));
        let whole = "18446744073709551615";
        assert_eq!(texts, ["18 446 744 073 709 551 615", whole, whole, "1.84e19", "1.84e19", "", ""]);
        assert_eq!([5, 4, 3].map(|room| count_within(1234, room)), ["1 234", "1234", ""]);
        assert_eq!([6, 5].map(|room| count_within(999_999, room)), ["999999", ""]);
        assert_eq!([7, 6].map(|room| count_within(9_999_999, room)), ["9999999", "1.00e7"]);
        assert_eq!([4, 3].map(|room| rate_within(Some(0.01), room)), ["<0.1", ""]);
        assert_eq!([5, 4, 3].map(|room| rate_within(Some(1234.5), room)), ["1 235", "1235", ""]);
        assert_eq!([1, 0].map(|room| rate_within(None, room)), ["-", ""]);
    }

    #[test]
    fn a_span_has_two_units() {
        let texts = [0, 59, 60, 3599, 3600, 86_399, 86_400, 864_000].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(texts, ["0s", "59s", "1m 00s", "59m 59s", "1h 00m", "23h 59m", "1d 00h", "10d 00h"]);
        assert_eq!(since(Timestamp(5000), Timestamp(4000)), "0s");
    }

    #[test]
    fn moments_are_in_utc() {
        let time = Timestamp(1_795_402_800_123);
        assert_eq!((date_and_time(time), time_of_day(time)), ("2026-11-23 03:00:00 UTC".into(), "03:00:00 UTC".into()));
        assert_eq!(date_and_time(Timestamp(u64::MAX)), "9999-12-30 22:00:00 UTC");
    }
}

//! Times that commands are given, as a person writes them.

use std::time::Duration;

/// Reads a duration with its unit, such as `500ms`, `1h 30m` or `90d`, whose days have 24 hours.
///
/// # Errors
/// Says what one looks like.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Option<jiff::Span> = text.parse().ok();
    parsed
        .and_then(|parsed| parsed.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok())
        .and_then(|parsed| Duration::try_from(parsed).ok())
        .ok_or_else(|| "a duration is a number with its unit, for example 500ms, 10s, 5m or 1h 30m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_units_and_is_not_negative() {
        let millis = |text: &str| duration(text).map(|duration| duration.as_millis());
        assert_eq!([millis("500ms"), millis("10s"), millis("1h 30m")], [Ok(500), Ok(10_000), Ok(5_400_000)]);
        assert_eq!([millis("90d"), millis("1d 12h")], [Ok(7_776_000_000), Ok(129_600_000)]);
        for wrong in ["", "10", "-1s", "1month", "soon"] {
            assert!(duration(wrong).unwrap_err().contains("for example 500ms"), "{wrong}");
        }
    }
}

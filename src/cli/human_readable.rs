//! Counts, sizes and dates as text for people. JSON output keeps the exact numbers.

use chrono::{DateTime, SecondsFormat};

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Returns a number with its noun: `1 video`, `2 videos`.
pub fn count(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

/// Returns a size in binary units, such as `512 B`, `1.5 MiB` or `230 GiB`.
pub fn bytes(bytes: u64) -> String {
    let mut size = bytes as f64;
    let mut unit = 0;
    // From 1023.5 the size would be printed as 1024; print it as 1.0 of the next unit instead.
    while size >= 1023.5 {
        size /= 1024.0;
        unit += 1;
    }
    // At most four digits: 99.9 MiB, then 100 MiB.
    let decimals = usize::from(unit > 0 && size < 99.95);
    format!("{size:.decimals$} {}", UNITS[unit])
}

/// Returns a Unix time as RFC 3339 in UTC: `2026-11-28T05:17:00Z`.
pub fn date(unix_secs: u64) -> String {
    rfc3339(i64::try_from(unix_secs).ok(), 0, SecondsFormat::Secs)
}

/// Returns a Unix time as RFC 3339 in UTC, with milliseconds.
pub fn date_with_millis(unix_seconds: f64) -> String {
    let nanos = (unix_seconds.fract() * 1e9) as u32;
    rfc3339(Some(unix_seconds as i64), nanos, SecondsFormat::Millis)
}

/// Formats a Unix time; a time outside chrono's range becomes `-`.
fn rfc3339(secs: Option<i64>, nanos: u32, format: SecondsFormat) -> String {
    let time = secs.and_then(|secs| DateTime::from_timestamp(secs, nanos));
    time.map_or_else(|| "-".into(), |time| time.to_rfc3339_opts(format, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_all_other_counts_are_plural() {
        assert_eq!([0, 1, 2].map(|n| count(n, "video")), ["0 videos", "1 video", "2 videos"]);
    }

    #[test]
    fn sizes_never_round_to_1024_of_a_unit() {
        let sizes =
            [0, 1, 1023, 1024, 1536, 10 << 10, 1_048_575, 1 << 20, 23_400_000_000, u64::MAX];
        let expected = [
            "0 B", "1 B", "1023 B", "1.0 KiB", "1.5 KiB", "10.0 KiB", "1.0 MiB", "1.0 MiB",
            "21.8 GiB", "16.0 EiB",
        ];
        assert_eq!(sizes.map(bytes), expected);
    }

    #[test]
    fn dates_are_rfc_3339() {
        assert_eq!(date(1_795_843_020), "2026-11-28T05:17:00Z");
        assert_eq!(date_with_millis(1_795_843_020.25), "2026-11-28T05:17:00.250Z");
        assert_eq!(date(u64::MAX), "-");
    }
}

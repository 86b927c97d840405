//! Numbers as people read them: sizes in binary units, moments as dates. JSON keeps the exact numbers.

use chrono::{DateTime, SecondsFormat};

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Returns a size such as `512 B`, `1.5 MiB` or `230 GiB`.
pub fn bytes(bytes: u64) -> String {
    let (mut size, mut unit) = (bytes as f64, 0);
    // What would be rounded to 1024 is one of the next unit.
    while size >= 1023.5 {
        size /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 0 && size < 99.95);
    format!("{size:.decimals$} {}", UNITS[unit])
}

/// Returns a moment as RFC 3339 in UTC: `2026-11-28T05:17:00Z`.
pub fn date(unix_secs: u64) -> String {
    moment(i64::try_from(unix_secs).ok(), 0, SecondsFormat::Secs)
}

/// Returns a moment as RFC 3339 in UTC, with milliseconds.
pub fn date_with_millis(unix_seconds: f64) -> String {
    moment(Some(unix_seconds as i64), (unix_seconds.fract() * 1e9) as u32, SecondsFormat::Millis)
}

fn moment(secs: Option<i64>, nanos: u32, format: SecondsFormat) -> String {
    let moment = secs.and_then(|secs| DateTime::from_timestamp(secs, nanos));
    moment.map_or_else(|| "-".into(), |moment| moment.to_rfc3339_opts(format, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_never_1024_of_a_unit() {
        let sizes =
            [0, 1, 1023, 1024, 1536, 10 << 10, 1_048_575, 1 << 20, 23_400_000_000, u64::MAX];
        let told = [
            "0 B", "1 B", "1023 B", "1.0 KiB", "1.5 KiB", "10.0 KiB", "1.0 MiB", "1.0 MiB",
            "21.8 GiB", "16.0 EiB",
        ];
        assert_eq!(sizes.map(bytes), told);
    }

    #[test]
    fn dates_are_rfc_3339() {
        assert_eq!(date(1_795_843_020), "2026-11-28T05:17:00Z");
        assert_eq!(date_with_millis(1_795_843_020.25), "2026-11-28T05:17:00.250Z");
        assert_eq!(date(u64::MAX), "-");
    }
}

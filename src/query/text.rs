//! Converts values to text: [`cell`] for a table, [`csv`] and [`json`].

use std::fmt::Write as _;
use std::io::Write as _;

use polars::prelude::AnyValue;

/// Number of list elements shown in a table.
const LIST_SHOWN: usize = 3;

/// Formats a value for a table.
pub(super) fn cell(value: &AnyValue) -> String {
    match value {
        AnyValue::Null => "-".to_owned(),
        AnyValue::Float32(number) => decimal(f64::from(*number)),
        AnyValue::Float64(number) => decimal(*number),
        AnyValue::Array(items, _) | AnyValue::List(items) => {
            let shown: Vec<String> =
                items.iter().take(LIST_SHOWN).map(|item| cell(&item)).collect();
            let rest = items.len().saturating_sub(LIST_SHOWN);
            let rest = if rest > 0 { format!(", +{rest}") } else { String::new() };
            format!("[{}{rest}]", shown.join(", "))
        }
        other => printable(&other.str_value()),
    }
}

/// Escapes control characters of the terminal: file names can contain anything.
pub(super) fn printable(text: &str) -> String {
    // Marks that reverse the text direction are not control characters.
    fn is_direction_mark(c: char) -> bool {
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_direction_mark(c) {
            write!(shown, "{}", c.escape_default()).expect("a string grows as needed")
        } else {
            shown.push(c)
        }
    }
    shown
}

/// Formats a number with six significant digits, in the shorter of the two notations.
fn decimal(number: f64) -> String {
    let magnitude = number.abs();
    if number == 0.0 || !number.is_finite() || (1e-4..1e9).contains(&magnitude) {
        let places =
            if magnitude >= 1.0 { 6 - magnitude.log10().floor().min(5.0) as usize } else { 7 };
        let text = format!("{number:.places$}");
        // Drop trailing zeros.
        return if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        };
    }
    format!("{number:.5e}")
}

/// Writes a line of CSV with this number of cells.
pub(super) fn line(out: &mut Vec<u8>, width: usize, mut cell: impl FnMut(&mut Vec<u8>, usize)) {
    for column in 0..width {
        if column > 0 {
            out.push(b',');
        }
        cell(out, column);
    }
    out.push(b'\n');
}

/// Writes a value as a CSV cell. Lists become JSON in quotes, because CSV has no lists.
pub(super) fn csv(out: &mut Vec<u8>, value: &AnyValue) {
    match value {
        AnyValue::Null => {}
        AnyValue::Array(..) | AnyValue::List(_) => {
            let mut text = Vec::new();
            json(&mut text, value);
            quoted(out, "", &text);
        }
        // CSV readers accept `inf` and `NaN`, unlike JSON readers.
        AnyValue::Float32(number) if !number.is_finite() => put(out, number),
        AnyValue::Float64(number) if !number.is_finite() => put(out, number),
        AnyValue::String(text) => csv_text(out, text),
        AnyValue::StringOwned(text) => csv_text(out, text),
        number if number.is_primitive_numeric() || number.is_boolean() => json(out, number),
        other => csv_text(out, &other.str_value()),
    }
}

/// Writes text as a CSV cell. Spreadsheets evaluate text that begins like a formula, so it gets an
/// apostrophe. They do not show it.
pub(super) fn csv_text(out: &mut Vec<u8>, text: &str) {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    // An empty text in quotes differs from a missing value.
    if is_formula || text.is_empty() || text.contains([',', '"', '\n', '\r']) {
        quoted(out, if is_formula { "'" } else { "" }, text.as_bytes());
    } else {
        out.extend_from_slice(text.as_bytes());
    }
}

/// Writes text in quotes, after the prefix `before`.
fn quoted(out: &mut Vec<u8>, before: &str, text: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(before.as_bytes());
    for byte in text {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

/// Writes a value as JSON. Numbers have all their digits; NaN and infinities become `null`.
pub(super) fn json(out: &mut Vec<u8>, value: &AnyValue) {
    match value {
        AnyValue::Array(items, _) | AnyValue::List(items) => {
            out.push(b'[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                json(out, &item);
            }
            out.push(b']');
        }
        AnyValue::Float32(number) if number.is_finite() => {
            write!(out, "{number:?}").expect("a vector grows as needed")
        }
        AnyValue::Float64(number) if number.is_finite() => {
            write!(out, "{number:?}").expect("a vector grows as needed")
        }
        AnyValue::Null | AnyValue::Float32(_) | AnyValue::Float64(_) => {
            out.extend_from_slice(b"null")
        }
        AnyValue::Int32(number) => put(out, number),
        AnyValue::Int64(number) => put(out, number),
        AnyValue::UInt32(number) => put(out, number),
        AnyValue::UInt64(number) => put(out, number),
        AnyValue::Boolean(_) => out.extend_from_slice(value.str_value().as_bytes()),
        number if number.is_integer() => out.extend_from_slice(number.str_value().as_bytes()),
        text => put(out, &serde_json::Value::from(text.str_value().as_ref())),
    }
}

fn put(out: &mut Vec<u8>, value: &dyn std::fmt::Display) {
    write!(out, "{value}").expect("a vector grows as needed");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv_of(value: &AnyValue) -> String {
        let mut out = Vec::new();
        csv(&mut out, value);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn terminal_control_characters_are_escaped() {
        for (text, shown) in [
            ("a\x1b[2Jb", "a\\u{1b}[2Jb"),
            ("a\nb\r\t\0", "a\\nb\\r\\t\\u{0}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("x\u{202e}gpj.exe", "x\\u{202e}gpj.exe"),
            ("böse \\ 名", "böse \\ 名"),
        ] {
            assert_eq!(cell(&AnyValue::String(text)), shown);
        }
    }

    #[test]
    fn csv_quotes_separators_and_disarms_formulas_in_text() {
        for (text, written) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("a \"b\"", "\"a \"\"b\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=1+1", "\"'=1+1\""),
            ("+x", "\"'+x\""),
            ("-x", "\"'-x\""),
            ("@x", "\"'@x\""),
            ("\t=x", "\"'\t=x\""),
            ("", "\"\""),
        ] {
            assert_eq!(csv_of(&AnyValue::String(text)), written);
        }
        assert_eq!(csv_of(&AnyValue::Int64(-1)), "-1");
        assert_eq!(csv_of(&AnyValue::Float64(-0.5)), "-0.5");
        assert_eq!(csv_of(&AnyValue::Float64(f64::INFINITY)), "inf");
        assert_eq!(csv_of(&AnyValue::Null), "");
    }
}

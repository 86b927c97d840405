//! The properties of latent actions, in numbers and one sentence each.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::Value;

use super::Source;
use super::html::escape;
use super::numbers::{Numbers, shown, table};
use super::page::figure;
use crate::dataset::{Column, Table};
use crate::stages::latent_quality::{LatentQuality, Property};

/// Returns the figure of a verdict's properties. `rows` is the table of the files called `sort`,
/// whose last row has them. Returns `None` if the verdict is of a version without them.
pub fn properties(verdict: &Value, source: &Source, sort: &str, rows: &Table) -> Option<String> {
    let properties = LatentQuality::deserialize(verdict).ok()?.properties();
    let last = |name: &str| rows.numbers(name)?.last().copied();
    let columns: Vec<(String, Column)> = properties
        .iter()
        .map(|property| Some((property.name.to_owned(), Column::F64(vec![last(property.name)?]))))
        .collect::<Option<_>>()?;
    let names: Vec<&str> = properties.iter().map(|property| property.name).collect();
    // A training's metrics have a row for each logged step, an evaluation's table a single row.
    let order = if sort == "metrics" { " ORDER BY step DESC LIMIT 1" } else { "" };
    let sql = format!("SELECT {} FROM {}{order}", names.join(", "), table(source, sort));
    let mut body = String::from("<div class=\"wide\"><table>\n");
    for Property { name, value, sentence } in &properties {
        let value = value.map_or_else(|| "-".to_owned(), shown);
        let (name, sentence) = (escape(name), escape(sentence));
        _ = writeln!(body, "<tr><td>{name}</td><td>{value}</td><td>{sentence}</td></tr>");
    }
    body += "</table></div>\n";
    Some(figure(&body, "Properties of latent actions", &[Numbers { sql, columns }]))
}

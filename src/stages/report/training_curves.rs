//! Training curves of the dynamics model and the policy: one chart for each metric.

use super::latent_properties::properties;
use super::numbers::{Numbers, table};
use super::page::{Section, figure, grid, legend, paragraph};
use super::plots::{Axes, Line, lines};
use super::{Inputs, Source};
use crate::dataset::{Column, Table, read_table};
use crate::stages::Error;

/// A chart: its heading and its columns.
type Chart = (&'static str, &'static [&'static str]);

const DYNAMICS: [Chart; 7] = [
    ("Loss", &["loss"]),
    ("FDM error, 1 = copying o[t]", &["fdm_error_relative", "held_out_error_relative"]),
    ("Information: shuffled error over error", &["information_used"]),
    ("Share of an unrelated frame that is rebuilt", &["splice_rebuilt", "transfer_rebuilt"]),
    ("True actions predicted by a probe", &["probe_linear", "probe_mlp"]),
    ("Perplexity of codes", &["perplexity_0", "perplexity_1", "perplexity_2", "perplexity_3"]),
    ("Gradient norm", &["grad_norm"]),
];
const POLICY: [Chart; 2] = [
    ("Squared error of latent actions, batch and held-out", &["loss", "held_out_error"]),
    ("Gradient norm", &["grad_norm"]),
];

/// Makes the section with training curves.
pub fn section(inputs: &Inputs) -> Result<Option<Section>, Error> {
    let mut html = String::new();
    for (field, heading, charts) in
        [("dynamics", "Dynamics model", &DYNAMICS[..]), ("policy", "Latent policy", &POLICY[..])]
    {
        let Some(source) = inputs.of(field) else { continue };
        let Some(path) = source.paths("metrics.parquet").pop() else { continue };
        let metrics = read_table(inputs.ctx.store, &path)?;
        let figures = charts
            .iter()
            .map(|chart| curve(source, &metrics, chart))
            .collect::<Result<Vec<_>, _>>()?;
        let verdict = verdict(inputs, source)?;
        let sentence = verdict["sentence"].as_str();
        html += &format!(
            "<h3>{heading}</h3>\n{}{}{}",
            sentence.map(|text| paragraph(&format!("Result: {text}."))).unwrap_or_default(),
            grid(&figures.into_iter().flatten().collect::<Vec<_>>()),
            properties(&verdict, source, "metrics", &metrics).unwrap_or_default()
        );
    }
    Ok((!html.is_empty()).then(|| Section::new("Training", html)))
}

/// Returns the verdict, or null if there is none.
fn verdict(inputs: &Inputs, source: &Source) -> Result<serde_json::Value, Error> {
    let path = source.paths("verdict.json").pop();
    path.map_or(Ok(serde_json::Value::Null), |path| inputs.json(&path))
}

/// Draws a chart of the columns the metrics have.
fn curve(
    source: &Source,
    metrics: &Table,
    (heading, columns): &Chart,
) -> Result<Option<String>, Error> {
    let mut curves = Vec::new();
    let mut numbers = Vec::new();
    for column in *columns {
        let Some((points, rows)) = measured(source, metrics, column) else { continue };
        // An undefined metric has no points.
        if points.is_empty() {
            continue;
        }
        curves.push(Line::new(column, points));
        numbers.push(rows);
    }
    if curves.is_empty() {
        return Ok(None);
    }
    let chart = lines(&Axes::new("step", ""), &curves)?;
    let named = if columns.len() > 1 { legend(&Line::legend(&curves)) } else { String::new() };
    Ok(Some(figure(&(chart + &named), heading, &numbers)))
}

/// Returns a metric with its steps, and the query for it.
pub fn measured(
    source: &Source,
    metrics: &Table,
    column: &str,
) -> Option<(Vec<(f64, f64)>, Numbers)> {
    let steps = metrics.numbers("step")?;
    let values = metrics.numbers(column)?;
    let points: Vec<(f64, f64)> =
        steps.iter().zip(&values).filter_map(|(step, value)| Some(((*step)?, (*value)?))).collect();
    let numbers = Numbers::new(
        format!(
            "SELECT step, {column} FROM {} WHERE {column} IS NOT NULL ORDER BY step",
            table(source, "metrics")
        ),
        [
            ("step", Column::U64(points.iter().map(|(step, _)| *step as u64).collect())),
            (column, Column::F64(points.iter().map(|(_, value)| Some(*value)).collect())),
        ],
    );
    Some((points, numbers))
}

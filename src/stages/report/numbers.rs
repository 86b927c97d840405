//! The numbers behind a figure: a query, and the rows it returns.

use std::fmt::Write;

use super::Source;
use super::html::escape;
use crate::dataset::{Column, table_sort};

/// The largest number of rows in a table on the page.
const SHOWN: usize = 12;

/// The data of a figure.
pub struct Numbers {
    /// The query that returns exactly these rows, in this order.
    pub sql: String,
    /// The columns, by their names in the query.
    pub columns: Vec<(String, Column)>,
}

impl Numbers {
    /// Creates the numbers from a query and its columns, which must have equal lengths.
    pub fn new<const N: usize>(sql: String, columns: [(&str, Column); N]) -> Self {
        Numbers {
            sql,
            columns: columns.into_iter().map(|(name, column)| (name.to_owned(), column)).collect(),
        }
    }

    fn rows(&self) -> usize {
        self.columns.first().map_or(0, |(_, column)| column.len())
    }

    /// Returns the query, and its first rows in folded form.
    pub fn html(&self) -> String {
        let rows = self.rows();
        let more =
            if rows > SHOWN { format!(", the first {SHOWN} of them") } else { String::new() };
        let mut html = format!("<pre class=\"sql\">{}</pre>\n", escape(&command(&self.sql)));
        let plural = if rows == 1 { "" } else { "s" };
        let _ = write!(
            html,
            "<details data-rows=\"{rows}\"><summary>{rows} row{plural}{more}</summary><table><tr>"
        );
        for (name, _) in &self.columns {
            _ = write!(html, "<th>{}</th>", escape(name));
        }
        html += "</tr>";
        for row in 0..rows.min(SHOWN) {
            html += "\n<tr>";
            for (_, column) in &self.columns {
                _ = write!(html, "<td>{}</td>", escape(&cell(column, row)));
            }
            html += "</tr>";
        }
        html + "</table></details>\n"
    }
}

/// Returns the shell command that runs a query.
pub fn command(sql: &str) -> String {
    // Within double quotes, a shell expands these four characters.
    let quoted: String = sql
        .chars()
        .flat_map(|c| if "\"\\$`".contains(c) { vec!['\\', c] } else { vec![c] })
        .collect();
    format!("lapo query \"{quoted}\"")
}

fn cell(column: &Column, row: usize) -> String {
    match column {
        Column::F64(values) => values[row].map_or("-".into(), shown),
        Column::I64(values) => values[row].to_string(),
        Column::U64(values) => values[row].to_string(),
        Column::Bits(values) => values[row].cast_signed().to_string(),
        Column::U32(values) => values[row].to_string(),
        Column::F32(values) => shown(values[row].into()),
        Column::Text(values) => values[row].clone(),
        Column::Names(rows, names) => names[rows[row] as usize].clone(),
        Column::F32Rows(values, width) => values[row * width..][..*width]
            .iter()
            .map(|v| shown(f64::from(*v)))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

/// Returns a number for reading: an integer, or four significant digits.
pub fn shown(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e15 {
        return format!("{value:.0}");
    }
    // The digits after the point that make four significant ones.
    let digits = (3.0 - value.abs().log10().floor()).clamp(0.0, 12.0) as usize;
    format!("{value:.digits$}")
}

/// Reserved words of SQL that are likely names of stages.
const WORDS: [&str; 24] = [
    "all", "and", "as", "by", "case", "end", "from", "full", "group", "in", "is", "join", "left",
    "limit", "not", "on", "or", "order", "right", "select", "table", "union", "values", "with",
];

/// Returns a name for use in SQL, quoted if necessary.
pub fn name(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let first = name.chars().next().is_some_and(|c| c.is_ascii_lowercase());
    if plain && first && !WORDS.contains(&name) { name.to_owned() } else { format!("\"{name}\"") }
}

/// Returns the SQL table of a stage's Parquet files of one sort, such as `metrics`. As in
/// `query::catalog`, the first sort has the stage's own name, unless the stage has shards.
pub fn table(source: &Source, sort: &str) -> String {
    let shards = source.files.iter().any(|file| file.path.ends_with(".arrow"));
    let is_first =
        source.files.iter().filter_map(|file| table_sort(&file.path)).all(|other| sort <= other);
    if is_first && !shards {
        name(&source.stage)
    } else {
        name(&format!("{}_{sort}", source.stage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::FileInfo;

    #[test]
    fn tables_have_the_same_names_as_in_a_query() {
        let file =
            |path: &str| FileInfo { path: path.into(), bytes: 0, rows: 0, blake3: String::new() };
        let source = |stage: &str, files: &[&str]| Source {
            stage: stage.into(),
            kind: String::new(),
            settings: serde_json::Map::new(),
            tasks: vec![],
            stats: Default::default(),
            files: files.iter().map(|path| file(path)).collect(),
            rejects: vec![],
        };
        assert_eq!(
            table(&source("play", &["a/shard.arrow", "a/actions.parquet"]), "actions"),
            "play_actions"
        );
        assert_eq!(
            table(&source("model", &["a/model.safetensors", "a/metrics.parquet"]), "metrics"),
            "model"
        );
        assert_eq!(
            table(&source("my-report", &["a/map.parquet", "a/pairs.parquet"]), "pairs"),
            "\"my-report_pairs\""
        );
        assert_eq!(name("order"), "\"order\"");
    }

    #[test]
    fn a_page_shows_the_command_and_a_limited_number_of_rows() {
        let sql = "SELECT \"a\" FROM t WHERE b < 'x'".to_owned();
        let html = Numbers::new(
            sql,
            [("a", Column::F64((0..30).map(|i| Some(f64::from(i) / 8.0)).collect()))],
        )
        .html();
        assert!(
            html.contains(
                "lapo query &quot;SELECT \\&quot;a\\&quot; FROM t WHERE b &lt; &#39;x&#39;&quot;"
            ),
            "{html}"
        );
        assert!(
            html.contains("data-rows=\"30\"") && html.matches("<td>").count() == SHOWN,
            "{html}"
        );
    }

    #[test]
    fn four_digits_are_shown() {
        assert_eq!(
            [0.000_123_456, 0.5, 12.345_67, 41_234.56, 7.0].map(shown),
            ["0.0001235", "0.5000", "12.35", "41235", "7"]
        );
    }
}

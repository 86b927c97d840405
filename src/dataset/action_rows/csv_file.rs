//! True actions in CSV files.

use std::fs::File;

use csv::StringRecord;

use super::ActionRows;
use crate::dataset::schema;

/// The columns of a file, by position.
struct CsvColumns {
    names: StringRecord,
    video: usize,
    frame_index: usize,
    reward: Option<usize>,
    /// `action`, or `action_0`, `action_1` and so on.
    action: Vec<usize>,
    /// Whether the actions are in `action_0`, `action_1` and so on.
    has_axes: bool,
}

impl CsvColumns {
    fn find(names: StringRecord) -> Result<Self, String> {
        let find = |name: &str| names.iter().position(|column| column == name);
        let require = |name: &str| find(name).ok_or_else(|| format!("it has no column `{name}`"));
        let axes: Vec<usize> =
            // Axes count from 0 without gaps.
            (0..).map_while(|axis| find(&format!("{}_{axis}", schema::ACTION))).collect();
        Ok(Self {
            video: require(schema::VIDEO)?,
            frame_index: require(schema::FRAME_INDEX)?,
            reward: find(schema::REWARD),
            has_axes: !axes.is_empty(),
            action: if axes.is_empty() { vec![require(schema::ACTION)?] } else { axes },
            names,
        })
    }

    /// Returns an error about one value.
    fn invalid(&self, line: usize, column: usize, seen: &str) -> String {
        format!("line {line}: `{}` is `{seen}`", &self.names[column])
    }
}

impl ActionRows {
    /// Adds the rows of a CSV file.
    pub(super) fn add_csv(&mut self, file: File) -> Result<(), String> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
        let names = reader.headers().map_err(|cause| cause.to_string())?.clone();
        let columns = CsvColumns::find(names)?;
        // Kept as text until all are read: one fraction makes every action continuous.
        let mut numbers: Vec<String> = Vec::new();
        for (row, record) in reader.records().enumerate() {
            let record = record.map_err(|cause| cause.to_string())?;
            // Lines count from 1, and the first one has the column names.
            let line = row + 2;
            self.add_csv_row(&columns, &record, line)?;
            for &column in &columns.action {
                let number: f64 = record[column]
                    .parse()
                    .map_err(|_| columns.invalid(line, column, &record[column]))?;
                if !number.is_finite() {
                    return Err(columns.invalid(line, column, &record[column]));
                }
                numbers.push(record[column].to_owned());
            }
        }
        let discrete: Result<Vec<u32>, _> = numbers.iter().map(|number| number.parse()).collect();
        match discrete {
            // Whole numbers in a column `action` are discrete. In `action_0` they are continuous.
            Ok(discrete) if !columns.has_axes => self.discrete = discrete,
            _ => {
                self.axes = columns.action.len();
                self.is_scalar = !columns.has_axes;
                self.continuous = numbers.iter().filter_map(|number| number.parse().ok()).collect();
            }
        }
        Ok(())
    }

    /// Adds all but the action of one row.
    fn add_csv_row(
        &mut self,
        columns: &CsvColumns,
        record: &StringRecord,
        line: usize,
    ) -> Result<(), String> {
        self.video.push(record[columns.video].to_owned());
        let frame_index = &record[columns.frame_index];
        self.frame_index.push(
            whole_number(frame_index)
                .ok_or_else(|| columns.invalid(line, columns.frame_index, frame_index))?,
        );
        let reward = columns.reward.map(|column| (column, &record[column]));
        let reward = reward.filter(|(_, text)| !text.is_empty());
        self.reward.push(
            reward
                .map(|(column, text)| text.parse().map_err(|_| columns.invalid(line, column, text)))
                .transpose()?,
        );
        Ok(())
    }
}

/// Parses a whole number, possibly written as a float.
fn whole_number(text: &str) -> Option<u32> {
    let from_float = || {
        let number: f64 = text.parse().ok()?;
        let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
        is_whole.then_some(number as u32)
    };
    text.parse().ok().or_else(from_float)
}

//! Columns of true actions in Parquet files.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type};

/// Returns a column, if it has no missing values.
pub(super) fn complete_column<'a>(
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a ArrayRef, String> {
    let column = batch.column_by_name(name).ok_or_else(|| format!("it has no column `{name}`"))?;
    if column.null_count() == 0 {
        Ok(column)
    } else {
        Err(format!("column `{name}` has missing values"))
    }
}

/// Returns the number of axes of a continuous action; 0 for a column of discrete actions.
pub(super) fn axes_of(column: &ArrayRef) -> usize {
    match column.data_type() {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => 1,
        DataType::List(_) => {
            // The first list decides. `vectors` rejects rows of another length.
            column.as_list::<i32>().iter().flatten().next().map_or(1, |first| first.len())
        }
        DataType::FixedSizeList(_, length) => usize::try_from(*length).unwrap_or(1),
        _ => 0,
    }
}

/// Returns the numbers of continuous actions or states, `axes` a row.
pub(super) fn vectors(name: &str, column: &ArrayRef, axes: usize) -> Result<Vec<f32>, String> {
    let rows: Vec<ArrayRef> = match column.data_type() {
        DataType::List(_) => column.as_list::<i32>().iter().flatten().collect(),
        DataType::FixedSizeList(..) => column.as_fixed_size_list().iter().flatten().collect(),
        // A column of plain numbers: each row is a list of one.
        _ => (0..column.len()).map(|row| column.slice(row, 1)).collect(),
    };
    let mut numbers = Vec::with_capacity(rows.len() * axes);
    for row in rows {
        if row.len() != axes || row.null_count() > 0 {
            return Err(format!(
                "column `{name}` has {} numbers in a row, expected {axes}",
                row.len() - row.null_count()
            ));
        }
        let row = cast(&row, &DataType::Float32)
            .map_err(|_| format!("column `{name}` does not hold numbers"))?;
        numbers.extend_from_slice(row.as_primitive::<Float32Type>().values());
    }
    match numbers.iter().find(|number| !number.is_finite()) {
        Some(number) => Err(format!("column `{name}` holds {number}, expected finite numbers")),
        None => Ok(numbers),
    }
}

/// Returns the values of an integer column, or of a float column with only whole numbers.
pub(super) fn whole_numbers(name: &str, column: &ArrayRef) -> Result<Vec<u32>, String> {
    if column.data_type().is_floating() {
        // Nothing is lost: f64 holds every f32 and f16.
        let wide = cast(column, &DataType::Float64).map_err(|cause| cause.to_string())?;
        let is_whole =
            |number: &&f64| number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(*number);
        let numbers = wide.as_primitive::<Float64Type>().values();
        return match numbers.iter().find(|number| !is_whole(number)) {
            Some(odd) => Err(format!("column `{name}` holds {odd}, expected whole numbers from 0")),
            None => Ok(numbers.iter().map(|number| *number as u32).collect()),
        };
    }
    if !column.data_type().is_integer() {
        return Err(format!("column `{name}` holds {}, not whole numbers", column.data_type()));
    }
    let wide = cast(column, &DataType::Int64).map_err(|cause| cause.to_string())?;
    let numbers = wide.as_primitive::<Int64Type>().values().iter();
    numbers
        .map(|number| {
            u32::try_from(*number)
                .map_err(|_| format!("column `{name}` holds {number}, expected 0 or more"))
        })
        .collect()
}

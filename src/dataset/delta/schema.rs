//! Delta schemas (`schemaString`) of Parquet files. Start at [`of_file`].

use arrow::datatypes::{DataType, Schema, TimeUnit};
use serde_json::{Value, json};

use crate::dataset::error::{Error, Result};
use crate::dataset::store::Store;
use crate::dataset::table_reader::open_parquet;

/// Returns the schema of a table without columns. A table without files has this schema.
pub(super) fn empty() -> String {
    of_columns(vec![])
}

/// Returns the schema of a Parquet file.
///
/// # Errors
/// Fails if the file's footer cannot be read, and for a column of a type unknown to the protocol.
pub(super) fn of_file(store: &Store, path: &str) -> Result<String> {
    let parquet = open_parquet(store, path)?;
    of_schema(parquet.schema()).map_err(|reason| Error::Corrupt { path: path.to_owned(), reason })
}

fn of_schema(schema: &Schema) -> Result<String, String> {
    let column = |field: &std::sync::Arc<arrow::datatypes::Field>| {
        let kind = kind(field.data_type())
            .ok_or_else(|| format!("column `{}` holds {}", field.name(), field.data_type()))?;
        // Every column is nullable: a column may have nulls in one version and none in the next.
        Ok(json!({"name": field.name(), "type": kind, "nullable": true, "metadata": {}}))
    };
    Ok(of_columns(schema.fields().iter().map(column).collect::<Result<Vec<_>, String>>()?))
}

fn of_columns(columns: Vec<Value>) -> String {
    json!({"type": "struct", "fields": columns}).to_string()
}

/// Returns the protocol's name of a type, if it has one. Unsigned integers have none.
fn kind(data_type: &DataType) -> Option<Value> {
    Some(match data_type {
        DataType::Boolean => json!("boolean"),
        DataType::Int8 => json!("byte"),
        DataType::Int16 => json!("short"),
        DataType::Int32 => json!("integer"),
        DataType::Int64 => json!("long"),
        DataType::Float32 => json!("float"),
        DataType::Float64 => json!("double"),
        DataType::Utf8 => json!("string"),
        DataType::Binary => json!("binary"),
        DataType::Date32 => json!("date"),
        // Delta timestamps are in UTC and microseconds.
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => json!("timestamp"),
        DataType::List(item) => {
            json!({"type": "array", "elementType": kind(item.data_type())?, "containsNull": true})
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::dataset::schema::{FrameSize, labels, shard};

    #[test]
    fn labels_have_a_schema_and_shards_have_none() {
        let schema: Value = serde_json::from_str(&of_schema(&labels()).unwrap()).unwrap();
        let types: Vec<String> = schema["fields"]
            .as_array()
            .unwrap()
            .iter()
            .map(|field| field["type"].to_string())
            .collect();
        let list = |of: &str| {
            format!("{{\"type\":\"array\",\"elementType\":\"{of}\",\"containsNull\":true}}")
        };
        let names = [
            "string", "string", "integer", "long", "double", "integer", "", "", "float", "float",
            "integer", "string", "long",
        ];
        let mut expected = names.map(|name| format!("\"{name}\""));
        (expected[6], expected[7]) = (list("float"), list("integer"));
        assert_eq!(types, expected);
        assert!(
            of_schema(&shard(FrameSize { height: 1, width: 1 })).unwrap_err().contains("`video`")
        );
    }
}

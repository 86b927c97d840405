//! The fields of a task's key, as stored in its receipt. Start at [`Fields::sharing`].
//!
//! Receipts read together share equal fields, so a million receipts take little memory.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// Fields by name, in order, possibly shared with other receipts.
#[derive(Clone, Default)]
pub struct Fields {
    /// All names, with the values of the first receipt.
    shared: Arc<Map<String, Value>>,
    /// Values different from the shared ones, with the position of their name, ascending.
    own: Box<[(usize, Value)]>,
}

impl Fields {
    /// Returns the same fields, now sharing equal values with `other`. Both must have the same
    /// names in the same order; otherwise nothing is shared.
    #[must_use]
    pub fn sharing(self, other: &Fields) -> Self {
        if !self.own.is_empty()
            || self.shared.len() != other.shared.len()
            || !self.keys().eq(other.keys())
        {
            return self;
        }
        let mut own = Vec::new();
        let values = Arc::unwrap_or_clone(self.shared).into_iter().map(|(_, value)| value);
        for (position, (value, shared)) in values.zip(other.shared.values()).enumerate() {
            // Most tasks of a stage differ in one or two fields.
            if !is_same(&value, shared) {
                own.push((position, value));
            }
        }
        Self { own: own.into(), shared: other.shared.clone() }
    }

    /// Returns the value of a field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Returns names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        let mut own = self.own.iter().peekable();
        self.shared.iter().enumerate().map(move |(position, (name, shared))| {
            match own.next_if(|(next, _)| *next == position) {
                Some((_, value)) => (name, value),
                None => (name, shared),
            }
        })
    }

    /// Returns the names, in order.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.shared.keys()
    }

    /// Returns the shared fields, and the names of the fields with other values here.
    pub fn shared(&self) -> (&Arc<Map<String, Value>>, impl Iterator<Item = &str>) {
        let names = self.own.iter().filter_map(|(at, _)| self.shared.keys().nth(*at));
        (&self.shared, names.map(String::as_str))
    }
}

/// Returns whether two values have the same JSON text. 0.0 and -0.0 differ, and so do objects with
/// another order of keys.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            // `==` holds for 0.0 and -0.0, but their texts differ.
            one == other && (!one.is_f64() || one.to_string() == other.to_string())
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| one.0 == other.0 && is_same(one.1, other.1))
        }
        _ => one == other,
    }
}

impl From<Map<String, Value>> for Fields {
    fn from(fields: Map<String, Value>) -> Self {
        Self { shared: Arc::new(fields), own: Box::default() }
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Map::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn map(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn sharing_never_changes_the_json_of_fields() {
        let texts = [
            r#"{"stage":"decode","size":64,"cut":0.0,"fit":{"a":1,"b":2},"videos":["x"]}"#,
            r#"{"stage":"decode","size":64,"cut":-0.0,"fit":{"a":1,"b":2},"videos":["y","z"]}"#,
            r#"{"stage":"decode","size":64,"cut":0,"fit":{"b":2,"a":1},"videos":[]}"#,
            r#"{"stage":"label","size":32,"cut":null,"fit":0,"videos":[0.0]}"#,
            r#"{"size":64,"stage":"decode","cut":0.0,"fit":{"a":1,"b":2},"videos":["x"]}"#,
            r#"{"stage":"decode","size":64}"#,
            "{}",
        ];
        for first in texts {
            let first = Fields::from(map(first));
            for text in texts {
                let fields = Fields::from(map(text)).sharing(&first);
                assert_eq!(serde_json::to_string(&fields).unwrap(), text);
                assert_eq!(fields, map(text).into());
                assert!(
                    map(text).iter().all(|(name, value)| fields.get(name) == Some(value))
                        && fields.get("none").is_none()
                );
                assert!(fields.keys().eq(map(text).keys()));
            }
        }
        let [one, other] = [0, 1].map(|at| Fields::from(map(texts[at])));
        let shared = Fields::from(map(texts[1])).sharing(&one);
        assert!(
            Arc::ptr_eq(shared.shared().0, one.shared().0)
                && shared.shared().1.eq(["cut", "videos"])
        );
        assert!(
            !Arc::ptr_eq(other.shared().0, one.shared().0) && other.shared().1.next().is_none()
        );
    }
}

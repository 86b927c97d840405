//! The measurements of `lapo bench` as JSON and as a table.

use serde_json::json;

use crate::models::Device;

/// One measurement.
pub(super) struct Row {
    pub(super) what: String,
    /// Units per second.
    pub(super) speed: f64,
    pub(super) unit: &'static str,
    /// Floating-point operations per unit; 0 if they are not counted.
    pub(super) operations: u64,
}

impl Row {
    /// Returns the speed as a share of a plain matrix product's, in operations per second.
    fn share(&self, bound: f64) -> Option<f64> {
        (self.operations > 0).then(|| self.speed * self.operations as f64 / bound)
    }
}

/// Returns the rows and their bound as JSON.
pub(super) fn json(rows: &[Row], bound: f64, device: &Device, threads: usize) -> String {
    let row = |row: &Row| {
        json!({
            "what": row.what,
            "speed": row.speed,
            "unit": row.unit,
            "operations_per_unit": row.operations,
            "share": row.share(bound),
        })
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    json!({
        "device": device.to_string(),
        "threads": threads,
        "matrix_product_gflops": bound / 1e9,
        "rows": rows,
    })
    .to_string()
}

/// Returns the rows and their bound as a table.
pub(super) fn table(rows: &[Row], bound: f64, machine: &str) -> String {
    let mut text = format!("{machine}: a plain matrix product does {:.0} GFLOP/s\n", bound / 1e9);
    text += &format!("{:<56} {:>12} {:<14} {:>12} {:>7}", "what", "speed", "", "GFLOP/s", "share");
    for row in rows {
        let share =
            row.share(bound).map_or_else(String::new, |share| format!("{:.0}%", share * 100.0));
        let flops = if row.operations > 0 {
            format!("{:.1}", row.speed * row.operations as f64 / 1e9)
        } else {
            String::new()
        };
        text += &format!(
            "\n{:<56} {:>12.1} {:<14} {flops:>12} {share:>7}",
            row.what, row.speed, row.unit
        );
    }
    text
}

//! The devices that a command computes on, and what the user should know about them.

use super::stderr;
use crate::error::Result;
use crate::models::Device;

/// Parses devices separated by commas, such as `auto` or `cuda:0,cuda:1`. Passes notes to `note`:
/// why `auto` takes no better device, and that a first run compiles kernels.
pub fn parse_devices(text: &str, note: impl Fn(&str)) -> Result<Vec<Device>> {
    let devices: Vec<Device> =
        text.split(',').map(str::parse).collect::<crate::models::Result<_, _>>()?;
    if text.split(',').any(|name| name == "auto") {
        Device::auto_note().iter().for_each(|text| note(text));
    }
    devices.iter().find_map(|device| device.first_run_note()).iter().for_each(|text| note(text));
    Ok(devices)
}

/// Prints a note to stderr.
pub fn print_note(text: &str) {
    stderr::line(format!("note: {text}"));
}

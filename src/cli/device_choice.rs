//! The devices that a command computes on, and what the user should know about them.

use super::stderr;
use crate::error::Result;
use crate::models::Device;

/// Parses devices separated by commas, such as `auto` or `cuda:0,cuda:1`. Passes notes to `note`:
/// why `auto` takes no better device, and that a first run compiles kernels.
///
/// `local_id` is the number of this process among those of its machine: for `auto`, each takes
/// another GPU.
pub fn parse_devices(
    text: &str,
    local_id: Option<&str>,
    note: impl Fn(&str),
) -> Result<Vec<Device>> {
    let local_id = local_id.and_then(|id| id.parse().ok()).unwrap_or(0);
    let parse = |name: &str| match name {
        "auto" => Ok(Device::auto_of(local_id)),
        name => name.parse(),
    };
    let devices: Vec<Device> =
        text.split(',').map(parse).collect::<crate::models::Result<_, _>>()?;
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

//! The device of the tests of networks: `LAPO_TEST_DEVICE`, such as `vulkan:0`, or the CPU.

use lapo::models::Device;

/// Returns the device under test. Panics if it is not usable.
pub fn test_device() -> Device {
    std::env::var("LAPO_TEST_DEVICE")
        .map_or(Device::Cpu, |name| name.parse().unwrap_or_else(|error| panic!("{error}")))
}

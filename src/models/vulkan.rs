//! The Vulkan devices of this machine, listed before burn opens one: burn would panic if it cannot.

use std::sync::OnceLock;

use burn_wgpu::WgpuDevice;
use burn_wgpu::graphics::{AutoGraphicsApi, GraphicsApi};
use wgpu::{Backends, DeviceType, Instance, InstanceDescriptor};

use super::libraries::library_exists;

/// A Vulkan device.
#[derive(Debug)]
pub struct Adapter {
    /// The device in terms of burn.
    pub device: WgpuDevice,
    /// The name that its driver reports.
    pub name: String,
    /// Whether the CPU computes everything, as in Mesa's lavapipe.
    pub is_software: bool,
}

/// Returns why the Vulkan device with this index is not usable, if it is not.
pub fn problem(number: usize) -> Option<String> {
    let adapters = adapters();
    if number < adapters.len() {
        return None;
    }
    let names: Vec<_> = adapters
        .iter()
        .enumerate()
        .map(|(index, adapter)| format!("vulkan:{index} ({})", adapter.name))
        .collect();
    Some(if !names.is_empty() {
        format!("this machine has {}", names.join(", "))
    } else if cfg!(target_os = "linux") && !library_exists("libvulkan.so") {
        "the Vulkan loader (libvulkan.so.1) is not installed; \
         install it (Debian: `apt install libvulkan1`) or use `cpu`"
            .to_owned()
    } else {
        "no driver offers a Vulkan device; install the GPU's driver \
         (AMD and Intel on Debian: `apt install mesa-vulkan-drivers`) or use `cpu`"
            .to_owned()
    })
}

/// Returns all Vulkan devices: discrete GPUs, integrated GPUs, virtual GPUs, software. The list is
/// read once per process.
pub fn adapters() -> &'static [Adapter] {
    static ADAPTERS: OnceLock<Vec<Adapter>> = OnceLock::new();
    ADAPTERS.get_or_init(list)
}

fn list() -> Vec<Adapter> {
    let backends = Backends::from(AutoGraphicsApi::backend());
    let instance = Instance::new(InstanceDescriptor {
        backends,
        ..InstanceDescriptor::new_without_display_handle()
    });
    let found: Vec<_> = cubecl::future::block_on(instance.enumerate_adapters(backends))
        .iter()
        .map(wgpu::Adapter::get_info)
        .collect();
    let of_type = |device_type: DeviceType, device: fn(usize) -> WgpuDevice| {
        let same = found.iter().filter(move |info| info.device_type == device_type);
        same.enumerate().map(move |(index, info)| Adapter {
            device: device(index),
            name: info.name.clone(),
            is_software: device_type == DeviceType::Cpu,
        })
    };
    // burn counts the devices of each type from 0, and knows one software device.
    of_type(DeviceType::DiscreteGpu, WgpuDevice::DiscreteGpu)
        .chain(of_type(DeviceType::IntegratedGpu, WgpuDevice::IntegratedGpu))
        .chain(of_type(DeviceType::VirtualGpu, WgpuDevice::VirtualGpu))
        .chain(of_type(DeviceType::Cpu, |_| WgpuDevice::Cpu).take(1))
        .collect()
}

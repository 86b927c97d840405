//! The Vulkan devices of this machine, listed before burn opens one: burn would panic if it cannot.

use std::sync::OnceLock;

use burn_wgpu::WgpuDevice;
use burn_wgpu::graphics::{AutoGraphicsApi, GraphicsApi};
use wgpu::{Backends, DeviceType, Instance, InstanceDescriptor};

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

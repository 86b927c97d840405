//! The GPU backends and their setup.
//!
//! Kernels are compiled and autotuned on the machine itself. Both results go to the user's cache
//! directory, so only the first run on a machine pays for them.

use std::path::{Path, PathBuf};
use std::sync::Once;

use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// burn's backend for NVIDIA GPUs. It queues and fuses operations and compiles them at run time.
#[cfg(feature = "cuda")]
pub type Cuda = burn_cuda::Cuda;

/// burn's backend for all GPUs with a Vulkan driver. It queues and fuses operations and compiles
/// them at run time.
#[cfg(feature = "vulkan")]
pub type Vulkan = burn_wgpu::Vulkan;

/// Returns the NVIDIA GPU with this index.
#[cfg(feature = "cuda")]
pub fn cuda(number: usize) -> burn_cuda::CudaDevice {
    keep_kernels();
    burn_cuda::CudaDevice::new(number)
}

/// Returns the Vulkan device with this index.
///
/// # Panics
/// If there is no such device. [`super::Device::check`] reports that as an error.
#[cfg(feature = "vulkan")]
pub fn vulkan(number: usize) -> burn_wgpu::WgpuDevice {
    keep_kernels();
    super::vulkan::adapters()[number].device.clone()
}

/// Makes the backends keep compiled and tuned kernels in the user's cache directory.
fn keep_kernels() {
    static CONFIGURED: Once = Once::new();
    // The runtime accepts a configuration only once per process.
    CONFIGURED.call_once(|| {
        let mut config = CubeClRuntimeConfig::default();
        config.autotune.cache = CacheConfig::File(cache_folder());
        // The runtime names a compiled kernel by its type, so those of another version of lapo
        // would be taken for ours.
        let kernels = cache_folder().join("kernels").join(kernels_digest());
        config.compilation.cache = Some(CacheConfig::File(kernels));
        CubeClRuntimeConfig::set(config.override_from_env());
    });
}

/// Returns a digest of the sources of lapo's kernels (FNV-1a).
fn kernels_digest() -> String {
    let bytes = crate::conv::cube::sources::SOURCES.iter().flat_map(|source| source.bytes());
    let digest = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| {
        (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{digest:016x}")
}

/// Returns whether the user's cache directory has tuned matrix products or convolutions. The check
/// of a device tunes neither.
pub fn has_tuned_kernels() -> bool {
    let is_tuned = |name: &str| name.contains("matmul") || name.contains("conv");
    let names = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    // autotune/VERSION/DEVICE/FILE
    let devices = names(&cache_folder().join("autotune")).into_iter().flat_map(|v| names(&v));
    devices
        .flat_map(|device| names(&device))
        .any(|file| file.file_name().is_some_and(|name| is_tuned(&name.to_string_lossy())))
}

/// Returns `lapo` in the user's cache directory.
pub fn cache_folder() -> PathBuf {
    let folder =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || folder("HOME").map(|home| home.join(".cache"));
    folder("XDG_CACHE_HOME").or_else(home).unwrap_or_else(std::env::temp_dir).join("lapo")
}

//! The GPU backend and how it is set up: a device's number goes in, the device comes out.
//!
//! Kernels are compiled and chosen by trial on the machine they run on. Both are kept in the user's cache folder, so that only the first
//! run on a machine pays for it.

use std::path::PathBuf;
use std::sync::Once;

use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// burn's backend for NVIDIA GPUs: operations are queued, fused and compiled at run time.
pub type Gpu = burn_cuda::Cuda;

/// The GPU of this number.
pub fn gpu(number: usize) -> burn_cuda::CudaDevice {
    static CONFIGURED: Once = Once::new();
    CONFIGURED.call_once(|| {
        let mut config = CubeClRuntimeConfig::default();
        let folder = CacheConfig::File(cache_folder());
        config.autotune.cache = folder.clone();
        config.compilation.cache = Some(folder);
        CubeClRuntimeConfig::set(config.override_from_env());
    });
    burn_cuda::CudaDevice::new(number)
}

/// `lapo` in the user's cache folder.
fn cache_folder() -> PathBuf {
    let folder =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || folder("HOME").map(|home| home.join(".cache"));
    folder("XDG_CACHE_HOME").or_else(home).unwrap_or_else(std::env::temp_dir).join("lapo")
}

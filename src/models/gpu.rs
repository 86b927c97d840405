//! The GPU backend and its setup.
//!
//! Kernels are compiled and autotuned on the machine itself. Both results go to the user's cache
//! directory, so only the first run on a machine pays for them.

use std::path::PathBuf;
use std::sync::Once;

use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// burn's backend for NVIDIA GPUs. It queues and fuses operations and compiles them at run time.
pub type Gpu = burn_cuda::Cuda;

/// Returns the GPU with this index.
pub fn gpu(number: usize) -> burn_cuda::CudaDevice {
    static CONFIGURED: Once = Once::new();
    // The runtime accepts a configuration only once per process.
    CONFIGURED.call_once(|| {
        let mut config = CubeClRuntimeConfig::default();
        let folder = CacheConfig::File(cache_folder());
        config.autotune.cache = folder.clone();
        config.compilation.cache = Some(folder);
        CubeClRuntimeConfig::set(config.override_from_env());
    });
    burn_cuda::CudaDevice::new(number)
}

/// Returns `lapo` in the user's cache directory.
fn cache_folder() -> PathBuf {
    let folder =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || folder("HOME").map(|home| home.join(".cache"));
    folder("XDG_CACHE_HOME").or_else(home).unwrap_or_else(std::env::temp_dir).join("lapo")
}

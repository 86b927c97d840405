//! The compute device: parses `auto`, `cpu` or `cuda:N` and checks that the device is usable.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{ModelError, Result};

/// A device for computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// All cores of this machine.
    Cpu,
    /// The NVIDIA GPU with this index.
    Cuda(usize),
}

/// Inputs per pass and core on a CPU. Few, so that activations stay in the cache.
pub const CPU_PASS: usize = 16;
/// Inputs per pass on a GPU. Many, to keep all of it busy.
const GPU_PASS: usize = 1024;

/// Evaluates an expression on a device: `on_device!(device, B, at => ...)`. In the expression, `B`
/// is the backend of the device and `at` is the device in terms of that backend. The device must
/// have passed [`Device::check`]. All types that hide their device behind a trait are created with
/// this macro.
#[macro_export]
macro_rules! on_device {
    ($device:expr, $backend:ident, $at:ident => $made:expr) => {
        match $device {
            $crate::Device::Cpu => {
                type $backend = burn::backend::Flex;
                let $at = Default::default();
                $made
            }
            #[cfg(feature = "cuda")]
            $crate::Device::Cuda(number) => {
                type $backend = $crate::gpu::Gpu;
                let $at = $crate::gpu::gpu(*number);
                $made
            }
            #[cfg(not(feature = "cuda"))]
            $crate::Device::Cuda(_) => {
                unreachable!("a build without GPU support has no GPU that passes the check")
            }
        }
    };
}
pub use on_device;

impl Device {
    /// Returns the number of inputs per pass.
    pub fn pass(self) -> usize {
        match self {
            Device::Cpu => CPU_PASS,
            Device::Cuda(_) => GPU_PASS,
        }
    }

    /// Runs `work`, which calls the networks many times. On a CPU it runs on a thread of the pool,
    /// so that this thread takes part in the work and is not woken for every layer.
    pub fn run<R: Send>(self, work: impl FnOnce() -> R + Send) -> R {
        match self {
            Device::Cpu => rayon::scope(|_| work()),
            Device::Cuda(_) => work(),
        }
    }

    /// Returns the first GPU if it is usable, otherwise the CPU.
    pub fn auto() -> Device {
        let gpu = Device::Cuda(0);
        if gpu.check().is_ok() { gpu } else { Device::Cpu }
    }

    /// Checks that the device is usable. The GPU libraries are searched here, because a failure to
    /// load them later would abort the program.
    pub fn check(self) -> Result<()> {
        let Device::Cuda(_) = self else { return Ok(()) };
        let problem = if cfg!(not(feature = "cuda")) {
            "this build has no GPU support; build with `--features cuda`"
        } else if !library_exists("libcuda.so") {
            "the NVIDIA driver (libcuda.so) is not installed; use `cpu`"
        } else if !library_exists("libnvrtc.so") {
            "the CUDA compiler (libnvrtc.so) was not found; \
             install the CUDA toolkit or set CUDA_PATH"
        } else {
            return Ok(());
        };
        Err(ModelError::Device { device: self.to_string(), problem: problem.to_owned() })
    }
}

impl FromStr for Device {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Device> {
        let device = match (text, text.strip_prefix("cuda:").map(str::parse)) {
            ("auto", _) => Device::auto(),
            ("cpu", _) => Device::Cpu,
            ("cuda", _) => Device::Cuda(0),
            (_, Some(Ok(number))) => Device::Cuda(number),
            _ => {
                let problem = "expected `auto`, `cpu`, `cuda` or `cuda:N`".to_owned();
                return Err(ModelError::Device { device: text.to_owned(), problem });
            }
        };
        device.check()?;
        Ok(device)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// Searches the places of the dynamic linker for a library, without loading it.
fn library_exists(name: &str) -> bool {
    // The linker's cache lists file names as plain text.
    let cached = std::fs::read("/etc/ld.so.cache")
        .is_ok_and(|cache| cache.windows(name.len()).any(|bytes| bytes == name.as_bytes()));
    cached || library_folders().iter().any(|folder| contains(folder, name))
}

fn library_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("LD_LIBRARY_PATH")
        .iter()
        .flat_map(|paths| std::env::split_paths(paths).collect::<Vec<_>>())
        .collect();
    let toolkit = std::env::var_os("CUDA_PATH")
        .map_or_else(|| PathBuf::from("/usr/local/cuda"), PathBuf::from);
    folders.extend([toolkit.join("lib64"), toolkit.join("lib")]);
    folders.extend(
        [
            "/usr/lib64",
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/usr/lib/wsl/lib",
        ]
        .map(PathBuf::from),
    );
    folders
}

fn contains(folder: &Path, name: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_for_an_unknown_device_lists_the_valid_ones() {
        let message = "gpu".parse::<Device>().expect_err("gpu is no device").to_string();
        assert_eq!(message, "cannot use device `gpu`: expected `auto`, `cpu`, `cuda` or `cuda:N`");
        assert_eq!("cpu".parse::<Device>().expect("every machine has a CPU"), Device::Cpu);
        assert!("cuda:x".parse::<Device>().is_err());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_gpu_support_reports_it() {
        assert_eq!(Device::auto(), Device::Cpu);
        assert!(
            "cuda:1"
                .parse::<Device>()
                .expect_err("no GPU support")
                .to_string()
                .contains("--features cuda")
        );
    }
}

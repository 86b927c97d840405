//! Where tensors live: `auto`, `cpu` or `cuda:N` goes in, a device that can be used comes out.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{ModelError, Result};

/// A device this build can compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// All cores of this machine.
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
}

/// Inputs that a core takes through the networks at a time: few, so that what lies between two layers stays in its cache.
pub const CPU_PASS: usize = 16;
/// Inputs that a GPU takes at a time: many, so that all of it is busy.
const GPU_PASS: usize = 1024;

/// Computes an expression on a device that passed its check: `on_device!(device, B, at => ...)`, where `B` is the device's backend and
/// `at` the device as the backend knows it. Every network that hides its device behind a trait is made by this.
macro_rules! on_device {
    ($device:expr, $backend:ident, $at:ident => $made:expr) => {
        match $device {
            $crate::models::Device::Cpu => {
                type $backend = burn::backend::Flex;
                let $at = Default::default();
                $made
            }
            #[cfg(feature = "cuda")]
            $crate::models::Device::Cuda(number) => {
                type $backend = $crate::models::gpu::Gpu;
                let $at = $crate::models::gpu::gpu(*number);
                $made
            }
            #[cfg(not(feature = "cuda"))]
            $crate::models::Device::Cuda(_) => {
                unreachable!("a build without GPU support has no GPU that passes the check")
            }
        }
    };
}
pub(crate) use on_device;

impl Device {
    /// Inputs that go through the networks at a time.
    pub fn pass(self) -> usize {
        match self {
            Device::Cpu => CPU_PASS,
            Device::Cuda(_) => GPU_PASS,
        }
    }

    /// Runs what calls the networks many times: on a CPU, on a thread of the pool, so that it takes part in the work and is not woken for
    /// every layer.
    pub fn run<R: Send>(self, work: impl FnOnce() -> R + Send) -> R {
        match self {
            Device::Cpu => rayon::scope(|_| work()),
            Device::Cuda(_) => work(),
        }
    }

    /// The first GPU if this build and this machine have one, else the CPU.
    pub fn auto() -> Device {
        let gpu = Device::Cuda(0);
        if gpu.check().is_ok() { gpu } else { Device::Cpu }
    }

    /// Says why the device cannot be had. The GPU's libraries are looked for here because loading them later ends the program.
    pub fn check(self) -> Result<()> {
        let Device::Cuda(_) = self else { return Ok(()) };
        let problem = if cfg!(not(feature = "cuda")) {
            "this build has no GPU support; build it with `--features cuda`"
        } else if !library_exists("libcuda.so") {
            "there is no NVIDIA driver (libcuda.so) on this machine; use `cpu`"
        } else if !library_exists("libnvrtc.so") {
            "CUDA's compiler (libnvrtc.so) was not found; install CUDA's toolkit or point CUDA_PATH at it"
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

/// Looks where the dynamic linker would, without loading anything.
fn library_exists(name: &str) -> bool {
    let cached = std::fs::read("/etc/ld.so.cache")
        .is_ok_and(|cache| cache.windows(name.len()).any(|bytes| bytes == name.as_bytes()));
    cached || library_folders().iter().any(|folder| holds(folder, name))
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

fn holds(folder: &Path, name: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_says_what_is_known() {
        let message = "gpu".parse::<Device>().expect_err("gpu is no device").to_string();
        assert_eq!(message, "use device `gpu`: expected `auto`, `cpu`, `cuda` or `cuda:N`");
        assert_eq!("cpu".parse::<Device>().expect("every machine has a CPU"), Device::Cpu);
        assert!("cuda:x".parse::<Device>().is_err());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_gpu_support_says_so() {
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

//! The compute device: parses `auto`, `cpu`, `cuda:N` or `vulkan:N` and checks that the device is usable.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

use super::weights::to_host;
use super::{ModelError, Precision, Result};

/// A device for computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// All cores of this machine.
    Cpu,
    /// The NVIDIA GPU with this index.
    Cuda(usize),
    /// The device with this index among all with a Vulkan driver: discrete GPUs come first, then
    /// integrated and virtual ones, then software.
    Vulkan(usize),
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
                type $backend = $crate::gpu::Cuda;
                let $at = $crate::gpu::cuda(*number);
                $made
            }
            #[cfg(feature = "vulkan")]
            $crate::Device::Vulkan(number) => {
                type $backend = $crate::gpu::Vulkan;
                let $at = $crate::gpu::vulkan(*number);
                $made
            }
            #[cfg(not(all(feature = "cuda", feature = "vulkan")))]
            gpu => unreachable!("{gpu} is not part of this build, so it never passes the check"),
        }
    };
}
pub use on_device;

impl Device {
    /// Returns the class: `cpu`, `cuda` or `vulkan`. Results of two classes differ by rounding.
    pub fn class(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Vulkan(_) => "vulkan",
        }
    }

    /// Returns the number of inputs per pass.
    pub fn pass(self) -> usize {
        match self {
            Device::Cpu => CPU_PASS,
            Device::Cuda(_) | Device::Vulkan(_) => GPU_PASS,
        }
    }

    /// Runs `work`, which calls the networks many times. On a CPU it runs on a thread of the pool,
    /// so that this thread takes part in the work and is not woken for every layer.
    pub fn run<R: Send>(self, work: impl FnOnce() -> R + Send) -> R {
        match self {
            Device::Cpu => rayon::scope(|_| work()),
            Device::Cuda(_) | Device::Vulkan(_) => work(),
        }
    }

    /// Returns whether trainings read values from the device as rarely as they can. On a GPU a
    /// read waits until all queued work is done, and the GPU is idle until more is queued.
    pub fn reads_late(self) -> bool {
        match self {
            Device::Cpu => false,
            Device::Cuda(_) | Device::Vulkan(_) => true,
        }
    }

    /// Returns the first usable device of these: an NVIDIA GPU with CUDA, a GPU with Vulkan, the
    /// CPU. Software that implements Vulkan on the CPU is slower than the CPU backend, so it does
    /// not count.
    pub fn auto() -> Device {
        let is_usable = |gpu: &Device| gpu.check().is_ok() && !gpu.is_software();
        [Device::Cuda(0), Device::Vulkan(0)].into_iter().find(is_usable).unwrap_or(Device::Cpu)
    }

    /// Checks that the device is usable. Libraries and devices are searched here, because the
    /// backends panic if they miss one; then the device computes something. Each device is checked
    /// once per process.
    pub fn check(self) -> Result<()> {
        static CHECKED: Mutex<BTreeMap<Device, Option<String>>> = Mutex::new(BTreeMap::new());
        let found = match self {
            Device::Cpu => None,
            Device::Cuda(_) => cuda_problem(),
            Device::Vulkan(number) => vulkan_problem(number),
        };
        let problem = if self == Device::Cpu || found.is_some() {
            found
        } else {
            let mut checked = CHECKED.lock().unwrap_or_else(PoisonError::into_inner);
            checked.entry(self).or_insert_with(|| self.trial_problem()).clone()
        };
        problem.map_or(Ok(()), |problem| Err(self.error(problem)))
    }

    /// Checks that the device is usable and computes in this precision.
    pub fn check_precision(self, precision: Precision) -> Result<()> {
        self.check()?;
        // Every device computes in f32, and the CPU in both.
        if self == Device::Cpu || precision == Precision::F32 {
            return Ok(());
        }
        let dtype = DType::from(precision.dtype());
        if on_device!(&self, B, at => <B as Backend>::supports_dtype(&at, dtype)) {
            return Ok(());
        }
        Err(self.error("it does not compute in bf16; set `precision: f32`".to_owned()))
    }

    /// Computes one sum. Returns why that failed, if it did.
    fn trial_problem(self) -> Option<String> {
        // The backends panic if they cannot open a device or compile for it.
        let trial = catch_unwind(AssertUnwindSafe(
            || on_device!(&self, B, at => to_host(Tensor::<B, 1>::ones([2], &at).sum())),
        ));
        match trial {
            Ok(Ok(sum)) if sum == [2.0] => None,
            Ok(Ok(sum)) => Some(format!("a first computation gave {sum:?}, expected [2.0]")),
            Ok(Err(error)) => Some(format!("a first computation failed: {error}")),
            Err(_) => Some("its driver could not open it; update the driver or use `cpu`".into()),
        }
    }

    fn error(self, problem: String) -> ModelError {
        ModelError::Device { device: self.to_string(), problem }
    }

    /// Returns the name that the device's driver reports, if the device can be asked.
    pub fn name(self) -> Option<String> {
        match self {
            #[cfg(feature = "vulkan")]
            Device::Vulkan(number) => {
                super::vulkan::adapters().get(number).map(|adapter| adapter.name.clone())
            }
            _ => None,
        }
    }

    /// Returns whether this is a Vulkan device that computes everything on the CPU.
    fn is_software(self) -> bool {
        match self {
            #[cfg(feature = "vulkan")]
            Device::Vulkan(number) => {
                super::vulkan::adapters().get(number).is_some_and(|adapter| adapter.is_software)
            }
            _ => false,
        }
    }
}

/// Returns why CUDA is not usable, if it is not.
fn cuda_problem() -> Option<String> {
    let problem = if cfg!(not(feature = "cuda")) {
        "this build does not support CUDA; build with `--features cuda`"
    } else if !library_exists("libcuda.so") {
        "the NVIDIA driver (libcuda.so) is not installed; use `cpu`"
    } else if !library_exists("libnvrtc.so") {
        "the CUDA compiler (libnvrtc.so) was not found; install the CUDA toolkit or set CUDA_PATH"
    } else {
        return None;
    };
    Some(problem.to_owned())
}

#[cfg(not(feature = "vulkan"))]
fn vulkan_problem(_: usize) -> Option<String> {
    Some("this build does not support Vulkan; build with `--features vulkan`".to_owned())
}

/// Returns why the Vulkan device with this index is not usable, if it is not.
#[cfg(feature = "vulkan")]
fn vulkan_problem(number: usize) -> Option<String> {
    let adapters = super::vulkan::adapters();
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

impl FromStr for Device {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Device> {
        // `cuda` alone is the first one.
        let (kind, number) = text.split_once(':').unwrap_or((text, "0"));
        let device = match (kind, number.parse()) {
            _ if text == "auto" => Device::auto(),
            _ if text == "cpu" => Device::Cpu,
            ("cuda", Ok(number)) => Device::Cuda(number),
            ("vulkan", Ok(number)) => Device::Vulkan(number),
            _ => {
                let problem = "expected `auto`, `cpu`, `cuda:N` or `vulkan:N`".to_owned();
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
            Device::Cpu => f.write_str(self.class()),
            Device::Cuda(number) | Device::Vulkan(number) => write!(f, "{}:{number}", self.class()),
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

/// Returns the device that `LAPO_TEST_DEVICE` names, or the CPU.
#[cfg(test)]
pub fn device_under_test() -> Device {
    std::env::var("LAPO_TEST_DEVICE")
        .map_or(Device::Cpu, |name| name.parse().unwrap_or_else(|error| panic!("{error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_for_an_unknown_device_lists_the_valid_ones() {
        let message = "gpu".parse::<Device>().expect_err("gpu is no device").to_string();
        assert_eq!(
            message,
            "cannot use device `gpu`: expected `auto`, `cpu`, `cuda:N` or `vulkan:N`"
        );
        assert_eq!("cpu".parse::<Device>().expect("every machine has a CPU"), Device::Cpu);
        for unknown in ["cuda:x", "vulkan:", "cpu:0", "auto:0"] {
            assert!(unknown.parse::<Device>().is_err(), "{unknown}");
        }
    }

    fn error(device: &str) -> String {
        device.parse::<Device>().expect_err("this device is not usable").to_string()
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_reports_it() {
        assert!(error("cuda:1").contains("--features cuda"), "{}", error("cuda:1"));
    }

    #[cfg(not(feature = "vulkan"))]
    #[test]
    fn a_build_without_vulkan_reports_it() {
        assert!(error("vulkan:1").contains("--features vulkan"), "{}", error("vulkan:1"));
    }

    #[cfg(not(any(feature = "cuda", feature = "vulkan")))]
    #[test]
    fn a_build_without_gpu_support_computes_on_the_cpu() {
        assert_eq!(Device::auto(), Device::Cpu);
    }

    #[cfg(feature = "vulkan")]
    #[test]
    fn a_vulkan_device_that_does_not_exist_is_an_error_with_a_hint() {
        let message = error("vulkan:99");
        assert!(message.starts_with("cannot use device `vulkan:99`: "), "{message}");
        let hint = ["this machine has vulkan:0 (", "install", "driver"];
        assert!(hint.iter().any(|hint| message.contains(hint)), "{message}");
    }

    #[cfg(feature = "vulkan")]
    #[test]
    fn software_is_usable_but_never_chosen_by_auto() {
        assert!(!Device::auto().is_software());
        let device = Device::Vulkan(0);
        if device.is_software() {
            device.check().expect("lavapipe computes");
            let error = device.check_precision(Precision::Bf16).expect_err("it has no bf16");
            assert_eq!(
                error.to_string(),
                "cannot use device `vulkan:0`: it does not compute in bf16; set `precision: f32`"
            );
        }
    }
}

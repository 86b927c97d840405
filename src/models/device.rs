//! The compute device: parses `auto`, `cpu`, `cuda:N` or `vulkan:N` and checks that the device is usable.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::backend::{Backend, DeviceOps};
use burn::tensor::{DType, Tensor};

#[cfg(feature = "cuda")]
use super::cuda_driver::problem as cuda_problem;
use super::gpu_failure::GpuFailure;
#[cfg(feature = "vulkan")]
use super::vulkan::problem as vulkan_problem;
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
/// The GPUs that `auto` takes, the best first.
const AUTO_GPUS: [Device; 2] = [Device::Cuda(0), Device::Vulkan(0)];

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
        AUTO_GPUS.into_iter().find(|gpu| gpu.auto_problem().is_none()).unwrap_or(Device::Cpu)
    }

    /// Returns the device of process number `local_id` of this machine: like [`Device::auto`], but
    /// each process takes another NVIDIA GPU, as long as there are more.
    pub fn auto_of(local_id: usize) -> Device {
        match Device::auto() {
            Device::Cuda(_) => {
                let count = (0..).take_while(|at| Device::Cuda(*at).problem().is_none()).count();
                Device::Cuda(local_id % count.max(1))
            }
            other => other,
        }
    }

    /// Returns what `auto` takes and why it takes no better device, if that is news: a build
    /// without GPU support on a machine without an NVIDIA driver has none.
    pub fn auto_note() -> Option<String> {
        let auto = Device::auto();
        let is_news = |gpu: &Device| match gpu {
            Device::Cpu => false,
            Device::Cuda(_) if Path::new("/proc/driver/nvidia").exists() => true,
            Device::Cuda(_) => cfg!(feature = "cuda") && auto == Device::Cpu,
            Device::Vulkan(_) => cfg!(feature = "vulkan") && auto == Device::Cpu,
        };
        let better = AUTO_GPUS.into_iter().take_while(|gpu| *gpu != auto).filter(is_news);
        let reasons: Vec<String> =
            better.filter_map(|gpu| Some(format!("{gpu}: {}", gpu.auto_problem()?))).collect();
        let name = if auto == Device::Cpu { "the CPU".to_owned() } else { auto.to_string() };
        (!reasons.is_empty()).then(|| format!("computes on {name}: {}", reasons.join("; ")))
    }

    /// Returns why `auto` does not take this device.
    fn auto_problem(self) -> Option<String> {
        let software = || self.is_software().then(|| "software, slower than `cpu`".to_owned());
        self.problem().or_else(software)
    }

    /// Checks that the device is usable. Libraries and devices are searched here, because the
    /// backends panic if they miss one; then the device computes something. Each device is checked
    /// once per process, and again after it has failed during work.
    pub fn check(self) -> Result<()> {
        self.problem().map_or(Ok(()), |problem| Err(self.error(problem)))
    }

    /// Returns why the device is not usable, if it is not.
    fn problem(self) -> Option<String> {
        let probe = || match self {
            Device::Cpu => None,
            Device::Cuda(number) => cuda_problem(number),
            Device::Vulkan(number) => vulkan_problem(number),
        };
        if self == Device::Cpu {
            return None;
        }
        checked().entry(self).or_insert_with(|| probe().or_else(|| self.trial_problem())).clone()
    }

    /// Frees memory after a failure, and computes a trial. If that fails, the device is not usable
    /// for the rest of this process.
    pub(crate) fn recover(self, failure: &GpuFailure) {
        // A lost device may fail here as well.
        let _freed = catch_unwind(AssertUnwindSafe(
            || on_device!(&self, B, at => <B as Backend>::memory_cleanup(&at)),
        ));
        let problem = self.trial_problem().map(|_| format!("it {failure}, earlier in this run"));
        checked().insert(self, problem);
    }

    /// Returns the end of the names of the threads that drive this GPU.
    pub(crate) fn threads(self) -> Option<String> {
        self.check().ok()?;
        let id = on_device!(&self, B, at => {
            let at: <B as burn::tensor::backend::BackendTypes>::Device = at;
            at.id()
        });
        Some(format!("-{}-{}", id.type_id, id.index_id))
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

    /// Returns that kernels for this device are compiled and tuned in this run, if they are.
    pub fn first_run_note(self) -> Option<String> {
        #[cfg(any(feature = "cuda", feature = "vulkan"))]
        if self != Device::Cpu && !super::gpu::has_tuned_kernels() {
            let folder = super::gpu::cache_folder();
            return Some(format!(
                "the first run on a GPU of this machine compiles and tunes kernels, which takes \
                 minutes; they are kept in {}",
                folder.display()
            ));
        }
        None
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
            Err(_) => Some(match super::gpu_failure::newest_text() {
                Some(text) => format!("a first computation failed: {text}"),
                None => "its driver could not open it; update the driver or use `cpu`".to_owned(),
            }),
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
    pub fn is_software(self) -> bool {
        match self {
            #[cfg(feature = "vulkan")]
            Device::Vulkan(number) => {
                super::vulkan::adapters().get(number).is_some_and(|adapter| adapter.is_software)
            }
            _ => false,
        }
    }
}

/// What the checks of this process have found: the problem of each device, if it has one.
fn checked() -> MutexGuard<'static, BTreeMap<Device, Option<String>>> {
    static CHECKED: Mutex<BTreeMap<Device, Option<String>>> = Mutex::new(BTreeMap::new());
    CHECKED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(not(feature = "cuda"))]
fn cuda_problem(_: usize) -> Option<String> {
    Some("this build does not support CUDA; build with `--features cuda`".to_owned())
}

#[cfg(not(feature = "vulkan"))]
fn vulkan_problem(_: usize) -> Option<String> {
    Some("this build does not support Vulkan; build with `--features vulkan`".to_owned())
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

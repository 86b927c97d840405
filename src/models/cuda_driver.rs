//! Whether this machine can use CUDA: driver, GPUs, compiler and headers, each asked before use,
//! because burn panics if one is missing.

use std::panic::catch_unwind;
use std::path::PathBuf;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::CUresult;

use super::libraries::{contains, library_exists, library_folders};

/// Returns why the NVIDIA GPU with this index is not usable, if it is not.
pub fn problem(number: usize) -> Option<String> {
    driver_problem(number).or_else(compiler_problem).or_else(headers_problem)
}

fn driver_problem(number: usize) -> Option<String> {
    if !library_exists("libcuda.so") {
        return Some("the NVIDIA driver (libcuda.so) is not installed; use `cpu`".to_owned());
    }
    // A library that cannot be opened, or lacks a function, is a panic of cudarc.
    let count = catch_unwind(|| {
        result::init()?;
        result::device::get_count()
    });
    let count = match count {
        Ok(Ok(count)) => usize::try_from(count).unwrap_or(0),
        Ok(Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE))) => 0,
        Ok(Err(DriverError(code))) => {
            return Some(format!(
                "the NVIDIA driver does not start ({code:?}); check it with `nvidia-smi`, \
                 or use `cpu`"
            ));
        }
        Err(_) => {
            return Some(
                "the NVIDIA driver (libcuda.so) was found, but cannot be loaded; \
                 install it again, or use `cpu`"
                    .to_owned(),
            );
        }
    };
    match count {
        0 => Some(
            "the NVIDIA driver finds no GPU, as on a login node; check with `nvidia-smi`, \
             or use `cpu`"
                .to_owned(),
        ),
        1 if number > 0 => Some("this machine has 1 NVIDIA GPU, cuda:0".to_owned()),
        count if number >= count => {
            Some(format!("this machine has {count} NVIDIA GPUs, cuda:0 to cuda:{}", count - 1))
        }
        _ => None,
    }
}

/// Returns why kernels cannot be compiled, if they cannot.
fn compiler_problem() -> Option<String> {
    let is_usable = || catch_unwind(|| cudarc::nvrtc::result::create_program(c"", None).is_ok());
    if library_exists("libnvrtc.so") && matches!(is_usable(), Ok(true)) {
        return None;
    }
    let folder = library_folders().into_iter().find(|folder| contains(folder, "libnvrtc.so"));
    Some(match folder {
        Some(folder) => format!(
            "the CUDA compiler (libnvrtc.so) in {0} cannot be loaded; add {0} to LD_LIBRARY_PATH, \
             or install the version of CUDA that the driver supports",
            folder.display()
        ),
        None => "the CUDA compiler (libnvrtc.so) was not found; install the CUDA toolkit and add \
                 its folder of libraries to LD_LIBRARY_PATH"
            .to_owned(),
    })
}

/// Returns which headers are missing, if some are. Every kernel includes them.
fn headers_problem() -> Option<String> {
    let header = "cuda_runtime.h";
    let Some(toolkit) = toolkit() else {
        return Some(format!(
            "the headers of CUDA ({header}) were not found; install the CUDA toolkit, \
             or set CUDA_PATH to its folder"
        ));
    };
    let folder = toolkit.join("include");
    (!folder.join(header).exists()).then(|| {
        format!(
            "{} has no {header}; install the headers of CUDA there, \
             or set CUDA_PATH to the folder of the CUDA toolkit",
            folder.display()
        )
    })
}

/// Returns the folder of the CUDA toolkit, searched as burn searches it.
fn toolkit() -> Option<PathBuf> {
    if let Ok(path) = std::env::var("CUDA_PATH") {
        return Some(PathBuf::from(path));
    }
    [("/usr/local/cuda", "/usr/local/cuda"), ("/opt/cuda", "/opt/cuda"), ("/usr/bin/nvcc", "/usr")]
        .into_iter()
        .find(|(found, _)| PathBuf::from(found).exists())
        .map(|(_, toolkit)| PathBuf::from(toolkit))
}

//! Larger stacks for the threads of libraries.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// The variable with the stack size of threads, which the standard library reads once per process.
const VARIABLE: &str = "RUST_MIN_STACK";
/// Enough for the compiler of GPU kernels. It recurses deeply, in a thread that burn starts with
/// the default of 2 MiB, and overflows it if it was built without optimisation.
const BYTES: &str = "16777216";

/// Replaces the process by one whose threads have larger stacks, unless the user chose a size. The
/// process goes on if that fails.
pub fn enlarge() {
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_else(|| program.clone().into_os_string());
    // On success this never returns.
    let _error = Command::new(program).arg0(name).args(args).env(VARIABLE, BYTES).exec();
}

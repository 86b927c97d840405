//! Runs Python scripts to check our files with other readers.

use std::ffi::OsStr;
use std::process::Command;

/// Ends the process at once: during a normal exit, threads of native libraries may abort it after
/// all checks have passed.
const END: &str = "\nimport os\nprint('all checks passed', flush=True)\nos._exit(0)\n";

/// Runs a script. Returns its output, or `None` if `LAPO_PYTHON` names no Python.
///
/// # Panics
/// If a check in the script fails, or if Python is missing in CI.
pub fn passes<S: AsRef<OsStr>>(
    script: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Option<String> {
    let Ok(python) = std::env::var("LAPO_PYTHON") else {
        assert!(
            std::env::var_os("CI").is_none(),
            "LAPO_PYTHON must name a Python with the packages of the README's test command"
        );
        eprintln!(
            "skipped: LAPO_PYTHON names no Python with the packages of the README's test command"
        );
        return None;
    };
    let output = Command::new(python)
        .args(["-c", &format!("{script}{END}")])
        .args(arguments)
        .output()
        .expect("LAPO_PYTHON runs");
    let (printed, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && printed.ends_with("all checks passed\n"),
        "{printed}{error}"
    );
    Some(printed.into_owned())
}

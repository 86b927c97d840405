//! The build script: finds the commit that lapo is built from, for [`lapo::build_info`].
//!
//! A packager can set `LAPO_COMMIT`, which takes precedence over git. If the sources are not a
//! checkout of their own, the commit stays unknown: a repository around them has a different
//! history.

use std::io::Write;
use std::path::Path;
use std::process::Command;

fn main() -> std::io::Result<()> {
    // Not the folder at compile time: a cache of builds may serve another checkout.
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".to_owned());
    let root = root.as_str();
    let mut out = std::io::stdout();
    writeln!(out, "cargo:rerun-if-env-changed=LAPO_COMMIT")?;
    writeln!(out, "cargo:rerun-if-changed=src")?;
    writeln!(out, "cargo:rerun-if-changed=Cargo.toml")?;
    let packaged = std::env::var("LAPO_COMMIT").ok().filter(|commit| !commit.is_empty());
    // Git appends to the log of HEAD at every commit and checkout, so the script runs again.
    if let Some(log) = git(root, &["rev-parse", "--git-path", "logs/HEAD"])
        .map(|log| Path::new(root).join(log))
        .filter(|log| log.exists())
    {
        writeln!(out, "cargo:rerun-if-changed={}", log.display())?;
    }
    if let Some(commit) = packaged.or_else(|| commit(root)) {
        writeln!(out, "cargo:rustc-env=LAPO_COMMIT={commit}")?;
    }
    Ok(())
}

/// Returns the commit of the checkout at `root`, with `-dirty` if files differ from it.
fn commit(root: &str) -> Option<String> {
    // A copy of the sources inside another repository must not report that repository's commit.
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != Path::new(root).canonicalize().ok()? {
        return None;
    }
    git(root, &["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
}

/// Runs git in `root` and returns its trimmed output, or `None` if it fails or prints nothing.
fn git(root: &str, args: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(args)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

//! The build script: finds the commit that this program is built from, for [`lapo::build_info`].
//!
//! `LAPO_COMMIT`, set by a packager, wins over what git says. In a copy of the sources that is no checkout of its own the commit stays
//! unknown: that of a repository around it would be wrong.

use std::io::Write;
use std::path::Path;
use std::process::Command;

fn main() -> std::io::Result<()> {
    let (root, mut out) = (env!("CARGO_MANIFEST_DIR"), std::io::stdout());
    writeln!(
        out,
        "cargo:rerun-if-env-changed=LAPO_COMMIT\ncargo:rerun-if-changed=src\ncargo:rerun-if-changed=Cargo.toml"
    )?;
    let named = std::env::var("LAPO_COMMIT").ok().filter(|commit| !commit.is_empty());
    // git's log of HEAD grows with every commit and checkout.
    if let Some(log) = git(root, &["rev-parse", "--git-path", "logs/HEAD"])
        .map(|log| Path::new(root).join(log))
        .filter(|log| log.exists())
    {
        writeln!(out, "cargo:rerun-if-changed={}", log.display())?;
    }
    if let Some(commit) = named.or_else(|| commit(root)) {
        writeln!(out, "cargo:rustc-env=LAPO_COMMIT={commit}")?;
    }
    Ok(())
}

/// Returns the commit of the checkout at `root`, with `-dirty` where files differ from it.
fn commit(root: &str) -> Option<String> {
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != Path::new(root).canonicalize().ok()? {
        return None;
    }
    git(root, &["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
}

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

//! Compares the files of a workspace with its receipts. Start at [`verify`].
//!
//! [`delete`] deletes damaged files together with their receipts. The next run repeats exactly
//! these tasks.

use std::collections::HashMap;
use std::io::Read;

use rayon::prelude::*;
use serde::Serialize;

use super::error::{Error, Result};
use super::manifest::stages;
use super::paths::FileInfo;
use super::receipt::{find_receipts, receipt_path};
use super::store::Store;
use super::workspace;

/// The extent of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Existence and size.
    Sizes,
    /// Existence, size and digest. This reads every file.
    Digests,
}

/// A file that differs from its receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The stage's name.
    pub stage: String,
    /// The task's key; empty for a manifest or a pack of receipts, `joined` for a joined table.
    pub key: String,
    /// The attempt that wrote the file; empty for a pack or a joined table.
    pub attempt: String,
    /// The file's path, relative to the workspace.
    pub path: String,
    /// The difference.
    pub problem: Problem,
}

/// The difference between a file and its receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// The file does not exist.
    Missing,
    /// The file has another size.
    Size {
        /// The size in the receipt.
        expected_bytes: u64,
        /// The size on disk.
        found_bytes: u64,
    },
    /// The file has another content.
    Digest {
        /// The digest in the receipt.
        expected: String,
        /// The digest of the content on disk.
        found: String,
    },
    /// A manifest cannot be read, so the files of its stage are unknown.
    Unreadable {
        /// Why not.
        reason: String,
    },
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => write!(f, "missing"),
            Self::Size { expected_bytes, found_bytes } => {
                write!(f, "{found_bytes} bytes, expected {expected_bytes}")
            }
            Self::Digest { expected, found } => {
                write!(f, "content has digest {found}, expected {expected}")
            }
            Self::Unreadable { reason } => f.write_str(reason),
        }
    }
}

/// The result of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The number of verified files.
    pub files: u64,
    /// Their total size by the receipts, in bytes.
    pub bytes: u64,
    /// The damaged files.
    pub findings: Vec<Finding>,
}

/// The key in findings on joined tables, which belong to many tasks.
const JOINED: &str = "joined";

/// Verifies every file of every stage's newest version: packs of receipts, joined tables and the
/// tasks' own files.
pub fn verify(store: &Store, depth: Depth) -> Result<Report> {
    workspace::require(store)?;
    let mut report = Report::default();
    for (stage, newest) in stages(store)? {
        // A damaged manifest must not hide the damage in other stages.
        let newest = match newest {
            Ok(newest) => newest,
            Err(error) => {
                report.findings.push(unreadable_manifest(stage, &error));
                continue;
            }
        };
        let sizes: HashMap<String, u64> =
            store.files(&stage)?.into_iter().map(|file| (file.path, file.bytes)).collect();
        let check = |key: &str, attempt: &str, file: &FileInfo| -> Result<Option<Finding>> {
            let problem = problem(store, file, sizes.get(&file.path).copied(), depth)?;
            Ok(problem.map(|problem| Finding {
                stage: stage.clone(),
                key: key.to_owned(),
                attempt: attempt.to_owned(),
                path: file.path.clone(),
                problem,
            }))
        };
        for pack in &newest.packs {
            report.count(&pack.file);
            report.findings.extend(check("", "", &pack.file)?);
        }
        // Without its packs, the receipts of this stage cannot be read.
        if report.findings.iter().any(|finding| finding.stage == stage) {
            continue;
        }
        for joined in &newest.joined {
            report.count(&joined.file);
        }
        let found: Vec<Option<Finding>> = newest
            .joined
            .par_iter()
            .map(|joined| check(JOINED, "", &joined.file))
            .collect::<Result<_>>()?;
        report.findings.extend(found.into_iter().flatten());
        let receipts = newest.receipts(store)?;
        for file in receipts.iter().flat_map(|receipt| &receipt.files) {
            report.count(file);
        }
        let files = receipts
            .par_iter()
            .flat_map_iter(|receipt| receipt.files.iter().map(move |file| (receipt, file)));
        let found: Vec<Option<Finding>> = files
            .map(|(receipt, file)| check(&receipt.key, &receipt.attempt, file))
            .collect::<Result<_>>()?;
        report.findings.extend(found.into_iter().flatten());
    }
    Ok(report)
}

fn unreadable_manifest(stage: String, error: &Error) -> Finding {
    let path = format!("{stage}/manifests");
    let problem = Problem::Unreadable { reason: error.to_string() };
    Finding { stage, key: String::new(), attempt: String::new(), path, problem }
}

impl Finding {
    /// Returns whether the next run makes the file again once it is deleted. Packs and manifests
    /// are not made again: they say what a version holds.
    #[must_use]
    pub fn is_repairable(&self) -> bool {
        !self.key.is_empty()
    }
}

/// Deletes repairable files and the receipts of their tasks. The next run repeats only these tasks.
pub fn delete(store: &Store, findings: &[Finding]) -> Result<()> {
    for Finding { stage, key, attempt, path, .. } in
        findings.iter().filter(|finding| finding.is_repairable())
    {
        if key == JOINED {
            // The tasks' own files hold the same rows: the next run joins them again.
            store.delete(path)?;
            continue;
        }
        // The receipt goes first: a crash in between leaves a file without a receipt, which is
        // harmless. A receipt of another attempt lists other files and stays.
        let filed = find_receipts(store, stage, std::slice::from_ref(key))?.pop().flatten();
        if filed.is_some_and(|filed| filed.attempt == *attempt) {
            store.delete(&receipt_path(stage, key))?;
        }
        store.delete(path)?;
    }
    Ok(())
}

impl Report {
    fn count(&mut self, file: &FileInfo) {
        self.files += 1;
        self.bytes += file.bytes;
    }
}

/// Compares a file with its receipt. `found` is the size on disk, if the file exists.
fn problem(
    store: &Store,
    file: &FileInfo,
    found: Option<u64>,
    depth: Depth,
) -> Result<Option<Problem>> {
    let Some(found_bytes) = found else { return Ok(Some(Problem::Missing)) };
    if found_bytes != file.bytes {
        return Ok(Some(Problem::Size { expected_bytes: file.bytes, found_bytes }));
    }
    if depth == Depth::Sizes {
        return Ok(None);
    }
    let found = digest(store, &file.path)?;
    Ok((found != file.blake3).then(|| Problem::Digest { expected: file.blake3.clone(), found }))
}

/// Computes the digest of a file's content, read in pieces of 1 MiB.
fn digest(store: &Store, path: &str) -> Result<String> {
    let mut file = store.file(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(|cause| Error::Io {
            action: "read",
            path: path.to_owned(),
            cause,
        })?;
        if read == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update(&buffer[..read]);
    }
}

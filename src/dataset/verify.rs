//! Verification: compares the files of a workspace with its receipts. Start at [`verify`].
//!
//! [`delete`] deletes damaged files together with their receipts. The next run makes exactly these tasks again.

use std::collections::HashMap;
use std::io::Read;

use rayon::prelude::*;
use serde::Serialize;

use super::error::{Error, Result};
use super::manifest::{head, stage_names};
use super::place::FileInfo;
use super::receipt::{find_receipts, receipt_path};
use super::store::Store;
use super::workspace;

/// How closely files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// That they are there, at their size.
    Sizes,
    /// Their content, too, against its digest.
    Digests,
}

/// A file that is not what its receipt says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The stage.
    pub stage: String,
    /// The task; empty for a pack of receipts, `joined` for a table of many tasks.
    pub key: String,
    /// The attempt that made the file.
    pub attempt: String,
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// It is not there.
    Missing,
    /// It has another size.
    Size {
        /// By the receipt.
        expected_bytes: u64,
        /// On disk.
        found_bytes: u64,
    },
    /// It has another content.
    Digest {
        /// By the receipt.
        expected: String,
        /// On disk.
        found: String,
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
        }
    }
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Files looked at.
    pub files: u64,
    /// What they weigh by their receipts.
    pub bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// What stands for the task of a table that was joined.
const JOINED: &str = "joined";

/// Looks at every file of every stage's newest version, packs of receipts included.
pub fn verify(store: &Store, depth: Depth) -> Result<Report> {
    workspace::require(store)?;
    let mut report = Report::default();
    for stage in stage_names(store)? {
        let Some(newest) = head(store, &stage)? else { continue };
        let sizes: HashMap<String, u64> =
            store.files(&stage)?.into_iter().map(|file| (file.path, file.bytes)).collect();
        let look = |key: &str, attempt: &str, file: &FileInfo| -> Result<Option<Finding>> {
            let (stage, key, attempt, path) =
                (stage.clone(), key.to_owned(), attempt.to_owned(), file.path.clone());
            let problem = problem(store, file, sizes.get(&file.path).copied(), depth)?;
            Ok(problem.map(|problem| Finding { stage, key, attempt, path, problem }))
        };
        for pack in &newest.packs {
            report.count(&pack.file);
            report.findings.extend(look("", "", &pack.file)?);
        }
        if report.findings.iter().any(|finding| finding.stage == stage) {
            continue;
        }
        newest.joined.iter().for_each(|joined| report.count(&joined.file));
        let found: Vec<Option<Finding>> = newest
            .joined
            .par_iter()
            .map(|joined| look(JOINED, "", &joined.file))
            .collect::<Result<_>>()?;
        report.findings.extend(found.into_iter().flatten());
        let receipts = newest.receipts(store)?;
        receipts.iter().flat_map(|receipt| &receipt.files).for_each(|file| report.count(file));
        let files = receipts
            .par_iter()
            .flat_map_iter(|receipt| receipt.files.iter().map(move |file| (receipt, file)));
        let found: Vec<Option<Finding>> = files
            .map(|(receipt, file)| look(&receipt.key, &receipt.attempt, file))
            .collect::<Result<_>>()?;
        report.findings.extend(found.into_iter().flatten());
    }
    Ok(report)
}

/// Deletes damaged files and the receipts of their tasks: the next run makes these tasks anew, and nothing else.
pub fn delete(store: &Store, findings: &[Finding]) -> Result<()> {
    for Finding { stage, key, attempt, path, .. } in
        findings.iter().filter(|finding| !finding.key.is_empty())
    {
        if key == JOINED {
            // The tasks' own files are whole: the next run joins them again.
            store.delete(path)?;
            continue;
        }
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
        (self.files, self.bytes) = (self.files + 1, self.bytes + file.bytes);
    }
}

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

/// The digest of a file's content, read in pieces.
fn digest(store: &Store, path: &str) -> Result<String> {
    let (mut file, mut hasher, mut buffer) =
        (store.file(path)?, blake3::Hasher::new(), vec![0; 1 << 20]);
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

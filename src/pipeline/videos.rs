//! Patterns become videos with an identity. In: glob patterns; out: [`VideoSource`]s, by name and by the blake3 of their bytes.

use std::collections::HashMap;
use std::fs::Metadata;
use std::path::Path;

use rayon::prelude::*;

use crate::dataset::{Receipt, VideoRecord};
use crate::stages::decode::{VideoSource, modified};

/// The files a pattern matches. A folder counts only where it is named like a file: `x.mp4/` is a broken video.
pub fn matching(pattern: &str) -> Result<Vec<String>, String> {
    let paths = glob::glob(pattern).map_err(|e| format!("`{pattern}` is not a pattern: {e}"))?;
    let mut found = Vec::new();
    for path in paths {
        let path = path.map_err(|e| format!("cannot list {}: {}", e.path().display(), e.error()))?;
        if path.extension().is_some() || !path.is_dir() {
            found.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

/// Gives every path its identity. Unchanged files (same name, size and time as in a receipt) are not read again.
pub fn identify(paths: &[String], receipts: &[Receipt]) -> Vec<VideoSource> {
    let known: HashMap<&str, &VideoRecord> = receipts.iter().flat_map(|r| &r.videos).map(|video| (video.uri.as_str(), video)).collect();
    let mut videos: Vec<VideoSource> = paths.par_iter().map(|uri| identity(uri, known.get(uri.as_str()).copied())).collect();
    let mut copies: HashMap<String, usize> = HashMap::new();
    for video in &mut videos {
        let count = copies.entry(video.digest.clone()).and_modify(|n| *n += 1).or_insert(1);
        if *count > 1 {
            video.digest = format!("{}#{count}", video.digest);
        }
    }
    videos
}

fn identity(uri: &str, known: Option<&VideoRecord>) -> VideoSource {
    let unusable = |class: &str, reason: String| VideoSource {
        uri: uri.into(),
        digest: blake3::hash(format!("{class}\n{uri}").as_bytes()).to_hex().to_string(),
        bytes: 0,
        modified: String::new(),
        unusable: Some((class.into(), reason)),
    };
    let metadata = match std::fs::metadata(uri) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(metadata) => return unusable("not_a_file", format!("{uri}: is {}, expected a file", sort_of(&metadata))),
        Err(e) => return unusable("unreadable", format!("{uri}: {e}")),
    };
    let (bytes, modified) = (metadata.len(), modified(&metadata));
    let same = known.filter(|k| k.bytes == bytes && k.modified == modified && !modified.is_empty());
    let digest = match same {
        Some(known) => Ok(known.digest.split('#').next().unwrap_or_default().to_string()),
        None => digest_of(Path::new(uri)),
    };
    match digest {
        Ok(digest) => VideoSource { uri: uri.into(), digest, bytes, modified, unusable: None },
        Err(e) => unusable("unreadable", format!("{uri}: {e}")),
    }
}

fn digest_of(path: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn sort_of(metadata: &Metadata) -> &'static str {
    if metadata.is_dir() { "a folder" } else { "a pipe or device" }
}

//! Where the shared libraries of GPU drivers are.

use std::path::{Path, PathBuf};

/// Searches the places of the dynamic linker for a library, without loading it.
pub fn library_exists(name: &str) -> bool {
    // The linker's cache lists file names as plain text.
    let cached = std::fs::read("/etc/ld.so.cache")
        .is_ok_and(|cache| cache.windows(name.len()).any(|bytes| bytes == name.as_bytes()));
    cached || library_folders().iter().any(|folder| contains(folder, name))
}

/// Returns the folders in which libraries of GPUs are.
pub fn library_folders() -> Vec<PathBuf> {
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

/// Returns whether a folder has a file whose name begins with `name`.
pub fn contains(folder: &Path, name: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(name))
}

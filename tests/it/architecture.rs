//! The invariants of `src/lib.rs`: the modules and crates each module may use.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules, each with all other modules it may use.
const MAY_USE: [(&str, &[&str]); 10] = [
    ("video", &[]),
    ("build_info", &["video"]),
    ("dataset", &["build_info"]),
    ("models", &[]),
    ("envs", &[]),
    ("train", &["dataset", "models"]),
    ("stages", &["video", "dataset", "models", "envs", "train"]),
    ("executor", &["build_info", "dataset", "models", "stages"]),
    ("pipeline", &["build_info", "dataset", "stages", "executor"]),
    ("query", &["dataset"]),
];

/// Restricted crates and the modules allowed to use them.
const CRATE_USERS: [(&str, &[&str]); 19] = [
    ("burn_store", &["models"]),
    // PPO collects rollouts and computes its losses in one place.
    ("burn", &["models", "train", "stages/finetune"]),
    ("ffmpeg_next", &["video"]),
    ("libloading", &["envs"]),
    ("polars", &["query"]),
    ("sqlparser", &["query"]),
    ("arrow", &["dataset"]),
    ("parquet", &["dataset"]),
    ("serde_yaml", &["pipeline"]),
    // Ray's REST interface.
    ("reqwest", &["executor"]),
    ("indicatif", &["cli"]),
    ("rustix", &["cli", "dataset", "executor"]),
    ("signal_hook", &["cli"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("chrono", &["cli"]),
    ("plotters", &["stages"]),
    ("png", &["cli", "stages"]),
    ("base64", &["stages"]),
];

/// Returns all Rust files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let (folders, files): (Vec<_>, Vec<_>) =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).partition(|p| p.is_dir());
    let rust = files.into_iter().filter(|p| p.extension().is_some_and(|e| e == "rs"));
    rust.chain(folders.iter().flat_map(|f| self::files(f))).collect()
}

/// Returns the top-level module of a file.
fn module(file: &Path) -> String {
    let inner = file.strip_prefix(source()).unwrap();
    inner.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_string()
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Returns the code of a file without comment lines, because prose may name any module.
fn code(file: &Path) -> String {
    fs::read_to_string(file)
        .unwrap()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Returns the words directly after `prefix` in the code, where no longer name ends in the prefix.
fn words_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let word = |rest: &str| {
        rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or("").to_string()
    };
    let is_whole = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    code.match_indices(prefix)
        .filter(|(at, _)| is_whole(*at))
        .map(|(at, _)| word(&code[at + prefix.len()..]))
        .collect()
}

#[test]
fn modules_use_only_the_modules_they_may() {
    let modules: BTreeSet<String> = files(&source()).iter().map(|f| module(f)).collect();
    for file in files(&source()) {
        let Some((_, may)) = MAY_USE.iter().find(|(name, _)| *name == module(&file)) else {
            continue;
        };
        let used = words_after(&code(&file), "crate::");
        let wrong: Vec<_> = used
            .iter()
            .filter(|u| modules.contains(*u) && **u != module(&file) && !may.contains(&u.as_str()))
            .collect();
        assert!(wrong.is_empty(), "{}: {} may not use {wrong:?}", file.display(), module(&file));
    }
}

#[test]
fn crates_are_used_only_by_their_modules() {
    for file in files(&source()) {
        for (name, modules) in CRATE_USERS {
            let code = code(&file);
            let is_used = [format!("{name}::"), format!("use {name}")].iter().any(|word| {
                code.match_indices(word.as_str()).any(|(at, _)| {
                    !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                })
            });
            let inner = file.strip_prefix(source()).unwrap().to_string_lossy().into_owned();
            assert!(
                !is_used || modules.iter().any(|module| inner.starts_with(module)),
                "{} may not use {name}",
                file.display()
            );
        }
    }
}

#[test]
fn unsafe_is_used_only_for_libav_memory_maps_and_games() {
    for file in files(&source()) {
        let is_unsafe = words_after(&code(&file), "unsafe ")
            .iter()
            .any(|w| w.is_empty() || w == "fn" || w == "impl" || w == "extern");
        let allowed = module(&file) == "video"
            || file.ends_with("dataset/store.rs")
            || file.ends_with("envs/libenv.rs");
        assert!(!is_unsafe || allowed, "{}", file.display());
    }
}

#[test]
fn only_the_command_line_prints_and_reads_the_environment() {
    for file in files(&source()).iter().filter(|f| !["cli", "main"].contains(&module(f).as_str())) {
        let code = code(file);
        let code = if file.iter().any(|part| part == "tests") {
            ""
        } else {
            code.split("#[cfg(test)]").next().unwrap()
        };
        for word in ["println!", "eprintln!", "print!", "process::exit", "env::args"] {
            assert!(!code.contains(word), "{}: {word}", file.display());
        }
    }
}

#[test]
fn every_file_begins_with_a_module_doc() {
    for file in files(&source()) {
        assert!(fs::read_to_string(&file).unwrap().starts_with("//!"), "{}", file.display());
    }
}

/// `pipeline`, `executor` and `cli` use every stage through its traits, so a new kind needs only
/// one file and one line in the list. Tests may name kinds.
#[test]
fn only_the_stages_module_names_kinds_of_stages() {
    let modules = ["pipeline", "executor", "cli"];
    for file in files(&source()).iter().filter(|f| modules.contains(&module(f).as_str())) {
        // Modules of tests may name kinds.
        let is_of_tests = |name: &str| name.ends_with("_tests") || name == "recorded_keys";
        if file.with_extension("").iter().any(|part| is_of_tests(&part.to_string_lossy())) {
            continue;
        }
        let code = code(file);
        let code = code.split("#[cfg(test)]").next().unwrap();
        for variant in ["StageSpec::", "Task::"].iter().flat_map(|prefix| words_after(code, prefix))
        {
            let is_variant = variant.starts_with(|first: char| first.is_ascii_uppercase());
            assert!(!is_variant, "{}: {variant}", file.display());
        }
        for kind in lapo::stages::KINDS {
            assert!(!code.contains(&format!("\"{kind}\"")), "{}: {kind:?}", file.display());
        }
    }
}

//! The invariants of `src/lib.rs`: which room may know which.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A room and all it may use.
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

/// Crates that only some rooms may know.
const KNOWN_TO: [(&str, &[&str]); 18] = [
    ("burn_store", &["models"]),
    // PPO is told in one file: what is played and what is learnt of it.
    ("burn", &["models", "train", "stages/finetune"]),
    ("ffmpeg_next", &["video"]),
    ("libloading", &["envs"]),
    ("polars", &["query"]),
    ("sqlparser", &["query"]),
    ("arrow", &["dataset"]),
    ("parquet", &["dataset"]),
    ("serde_yaml", &["pipeline"]),
    ("indicatif", &["cli"]),
    ("rustix", &["cli", "dataset"]),
    ("signal_hook", &["cli"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("chrono", &["cli"]),
    ("plotters", &["stages"]),
    ("png", &["stages"]),
    ("base64", &["stages"]),
];

fn files(folder: &Path) -> Vec<PathBuf> {
    let (folders, files): (Vec<_>, Vec<_>) =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).partition(|p| p.is_dir());
    let rust = files.into_iter().filter(|p| p.extension().is_some_and(|e| e == "rs"));
    rust.chain(folders.iter().flat_map(|f| self::files(f))).collect()
}

fn room(file: &Path) -> String {
    let inner = file.strip_prefix(source()).unwrap();
    inner.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_string()
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The code of a file: comments dropped, so that prose may name any room.
fn code(file: &Path) -> String {
    fs::read_to_string(file)
        .unwrap()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Words that follow `prefix` in the code.
fn words_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let word = |rest: &str| {
        rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or("").to_string()
    };
    code.match_indices(prefix).map(|(at, _)| word(&code[at + prefix.len()..])).collect()
}

#[test]
fn rooms_know_only_the_rooms_they_may() {
    let rooms: BTreeSet<String> = files(&source()).iter().map(|f| room(f)).collect();
    for file in files(&source()) {
        let Some((_, may)) = MAY_USE.iter().find(|(name, _)| *name == room(&file)) else {
            continue;
        };
        let used = words_after(&code(&file), "crate::");
        let wrong: Vec<_> = used
            .iter()
            .filter(|u| rooms.contains(*u) && **u != room(&file) && !may.contains(&u.as_str()))
            .collect();
        assert!(wrong.is_empty(), "{}: {} may not know {wrong:?}", file.display(), room(&file));
    }
}

#[test]
fn crates_stay_in_their_rooms() {
    for file in files(&source()) {
        for (name, rooms) in KNOWN_TO {
            let code = code(&file);
            let known = [format!("{name}::"), format!("use {name}")].iter().any(|word| {
                code.match_indices(word.as_str()).any(|(at, _)| {
                    !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                })
            });
            let inner = file.strip_prefix(source()).unwrap().to_string_lossy().into_owned();
            assert!(
                !known || rooms.iter().any(|room| inner.starts_with(room)),
                "{} may not know {name}",
                file.display()
            );
        }
    }
}

#[test]
fn unsafe_is_only_where_libav_a_memory_map_or_a_game_forces_it() {
    for file in files(&source()) {
        let is_unsafe = words_after(&code(&file), "unsafe ")
            .iter()
            .any(|w| w.is_empty() || w == "fn" || w == "impl" || w == "extern");
        let allowed = room(&file) == "video"
            || file.ends_with("dataset/store.rs")
            || file.ends_with("envs/libenv.rs");
        assert!(!is_unsafe || allowed, "{}", file.display());
    }
}

#[test]
fn only_the_command_line_prints_and_reads_the_environment() {
    for file in files(&source()).iter().filter(|f| !["cli", "main"].contains(&room(f).as_str())) {
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
fn every_file_opens_with_what_it_is_for() {
    for file in files(&source()) {
        assert!(fs::read_to_string(&file).unwrap().starts_with("//!"), "{}", file.display());
    }
}

/// `pipeline`, `executor` and `cli` reach every stage through its traits, so that a new kind is one
/// file and one line in the list. Tests may name kinds.
#[test]
fn no_room_but_stages_names_a_kind_of_stage() {
    let rooms = ["pipeline", "executor", "cli"];
    for file in files(&source()).iter().filter(|f| rooms.contains(&room(f).as_str())) {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        if name.ends_with("_tests") || name == "recorded_keys" {
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

//! `lapo init`: writes a first pipeline for a folder of videos.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::human_readable::count;
use super::stdout::print;
use crate::dataset::Access;
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::pipeline::video_listing::{ListingError, matching};

/// File extensions of videos in folders. Patterns may match files with any extension.
const EXTENSIONS: [&str; 16] = [
    "3gp", "avi", "flv", "gif", "m2ts", "m4v", "mjpeg", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv",
    "ts", "webm", "wmv",
];

/// Arguments of `lapo init`.
#[derive(Debug, ClapArgs)]
pub struct InitArgs {
    /// A folder of videos, or a pattern such as 'clips/*.mp4'
    #[arg(value_name = "VIDEOS", default_value = ".")]
    pub videos: String,
    /// File to write; an existing file is never overwritten
    #[arg(long, short, value_name = "FILE", default_value = "pipeline.yaml")]
    pub output: PathBuf,
    /// Name of the pipeline [default: the folder's name]
    #[arg(long)]
    pub name: Option<String>,
}

/// Finds the videos and writes the pipeline.
pub fn run(args: &InitArgs, access: &Access) -> Result<()> {
    let found = find_videos(&args.videos, access)?;
    let videos: usize = found.values().sum();
    let name = args.name.clone().unwrap_or_else(|| pipeline_name(&args.videos));
    let text = pipeline(&name, &found, videos);
    let output = args.output.display().to_string();
    // `create_new` also protects a file that appears only now.
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&args.output)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| match source.kind() {
        ErrorKind::AlreadyExists => Error::Usage {
            what: format!("{output} already exists and was not overwritten"),
            hint: "choose another file: --output other.yaml".into(),
        },
        _ => Error::Output { to: output.clone(), source },
    })?;
    let videos = count(videos as u64, "video");
    print(&format!("{output}: a pipeline for {videos}; run it with: lapo run {output}\n"))
}

/// Returns patterns, and the number of videos that each matches.
fn find_videos(videos: &str, access: &Access) -> Result<BTreeMap<String, usize>, Error> {
    let folder = Path::new(videos);
    let patterns = if folder.is_dir() { patterns(folder)? } else { vec![videos.to_owned()] };
    let mut found = BTreeMap::new();
    for pattern in patterns {
        let matched =
            matching(&pattern, access).map_err(|ListingError(what, hint)| Error::Usage {
                what,
                hint: hint.unwrap_or_else(|| {
                    "give a folder, or a pattern like 'clips/**/*.mp4' or 's3://bucket/clips/*.mp4'"
                        .into()
                }),
            })?;
        if !matched.is_empty() {
            found.insert(pattern, matched.iter().filter(|video| video.unread.is_none()).count());
        }
    }
    if found.is_empty() {
        return Err(Error::Usage {
            what: format!(
                "found no videos in {videos}: expected files with the extension {}",
                EXTENSIONS.join(", ")
            ),
            hint: "give a folder of videos, or a pattern: lapo init 'clips/*.dat'".into(),
        });
    }
    Ok(found)
}

/// Returns a pattern for every extension of the videos in a folder.
fn patterns(folder: &Path) -> Result<Vec<String>, Error> {
    let mut extensions = BTreeSet::new();
    collect_extensions(folder, &mut extensions)
        .map_err(|source| Error::Input { from: folder.display().to_string(), source })?;
    // Brackets and stars in the folder's own name are not part of the pattern.
    let escaped = escape_glob(&folder.display().to_string());
    let root = escaped.trim_end_matches('/');
    let prefix = if root == "." { String::new() } else { format!("{root}/") };
    Ok(extensions.into_iter().map(|extension| format!("{prefix}**/*.{extension}")).collect())
}

/// Collects the extensions of the videos in a folder and its subfolders, in their case. Skips
/// hidden and unreadable subfolders.
fn collect_extensions(folder: &Path, extensions: &mut BTreeSet<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_hidden =
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        // Links to folders may form a cycle.
        if path.is_dir() && !path.is_symlink() && !is_hidden {
            _ = collect_extensions(&path, extensions);
        } else if let Some(extension) = path.extension().and_then(|extension| extension.to_str())
            && EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str())
            && path.is_file()
        {
            extensions.insert(extension.to_owned());
        }
    }
    Ok(())
}

/// Returns a pattern that matches only this path.
fn escape_glob(path: &str) -> String {
    path.chars()
        .map(|c| if "?*[]$".contains(c) { format!("[{c}]") } else { c.to_string() })
        .collect()
}

/// Returns the folder's name, with all characters but letters, digits, `-` and `_` replaced.
fn pipeline_name(videos: &str) -> String {
    let path = Path::new(videos);
    let folder =
        if path.is_dir() { path.canonicalize().ok() } else { path.parent().map(Path::to_path_buf) };
    let last = folder
        .as_deref()
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let name: String = last
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' })
        .collect();
    // `/` has no name, and a name in another script becomes only underscores.
    if name.trim_matches('_').is_empty() { "videos".into() } else { name }
}

/// Quotes text for YAML.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Returns the YAML of a pipeline for these patterns.
fn pipeline(name: &str, found: &BTreeMap<String, usize>, videos: usize) -> String {
    let patterns: Vec<String> = found.keys().map(|pattern| quote(pattern)).collect();
    // A small dataset needs a larger share for the evaluation.
    let holdout = if videos < 20 { 2 } else { 10 };
    format!(
        "# Makes a labelled dataset of {videos}:
#   lapo run FILE                      do only what is new
#   lapo plan FILE                     show what a run would do, and why
#   lapo query \"SELECT video, count(*) AS n, avg(fdm_error) FROM labels GROUP BY video\" \
         --workspace runs/{name}
name: {quoted_name}
workspace: {workspace}               # a folder, or s3://bucket/prefix
seed: 7
holdout: {holdout:<27}# one in {holdout} videos evaluates the models
stages:
  frames:                            # videos -> frames
    decode:
      videos: [{patterns}]           # after adding videos, a run decodes only the new ones
      size: 64                       # frame height and width in pixels: 16, 32, 64, ...
      # fps: 15                      # set this if the videos differ in frame rate
      # max_rejected: 0.1            # stop if more than 10% of the videos are broken
  dynamics:                          # frames -> inverse and forward dynamics models
    train_dynamics:
      frames: frames
      preset: tiny                   # or small, paper: slower, but better on large datasets
      steps: 300                     # some minutes on two cores; a good model needs thousands
      batch: 32
      # refresh: {{ growth: 0.25 }}    # retrain when the data has grown by 25%; default: never
  labels:                            # frames and the model -> a latent action per transition
    label: {{ frames: frames, dynamics: dynamics }}
",
        videos = count(videos as u64, "video"),
        quoted_name = quote(name),
        workspace = quote(&format!("runs/{name}")),
        patterns = patterns.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_folder_name_is_escaped_in_the_pattern_and_the_yaml() {
        let odd = "it's a [folder] *: #1/**/*.mp4";
        let found = BTreeMap::from([(odd.to_owned(), 3)]);
        let text = pipeline(&pipeline_name(odd), &found, 3);
        assert!(text.contains("'it''s a [folder] *: #1/**/*.mp4'"), "{text}");
        assert_eq!(escape_glob("a[1]*"), "a[[]1[]][*]");
        assert_eq!(pipeline_name("/nowhere/my clips!/*.mp4"), "my_clips_");
        assert_eq!(pipeline_name("*.mp4"), "videos");
    }
}

//! `lapo init`: a pipeline for a folder of videos, to begin with.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::{Error, print};
use crate::dataset::Access;
use crate::error::Result;
use crate::pipeline::entries::{Unmatched, matching};

/// Endings of videos. What a pattern names is taken whatever its ending.
const ENDINGS: [&str; 16] = [
    "3gp", "avi", "flv", "gif", "m2ts", "m4v", "mjpeg", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv",
    "ts", "webm", "wmv",
];

#[derive(Debug, ClapArgs)]
pub struct Init {
    /// A folder of videos, or a pattern such as 'clips/*.mp4'
    #[arg(value_name = "VIDEOS", default_value = ".")]
    pub videos: String,
    /// The file to write; one that is there is left as it is
    #[arg(long, short, value_name = "FILE", default_value = "pipeline.yaml")]
    pub output: PathBuf,
    /// The pipeline's name [default: the folder's]
    #[arg(long)]
    pub name: Option<String>,
}

/// Finds the videos and writes the pipeline.
pub fn run(args: &Init, access: &Access) -> Result<()> {
    let found = find(&args.videos, access)?;
    let count: usize = found.values().sum();
    let name = args.name.clone().unwrap_or_else(|| name_of(&args.videos));
    let text = pipeline(&name, &found, count);
    let output = args.output.display().to_string();
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&args.output)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| match source.kind() {
        ErrorKind::AlreadyExists => Error::Usage {
            what: format!("{output} is there already, and left as it is"),
            hint: "name another file: --output other.yaml".into(),
        },
        _ => Error::Output { to: output.clone(), source },
    })?;
    print(&format!("{output}: a pipeline for {count} videos; now: lapo run {output}\n"))
}

/// Returns patterns and how many videos each matches.
fn find(videos: &str, access: &Access) -> Result<BTreeMap<String, usize>, Error> {
    let folder = Path::new(videos);
    let patterns = if folder.is_dir() { patterns(folder)? } else { vec![videos.to_owned()] };
    let mut found = BTreeMap::new();
    for pattern in patterns {
        let matched = matching(&pattern, access).map_err(|Unmatched(what, hint)| Error::Usage {
            what,
            hint: hint.unwrap_or_else(|| {
                "name a folder, or a pattern like 'clips/**/*.mp4' or 's3://bucket/clips/*.mp4'"
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
                "no video in {videos}: expected files that end in {}",
                ENDINGS.join(", ")
            ),
            hint: "name a folder of videos, or a pattern: lapo init 'clips/*.dat'".into(),
        });
    }
    Ok(found)
}

/// Returns a pattern for every ending of the videos in a folder.
fn patterns(folder: &Path) -> Result<Vec<String>, Error> {
    let mut endings = BTreeMap::new();
    look_into(folder, &mut endings)
        .map_err(|source| Error::Input { from: folder.display().to_string(), source })?;
    // Brackets and stars in the folder's own name mean themselves.
    let escaped = glob_escaped(&folder.display().to_string());
    let root = escaped.trim_end_matches('/');
    let prefix = if root == "." { String::new() } else { format!("{root}/") };
    Ok(endings.into_keys().map(|ending: String| format!("{prefix}**/*.{ending}")).collect())
}

/// Counts files by ending, as it is written. Folders that are hidden, and those that cannot be read, are passed over.
fn look_into(folder: &Path, endings: &mut BTreeMap<String, usize>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_hidden =
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() && !path.is_symlink() && !is_hidden {
            _ = look_into(&path, endings);
        } else if let Some(ending) = path.extension().and_then(|ending| ending.to_str())
            && ENDINGS.contains(&ending.to_ascii_lowercase().as_str())
            && path.is_file()
        {
            *endings.entry(ending.to_owned()).or_default() += 1;
        }
    }
    Ok(())
}

/// Makes a path a pattern that matches nothing else.
fn glob_escaped(path: &str) -> String {
    path.chars()
        .map(|c| if "?*[]$".contains(c) { format!("[{c}]") } else { c.to_string() })
        .collect()
}

/// Returns a name made of letters, digits, `-` and `_`.
fn name_of(videos: &str) -> String {
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
    if name.trim_matches('_').is_empty() { "videos".into() } else { name }
}

/// Quotes text for YAML. `${` would be a variable, `''` is one quote.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn pipeline(name: &str, found: &BTreeMap<String, usize>, count: usize) -> String {
    let patterns: Vec<String> = found.keys().map(|pattern| quoted(pattern)).collect();
    // Every `holdout`-th episode judges the model: of few videos more of them.
    let holdout = if count < 20 { 2 } else { 10 };
    format!(
        "# {count} videos become a labelled dataset:
#   lapo run FILE                      what is new is done, and nothing else
#   lapo plan FILE                     what would be done, and why
#   lapo query \"SELECT video, count(*) AS n, avg(fdm_error) FROM labels GROUP BY video\" --workspace runs/{name}
name: {quoted_name}
workspace: {workspace}               # a folder, or s3://bucket/prefix
seed: 7
stages:
  frames:                            # videos -> frames
    decode:
      videos: [{patterns}]           # add videos, and run again: only they are done
      size: 64                       # pixels a side: 16, 32, 64, ...
      # fps: 15                      # set it when the videos differ in rate
      # max_rejected: 0.1            # stop when more than 10% of the videos are broken
  dynamics:                          # frames -> what happens between two of them
    train_dynamics:
      frames: frames
      preset: tiny                   # or small, paper: slower, and better on large datasets
      steps: 300                     # some minutes on two cores; a good model takes thousands
      batch: 32
      holdout: {holdout}                    # every {holdout}th episode judges the model
      # refresh: {{ growth: 0.25 }}    # train again when the videos are 25% more; default: never
  labels:                            # frames and the model -> a latent action for every transition
    label: {{ frames: frames, dynamics: dynamics }}
",
        quoted_name = quoted(name),
        workspace = quoted(&format!("runs/{name}")),
        patterns = patterns.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_folder_is_called_the_yaml_says_just_that() {
        let odd = "it's a [folder] *: #1/**/*.mp4";
        let found = BTreeMap::from([(odd.to_owned(), 3)]);
        let text = pipeline(&name_of(odd), &found, 3);
        assert!(text.contains("'it''s a [folder] *: #1/**/*.mp4'"), "{text}");
        assert_eq!(glob_escaped("a[1]*"), "a[[]1[]][*]");
        assert_eq!(name_of("/nowhere/my clips!/*.mp4"), "my_clips_");
        assert_eq!(name_of("*.mp4"), "videos");
    }
}

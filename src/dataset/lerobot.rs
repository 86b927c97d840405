//! Reads LeRobot datasets of versions 2.1 and 3.0. Start at [`Lerobot::open`].
//!
//! An episode has a video of each camera. In version 3.0 the videos of many episodes are joined in
//! one file, in version 2.1 each has a file of its own; both are [`Clip`]s here. The clips are
//! cut by whole numbers of frames, since the times in a dataset are sums of rounded numbers.
//!
//! [`Clip`]: super::mp4::Clip

use std::io::{ErrorKind, Read};

use super::access::{Access, address};
use super::archive::{open_source, size_and_version};
use super::bucket::{ListedObject, list_objects};
use super::error::{Error, Result};
use super::listing::{List, ListMetadata, ListedVideo};
use super::mp4::{Clip, Mp4Index};
use super::path_text::{local_path, path_text};

mod episodes;
mod extended;
mod frames;
mod info;

pub use episodes::Episode;
pub use extended::{DatasetFiles, Group};
pub use frames::LerobotRows;
use info::Info;

/// The share of a frame by which a time may be off.
const TOLERANCE: f64 = 0.5;

/// An opened dataset.
pub struct Lerobot<'a> {
    /// Its path or address, without a slash at its end.
    root: String,
    info: Info,
    access: &'a Access,
}

/// Where the video of an episode is said to be. [`EpisodeVideo::clip`] finds its frames.
#[derive(Clone, Debug, PartialEq)]
pub struct EpisodeVideo {
    /// The path or address of the MP4 file.
    pub file: String,
    /// When its first frame is shown, in seconds in the file.
    from_secs: f64,
    /// The number of its frames.
    frames: u64,
    /// The frames of the episodes before it in the file.
    frames_before: u64,
    /// The frames of all episodes in the file.
    frames_of_all: u64,
    fps: f64,
}

impl<'a> Lerobot<'a> {
    /// Opens a dataset: the folder or address above `meta/info.json`.
    ///
    /// # Errors
    /// Fails if it is no LeRobot dataset, or of a version that is not known.
    pub fn open(root: &str, access: &'a Access) -> Result<Self> {
        let root = root.trim_end_matches('/').to_owned();
        let text = read_file(&root, info::PATH, access).map_err(|cause| match cause.kind() {
            ErrorKind::NotFound => Error::Lerobot {
                path: root.clone(),
                reason: format!("it is not a LeRobot dataset: it has no `{}`", info::PATH),
                cure: "name the folder above `meta`, relative to the current folder".into(),
            },
            _ => unreadable(&root, info::PATH, cause),
        })?;
        let info = Info::parse(&text).map_err(|fault| fault.of(&root, info::PATH))?;
        Ok(Lerobot { root, info, access })
    }

    /// Returns the name of the video of an episode and a camera.
    #[must_use]
    pub fn video_name(&self, camera: &str, episode: u64) -> String {
        format!("{}/{camera}/{}", self.root, episode_name(episode))
    }

    /// Returns the video of each episode and camera, and notes for the user. A camera is named in
    /// full or by its last part; without names, all cameras that show colours are taken.
    ///
    /// # Errors
    /// Fails if a camera does not exist, or the table of episodes is missing, damaged or has gaps.
    pub fn videos(&self, cameras: &[String]) -> Result<List> {
        let (cameras, notes) =
            self.info.cameras(cameras).map_err(|fault| fault.of(&self.root, info::PATH))?;
        let episodes = self.episodes()?;
        let mut videos = Vec::with_capacity(episodes.len() * cameras.len());
        for camera in &cameras {
            for (episode, video) in episodes.iter().zip(self.episode_videos(camera, &episodes)?) {
                let about = [
                    ("camera", camera.clone()),
                    ("episode_index", episode.index.to_string()),
                    ("task", episode.tasks.join("; ")),
                ];
                let about: ListMetadata =
                    about.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                let uri = self.video_name(camera, episode.index);
                videos.push(ListedVideo {
                    about,
                    episode: Some(Box::new(video)),
                    ..ListedVideo::new(uri)
                });
            }
        }
        Ok(List { videos, notes })
    }

    /// Returns where the videos of a camera are.
    fn episode_videos(&self, camera: &str, episodes: &[Episode]) -> Result<Vec<EpisodeVideo>> {
        let mut videos = Vec::with_capacity(episodes.len());
        for episode in episodes {
            let (place, from_secs) = &episode.videos[camera];
            let file = self
                .info
                .video_path(camera, place)
                .map_err(|fault| fault.of(&self.root, info::PATH))?;
            videos.push(EpisodeVideo {
                file: format!("{}/{file}", self.root),
                from_secs: *from_secs,
                frames: episode.frames,
                frames_before: 0,
                frames_of_all: 0,
                fps: self.info.fps,
            });
        }
        let mut by_file: Vec<&mut EpisodeVideo> = videos.iter_mut().collect();
        by_file.sort_by(|one, other| {
            one.file.cmp(&other.file).then(one.from_secs.total_cmp(&other.from_secs))
        });
        for of_file in by_file.chunk_by_mut(|one, other| one.file == other.file) {
            let all: u64 = of_file.iter().map(|video| video.frames).sum();
            let mut before = 0;
            for video in of_file {
                video.frames_before = before;
                video.frames_of_all = all;
                before += video.frames;
            }
        }
        Ok(videos)
    }

    /// Lists the files below a folder of the dataset, sorted.
    fn files_below(&self, folder: &str) -> Result<Vec<String>> {
        let mut files: Vec<String> = match address(&self.root) {
            Some((bucket, keys)) => {
                let prefix = format!("{keys}/").trim_start_matches('/').to_owned();
                let listed = list_objects(bucket, &format!("{prefix}{folder}"), self.access)?;
                let key = |listed| match listed {
                    ListedObject::Object(object) => Some(object.path),
                    ListedObject::Odd { .. } => None,
                };
                let of_root = |key: String| key.strip_prefix(&prefix).map(str::to_owned);
                listed.into_iter().filter_map(key).filter_map(of_root).collect()
            }
            None => local_files(&self.root, folder)?,
        };
        files.sort();
        Ok(files)
    }

    /// Returns the full name of a camera.
    ///
    /// # Errors
    /// Fails if no camera or several are called so.
    pub fn camera(&self, name: &str) -> Result<String> {
        let found = self.info.cameras(&[name.to_owned()]);
        let (mut cameras, _) = found.map_err(|fault| fault.of(&self.root, info::PATH))?;
        Ok(cameras.remove(0))
    }

    /// Returns its path or address, without a slash at its end.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Returns a digest that changes with any file of episodes or of rows.
    ///
    /// # Errors
    /// As [`Lerobot::episodes`], and if a file of rows does not exist.
    pub fn rows_digest(&self) -> Result<String> {
        let tables = self.episode_files()?;
        self.versions(&[tables, self.files_of(&self.episodes()?)?].concat())
    }

    /// Returns a digest that changes with any file of the dataset.
    ///
    /// # Errors
    /// As [`Lerobot::files`], and if a file does not exist.
    pub fn digest(&self) -> Result<String> {
        let DatasetFiles { rows, episodes, copied } = self.files()?;
        self.versions(&[rows, episodes, copied].concat())
    }

    fn versions(&self, files: &[String]) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        let info = info::PATH.to_owned();
        for file in std::iter::once(&info).chain(files) {
            let version = size_and_version(&format!("{}/{file}", self.root), self.access);
            let (bytes, version) = version.map_err(|cause| unreadable(&self.root, file, cause))?;
            hasher.update(format!("{file}\n{bytes}\n{version}\n").as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn read(&self, file: &str) -> Result<Vec<u8>> {
        let bytes = read_file(&self.root, file, self.access)
            .map_err(|cause| unreadable(&self.root, file, cause))?;
        if bytes.starts_with(b"version https://git-lfs") {
            let fault = Fault::new("it is a Git LFS pointer, not the file", "run `git lfs pull`");
            return Err(fault.of(&self.root, file));
        }
        Ok(bytes)
    }
}

impl EpisodeVideo {
    /// Finds the episode's frames in its file.
    ///
    /// # Errors
    /// Fails with a reason and a cure if they are not where the dataset says, or not at its rate.
    pub fn clip(&self, index: &Mp4Index) -> Result<Clip, String> {
        let all = index.frames();
        let is_complete = all == self.frames_of_all;
        // If the episodes fill the file, their lengths say where each begins.
        let first = if is_complete { self.frames_before } else { index.nearest(self.from_secs) };
        let end = first + self.frames;
        if end > all {
            return Err(format!(
                "{} has {all} frames, but the episode needs frames {first} to {end}; copy the file \
                 again, or correct `length` in the table of episodes",
                self.file
            ));
        }
        let starts = index.seconds(first).unwrap_or(f64::NAN);
        let off = (starts - self.from_secs) * self.fps;
        // NaN is never within the tolerance.
        let is_near = |off: f64| off.abs() <= TOLERANCE;
        if !is_near(off) {
            return Err(format!(
                "its first frame is at {starts:.4} s in {}, but `from_timestamp` is {:.4} s, {:.1} \
                 frames off; set `from_timestamp` to the number of frames before the episode \
                 divided by `fps`",
                self.file,
                self.from_secs,
                off.abs()
            ));
        }
        let time = |number: u64| index.seconds(first + number).unwrap_or(f64::NAN);
        let deviation = |number: &u64| (time(*number) - starts) * self.fps - *number as f64;
        if let Some(number) = (0..self.frames).find(|number| !is_near(deviation(number))) {
            let mean = (self.frames - 1) as f64 / (time(self.frames - 1) - starts);
            return Err(format!(
                "frame {number} is shown {:.4} s after its first frame in {}, expected {:.4} s at \
                 {} frames per second (`fps`); the episode has {mean:.3} frames per second; \
                 correct `fps`, or encode the video at that rate",
                time(number) - starts,
                self.file,
                number as f64 / self.fps,
                self.fps
            ));
        }
        Ok(Clip { path: self.file.clone(), first, frames: self.frames, fps: self.fps })
    }
}

/// Returns the last part of the name of an episode's videos.
#[must_use]
pub fn episode_name(index: u64) -> String {
    format!("episode_{index:06}")
}

/// A fault of a file of a dataset: the reason, and the cure.
struct Fault(String, String);

impl Fault {
    fn new(reason: impl Into<String>, cure: impl Into<String>) -> Self {
        Fault(reason.into(), cure.into())
    }

    fn of(self, root: &str, file: &str) -> Error {
        Error::Lerobot { path: format!("{root}/{file}"), reason: self.0, cure: self.1 }
    }
}

fn unreadable(root: &str, file: &str, cause: std::io::Error) -> Error {
    Error::Io { action: "read", path: format!("{root}/{file}"), cause }
}

fn read_file(root: &str, file: &str, access: &Access) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_source(&format!("{root}/{file}"), None, access)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Lists the files below a folder, relative to `root`. Without the folder there are none.
fn local_files(root: &str, folder: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed = |cause| unreadable(root, &folder, cause);
        let entries = match std::fs::read_dir(local_path(&format!("{root}/{folder}"))) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => continue,
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let path = format!("{folder}/{}", path_text(entry.file_name().as_ref()));
            // Links are followed, as the cache of downloads consists of them; but not to folders,
            // since those could form a circle.
            if entry.file_type().map_err(failed)?.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    Ok(found)
}

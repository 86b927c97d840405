//! `meta/info.json`: the version, the features and the paths of a dataset.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Fault;

/// The file.
pub(super) const PATH: &str = "meta/info.json";

/// The content of `meta/info.json`, checked.
pub(super) struct Info {
    /// Whether many episodes share a file, as from version 3.0 on.
    pub is_joined: bool,
    /// Frames per second.
    pub fps: f64,
    /// Number of episodes.
    pub episodes: u64,
    /// Number of frames.
    pub frames: u64,
    /// The whole file.
    pub json: Map<String, Value>,
    /// Columns and cameras by name.
    pub features: BTreeMap<String, Feature>,
    /// Episodes whose files are in one folder, in version 2.1.
    chunk: u64,
    data_path: String,
    video_path: Option<String>,
}

/// A column or a camera.
#[derive(Deserialize)]
pub(super) struct Feature {
    dtype: String,
    #[serde(default)]
    info: Option<Value>,
}

/// The numbers that fill in a path's template.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// The numbers of a folder and a file, which hold many episodes.
    Joined { chunk: u64, file: u64 },
    /// The number of the episode.
    Own(u64),
}

#[derive(Deserialize)]
struct Raw {
    codebase_version: Option<String>,
    storage_format: Option<Value>,
    fps: Option<f64>,
    total_episodes: Option<u64>,
    total_frames: Option<u64>,
    chunks_size: Option<u64>,
    data_path: Option<String>,
    video_path: Option<String>,
    features: Option<BTreeMap<String, Feature>>,
}

impl Info {
    /// Reads the file.
    pub(super) fn parse(text: &[u8]) -> Result<Info, Fault> {
        let copy = "copy the dataset again, or write it again with `lerobot`";
        let damaged = |cause| Fault::new(format!("it is damaged: {cause}"), copy);
        let json: Map<String, Value> = serde_json::from_slice(text).map_err(damaged)?;
        let raw: Raw = serde_json::from_slice(text).map_err(damaged)?;
        let missing = |name: &str| Fault::new(format!("it has no `{name}`"), copy);
        let version = raw.codebase_version.ok_or_else(|| missing("codebase_version"))?;
        if let Some(format) = raw.storage_format.filter(|format| format != "parquet") {
            return Err(Fault::new(
                format!("`storage_format` is {format}, but lapo reads Parquet and MP4 files"),
                "use the dataset from before its conversion",
            ));
        }
        let is_joined = match version.as_str() {
            "v3.0" | "3.0" => true,
            "v2.1" | "2.1" => false,
            other => {
                return Err(Fault::new(
                    format!("`codebase_version` is {other}, but lapo reads v2.1 and v3.0"),
                    "convert the dataset with the scripts of the `lerobot` package",
                ));
            }
        };
        let fps = raw.fps.ok_or_else(|| missing("fps"))?;
        if !(fps.is_finite() && fps > 0.0 && fps <= 1000.0) {
            return Err(Fault::new(
                format!("`fps` is {fps}, expected frames per second above 0, at most 1000"),
                "set it to the rate of the videos",
            ));
        }
        let chunk = raw.chunks_size.unwrap_or(1000);
        if chunk == 0 {
            return Err(Fault::new("`chunks_size` is 0, expected 1 or more", copy));
        }
        Ok(Info {
            json,
            is_joined,
            fps,
            episodes: raw.total_episodes.ok_or_else(|| missing("total_episodes"))?,
            frames: raw.total_frames.ok_or_else(|| missing("total_frames"))?,
            features: raw.features.ok_or_else(|| missing("features"))?,
            chunk,
            data_path: raw.data_path.ok_or_else(|| missing("data_path"))?,
            video_path: raw.video_path,
        })
    }

    /// Returns the full names of cameras, and notes on those left out.
    pub(super) fn cameras(&self, wanted: &[String]) -> Result<(Vec<String>, Vec<String>), Fault> {
        let of_kind = |kind: &str| -> Vec<&String> {
            let features = self.features.iter().filter(|(_, feature)| feature.dtype == kind);
            features.map(|(name, _)| name).collect()
        };
        let all = of_kind("video");
        if all.is_empty() {
            let images = of_kind("image");
            return Err(if images.is_empty() {
                Fault::new("it has no camera", "name a dataset with videos")
            } else {
                Fault::new(
                    format!("its pictures of `{}` are in Parquet files, not videos", images[0]),
                    "convert them with `lerobot-edit-dataset`, operation \
                     `convert_image_to_video`",
                )
            });
        }
        if wanted.is_empty() {
            let (depth, colour): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|name| self.features[*name].is_depth());
            let note = |name: &&String| format!("the camera `{name}` is left out: it shows depth");
            if colour.is_empty() {
                return Err(Fault::new("its cameras show depth, not colours", "set `cameras`"));
            }
            return Ok((colour.into_iter().cloned().collect(), depth.iter().map(note).collect()));
        }
        let mut cameras = vec![];
        for name in wanted {
            let is_named = |camera: &&String| {
                *camera == name || camera.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
            };
            let found: Vec<&String> = all.iter().copied().filter(is_named).collect();
            let [camera] = found[..] else {
                let names: Vec<&str> = all.iter().map(|name| name.as_str()).collect();
                let seen = if found.is_empty() { "no camera is" } else { "several cameras are" };
                return Err(Fault::new(
                    format!("{seen} called `{name}`"),
                    format!("its cameras are {}", names.join(", ")),
                ));
            };
            if !cameras.contains(camera) {
                cameras.push(camera.clone());
            }
        }
        Ok((cameras, vec![]))
    }

    /// Returns the path of the video of a camera, relative to the dataset.
    pub(super) fn video_path(&self, camera: &str, place: &Place) -> Result<String, Fault> {
        let template = self.video_path.as_deref().unwrap_or_default();
        self.fill(template, "video_path", Some(camera), place)
    }

    /// Returns the path of a table of frames, relative to the dataset.
    pub(super) fn data_path(&self, place: &Place) -> Result<String, Fault> {
        self.fill(&self.data_path, "data_path", None, place)
    }

    /// Fills in a template such as `data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet`.
    fn fill(
        &self,
        template: &str,
        field: &str,
        camera: Option<&str>,
        place: &Place,
    ) -> Result<String, Fault> {
        let fault = || {
            let expected = if self.is_joined {
                "`{chunk_index}` and `{file_index}`"
            } else {
                "`{episode_chunk}` and `{episode_index}`"
            };
            let reason = format!("`{field}` is `{template}`, expected a path with {expected}");
            Fault::new(reason, "write the path as `lerobot` does")
        };
        let mut path = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            let (part, after) = after.split_once('}').ok_or_else(fault)?;
            let (name, format) = part.split_once(':').unwrap_or((part, ""));
            let number = match (name, place) {
                ("chunk_index", Place::Joined { chunk, .. }) => Some(*chunk),
                ("file_index", Place::Joined { file, .. }) => Some(*file),
                ("episode_chunk", Place::Own(episode)) => Some(episode / self.chunk),
                ("episode_index", Place::Own(episode)) => Some(*episode),
                _ => None,
            };
            let text = match (name, number) {
                ("video_key", _) => camera.ok_or_else(fault)?.to_owned(),
                (_, Some(number)) => {
                    let digits = format.trim_end_matches('d');
                    let width = if digits.is_empty() { Ok(0) } else { digits.parse::<usize>() };
                    let width = width.ok().filter(|width| *width <= 20).ok_or_else(fault)?;
                    format!("{number:0width$}")
                }
                _ => return Err(fault()),
            };
            path.push_str(before);
            path.push_str(&text);
            rest = after;
        }
        path.push_str(rest);
        // A path must not leave the dataset.
        let is_below = !path.starts_with('/') && path.split('/').all(|part| part != "..");
        if is_below && !path.is_empty() { Ok(path) } else { Err(fault()) }
    }
}

impl Feature {
    /// Returns whether it is a column of the tables of frames.
    pub(super) fn is_column(&self) -> bool {
        self.dtype != "video"
    }

    fn is_depth(&self) -> bool {
        let flag = |name: &str| {
            self.info.as_ref().and_then(|info| info.get(name)).and_then(Value::as_bool)
        };
        flag("is_depth_map").or_else(|| flag("video.is_depth_map")).unwrap_or(false)
    }
}

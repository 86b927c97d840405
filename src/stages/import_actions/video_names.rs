//! Finds the video that a name in a file of actions means.

use std::collections::{HashMap, HashSet};

/// An index of videos by name.
pub(super) struct ByName<'v> {
    all: HashSet<&'v str>,
    /// Videos by file name, and by file name without the extension.
    by_base: HashMap<&'v str, Vec<&'v str>>,
}

impl<'v> ByName<'v> {
    pub fn new(videos: impl Iterator<Item = &'v str>) -> Self {
        let mut all = HashSet::new();
        let mut by_base = HashMap::<_, Vec<_>>::new();
        for video in videos.filter(|video| all.insert(*video)) {
            by_base.entry(base(video)).or_default().push(video);
            // Indexed twice, with and without the extension.
            if let Some((stem, _)) = base(video).rsplit_once('.') {
                by_base.entry(stem).or_default().push(video);
            }
        }
        ByName { all, by_base }
    }

    /// Returns the videos that `name` may refer to: the video with exactly this name, or else all
    /// videos whose paths end with it, part by part. `0001.mp4` may be in any folder,
    /// `train/0001.mp4` only in a folder `train`. Either name may lack the extension, since a
    /// recorded episode has none but its video file does.
    pub fn find(&self, name: &str) -> Vec<&'v str> {
        if let Some(video) = self.all.get(name) {
            // An exact match wins over longer paths that end with the name.
            return vec![video];
        }
        let stem = base(name).rsplit_once('.').map_or(base(name), |(stem, _)| stem);
        let with_ending = self.by_base.get(base(name)).into_iter().flatten();
        // A name with an extension never refers to a video with another extension.
        let without = self
            .by_base
            .get(stem)
            .into_iter()
            .flatten()
            .filter(|video| base(video) == stem && stem != base(name));
        with_ending
            .chain(without)
            .copied()
            .filter(|video| ends_with(folders(video), folders(name)))
            .collect()
    }
}

/// Returns whether the folders of `video` end with the folders of `name`.
fn ends_with<'n>(
    video: impl Iterator<Item = &'n str> + Clone,
    name: impl Iterator<Item = &'n str> + Clone,
) -> bool {
    let video: Vec<&str> = video.collect();
    let name: Vec<&str> = name.collect();
    video.ends_with(&name)
}

/// Returns the folders of a path, outermost first.
fn folders(path: &str) -> impl Iterator<Item = &str> + Clone {
    path[..path.len() - base(path).len()].split('/').filter(|part| !matches!(*part, "" | "."))
}

pub(super) fn base(video: &str) -> &str {
    video.rsplit('/').next().unwrap_or(video)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_matches_videos_whose_paths_end_with_it_part_by_part() {
        let videos = [
            "d/test/0001.mp4",
            "d/test/0002.mp4",
            "d/train/0002.mp4",
            "0003.mp4",
            "x/0003.mp4",
            "a.tar/0004.webm",
            "episode-5",
            "x/v1.2",
        ];
        let by_name = ByName::new(videos.into_iter());
        let cases: [(&str, &[&str]); 17] = [
            ("d/test/0001.mp4", &["d/test/0001.mp4"]),
            ("test/0001.mp4", &["d/test/0001.mp4"]),
            ("./test/0001.mp4", &["d/test/0001.mp4"]),
            ("0001.mp4", &["d/test/0001.mp4"]),
            ("0001", &["d/test/0001.mp4"]),
            ("test/0001", &["d/test/0001.mp4"]),
            ("train/0001.mp4", &[]),
            ("est/0001.mp4", &[]),
            ("/other/d/test/0001.mp4", &[]),
            ("0002.mp4", &["d/test/0002.mp4", "d/train/0002.mp4"]),
            ("train/0002.mp4", &["d/train/0002.mp4"]),
            ("0003.mp4", &["0003.mp4"]),
            ("0004.mp4", &[]),
            ("a.tar/0004.webm", &["a.tar/0004.webm"]),
            ("episode-5.mp4", &["episode-5"]),
            ("v1.2", &["x/v1.2"]),
            ("v1", &["x/v1.2"]),
        ];
        for (name, expected) in cases {
            let mut found = by_name.find(name);
            found.sort_unstable();
            assert_eq!(found, expected, "{name}");
        }
    }
}

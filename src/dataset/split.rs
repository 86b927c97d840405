//! The split into training and held-out videos, the same for every stage that trains or judges.
//! Start at [`Split::new`].
//!
//! A video is held out by a hash of its content's digest. So the split depends on nothing but the
//! videos: not on their order, their names, seeds, or the stage. All shots of a video and all of
//! its byte-identical copies are on one side. One in `holdout` videos is held out on average, but
//! at least one, and at least one trains.
//!
//! A single video is cut instead: its last fifth is held out, after a gap of a twentieth, in which
//! frames are neither trained on nor judged.

/// Frames of a video, for [`Split::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoFrames {
    /// The video.
    pub rank: VideoRank,
    /// The first and the last frame number within the video.
    pub frames: [u32; 2],
}

/// The place of a video in the order that decides which ones are held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VideoRank(u64);

impl VideoRank {
    /// Returns the rank of the video with this digest.
    #[must_use]
    pub fn of(digest: &str) -> Self {
        let hash = blake3::hash(digest.as_bytes());
        Self(u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes")))
    }
}

/// Which videos are held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split(Rule);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Every frame trains and judges.
    None,
    /// Videos up to this rank are held out.
    Videos(VideoRank),
    /// The single video trains before frame `gap`, and is held out from `held_out` on.
    Frames { gap: u32, held_out: u32 },
}

impl Split {
    /// Splits videos; the same video may come several times. 0: nothing is held out, and training
    /// frames are judged, too.
    #[must_use]
    pub fn new(holdout: usize, videos: impl IntoIterator<Item = VideoFrames>) -> Self {
        if holdout == 0 {
            return Self(Rule::None);
        }
        let highest = VideoRank(u64::MAX / holdout as u64);
        let mut lowest = VideoRank(u64::MAX);
        let mut last = VideoRank(0);
        let mut frames = [u32::MAX, 0];
        for video in videos {
            lowest = lowest.min(video.rank);
            last = last.max(video.rank);
            frames = [frames[0].min(video.frames[0]), frames[1].max(video.frames[1])];
        }
        if lowest == last {
            let length = frames[1] + 1 - frames[0];
            let held_out = frames[1] + 1 - length / 5;
            return Self(Rule::Frames { gap: held_out - length / 20, held_out });
        }
        // At least the lowest is held out, and at least the last one trains.
        Self(Rule::Videos(highest.max(lowest).min(VideoRank(last.0.saturating_sub(1)))))
    }

    /// Returns whether a frame of a video is trained on.
    #[must_use]
    pub fn trains(&self, rank: VideoRank, frame: u32) -> bool {
        match self.0 {
            Rule::None => true,
            Rule::Videos(held_out) => rank > held_out,
            Rule::Frames { gap, .. } => frame < gap,
        }
    }

    /// Returns whether a frame of a video judges.
    #[must_use]
    pub fn judges(&self, rank: VideoRank, frame: u32) -> bool {
        match self.0 {
            Rule::None => true,
            Rule::Videos(held_out) => rank <= held_out,
            Rule::Frames { held_out, .. } => frame >= held_out,
        }
    }

    /// Returns whether a single video is cut.
    #[must_use]
    pub fn cuts_a_video(&self) -> bool {
        matches!(self.0, Rule::Frames { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn videos(names: std::ops::Range<usize>) -> Vec<VideoFrames> {
        let rank = |name: usize| VideoRank::of(&format!("{name:064x}"));
        names.map(|name| VideoFrames { rank: rank(name), frames: [0, 99] }).collect()
    }

    /// Returns how many videos train and how many judge; no video does both.
    fn counts(holdout: usize, videos: &[VideoFrames]) -> [usize; 2] {
        let split = Split::new(holdout, videos.iter().copied());
        let trains = videos.iter().filter(|video| split.trains(video.rank, 7));
        let judges = videos.iter().filter(|video| split.judges(video.rank, 7));
        let both =
            |video: &&VideoFrames| split.trains(video.rank, 7) == split.judges(video.rank, 7);
        assert_eq!(videos.iter().filter(both).count(), 0);
        [trains.count(), judges.count()]
    }

    #[test]
    fn one_in_holdout_videos_is_held_out_and_each_side_has_one() {
        let [_, held_out] = counts(10, &videos(0..10_000));
        assert!((900..1100).contains(&held_out), "{held_out}");
        for first in 0..300 {
            for count in 2..6 {
                for holdout in [2, 5, 10, 1000] {
                    let [training, held_out] = counts(holdout, &videos(first..first + count));
                    assert!(training > 0 && held_out > 0, "{first} {count} {holdout}");
                }
            }
        }
    }

    #[test]
    fn the_split_depends_on_neither_order_nor_repetition_nor_other_videos() {
        let mut known = videos(0..200);
        let split = Split::new(5, known.iter().copied());
        known.reverse();
        known.extend(videos(0..50));
        assert_eq!(Split::new(5, known), split);
        assert_eq!(Split::new(5, videos(0..1000)), split);
    }

    #[test]
    fn a_single_video_is_cut_with_a_gap() {
        let [video] = videos(0..1)[..] else { unreachable!("there is one") };
        let split = Split::new(10, [video, video]);
        let frames = |keep: &dyn Fn(u32) -> bool| (0..100).filter(|frame| keep(*frame)).count();
        assert_eq!(frames(&|frame| split.trains(video.rank, frame)), 75);
        assert_eq!(frames(&|frame| split.judges(video.rank, frame)), 20);
        assert!(split.judges(video.rank, 99) && split.trains(video.rank, 0));
        let none = Split::new(0, [video]);
        assert_eq!(frames(&|frame| none.trains(video.rank, frame)), 100);
        assert_eq!(frames(&|frame| none.judges(video.rank, frame)), 100);
    }
}

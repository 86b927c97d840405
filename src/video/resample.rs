//! Selects a picture for each frame at a constant frame rate.
//!
//! A [`Resampler`] works like ffmpeg's `fps` filter: frame n is at n / fps seconds. It shows the
//! last picture whose time, rounded to a frame, is not later. No picture is repeated across a gap.

use super::Frame;
use super::outcome::UNPLACED;

/// Time of one picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PictureTime {
    /// Time since the start of the file, in seconds.
    pub(super) time_secs: f64,
    /// Stated duration, which applies to the last picture of the file.
    pub(super) duration_secs: f64,
    /// Usual duration, which applies if the next picture is lost.
    pub(super) usual_secs: f64,
    /// Whether pictures were lost before it, or the clock jumped.
    pub(super) gap_before: bool,
    /// Whether the previous picture was shown for so long that the action in between is unknown.
    pub(super) after_standstill: bool,
    /// Position in the source.
    pub(super) index: u64,
}

/// Tracks the frames still to be filled by the current picture.
#[derive(Debug)]
pub(super) struct Resampler {
    fps: f64,
    /// Number of the next frame.
    next: i64,
    /// Number of the first frame after the current picture.
    end: i64,
    /// Whether the next frame follows a gap.
    gap: bool,
    /// Number and position of the last frame.
    last: Option<(i64, u64)>,
    /// Position of the current picture.
    picture_index: u64,
}

impl Resampler {
    /// Creates a resampler; the first frame is at the first picture.
    pub(super) fn new(fps: f64) -> Self {
        Self { fps, next: i64::MIN, end: i64::MIN, gap: false, last: None, picture_index: 0 }
    }

    /// Makes `picture` the current one; `after` is the time of its successor, `None` at the end.
    pub(super) fn show(&mut self, picture: PictureTime, after: Option<PictureTime>) {
        let start = self.frame_at(picture.time_secs);
        // Frame numbers continue from the last frame, unless the clock went back.
        let steps_back = start.saturating_add(1) < self.next;
        self.next = if steps_back { start } else { self.next.max(start) };
        self.end = match after {
            Some(after) if !after.gap_before => self.frame_at(after.time_secs),
            Some(_) => self.frame_at(picture.time_secs + picture.usual_secs),
            None => self.frame_at(picture.time_secs + picture.duration_secs),
        };
        self.gap |= picture.gap_before;
        self.picture_index = picture.index;
    }

    /// Returns the next frame filled by the current picture.
    pub(super) fn next_frame(&mut self) -> Option<Frame> {
        if self.next >= self.end {
            return None;
        }
        let index = self.position_of(self.next);
        self.last = Some((self.next, index));
        let time_secs = self.next as f64 / self.fps;
        self.next += 1;
        Some(Frame { time_secs, gap_before: std::mem::take(&mut self.gap), index })
    }

    /// Returns the position of a frame. Frames left out by a gap count.
    fn position_of(&self, number: i64) -> u64 {
        match self.last {
            Some((last, index)) if number > last => index + number.abs_diff(last),
            // The clock went back. After a loss the position is then unknown.
            Some((_, index)) if self.gap && self.picture_index >= UNPLACED => {
                index.max(UNPLACED - 1) + 1
            }
            Some((_, index)) => index + 1,
            None if self.picture_index == 0 => 0,
            None => u64::try_from(number).unwrap_or(0),
        }
    }

    /// Returns the nearest frame; ties round up. Times carry rounding errors, so values slightly
    /// below a tie round up too.
    fn frame_at(&self, time_secs: f64) -> i64 {
        (time_secs * self.fps + 0.5 + 1e-6).floor() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resamples pictures at the given times and compares the frames as `picture@frame`, or
    /// `picture|frame` after a gap. A negative time marks a gap.
    fn check(fps: f64, duration_secs: f64, times: &[f64], expected: &str) {
        let picture_time = |time: &f64| PictureTime {
            time_secs: time.abs(),
            duration_secs,
            usual_secs: duration_secs,
            gap_before: time.is_sign_negative(),
            after_standstill: false,
            index: 0,
        };
        let mut resampler = Resampler::new(fps);
        let mut seen = Vec::new();
        for (index, time) in times.iter().enumerate() {
            resampler.show(picture_time(time), times.get(index + 1).map(picture_time));
            while let Some(Frame { time_secs, gap_before, .. }) = resampler.next_frame() {
                seen.push(format!(
                    "{index}{}{:.0}",
                    if gap_before { "|" } else { "@" },
                    time_secs * fps
                ));
            }
        }
        assert_eq!(seen.join(" "), expected);
    }

    #[test]
    fn a_lower_rate_keeps_the_nearest_picture_as_the_fps_filter_does() {
        // `ffmpeg -vf fps=10` on 30 pictures per second shows pictures 1, 4, 7: thirds round to
        // the nearest, ties up.
        check(
            10.0,
            1.0 / 30.0,
            &[0.0, 1.0 / 30.0, 2.0 / 30.0, 0.1, 4.0 / 30.0, 5.0 / 30.0, 0.2],
            "1@0 4@1",
        );
        check(5.0, 0.1, &[0.0, 0.1, 0.2, 0.3], "0@0 2@1");
    }

    #[test]
    fn a_higher_rate_repeats_pictures_and_a_long_hold_is_filled() {
        check(4.0, 0.5, &[0.0, 0.5], "0@0 0@1 1@2 1@3");
        check(2.0, 0.5, &[0.0, 2.0], "0@0 0@1 0@2 0@3 1@4");
    }

    #[test]
    fn pictures_are_not_repeated_across_a_gap_which_is_marked_once() {
        check(2.0, 0.5, &[0.0, -2.0, 2.5], "0@0 1|4 2@5");
        // The picture after the gap falls between frames, so the next frame carries the mark.
        check(1.0, 0.25, &[0.0, 1.25, -5.0, 5.25, 5.5], "0@0 1@1 3|5");
    }

    #[test]
    fn frames_left_out_by_a_gap_count_in_the_position() {
        let mut resampler = Resampler::new(10.0);
        let picture = |time_secs: f64, gap_before: bool| PictureTime {
            time_secs,
            duration_secs: 0.1,
            usual_secs: 0.1,
            gap_before,
            after_standstill: false,
            index: 0,
        };
        let times = [picture(0.2, false), picture(0.3, false), picture(0.9, true)];
        let mut seen = Vec::new();
        for (at, time) in times.iter().enumerate() {
            resampler.show(*time, times.get(at + 1).copied());
            seen.extend(std::iter::from_fn(|| resampler.next_frame()).map(|frame| frame.index));
        }
        assert_eq!(seen, [0, 1, 7]);
    }

    #[test]
    fn frames_restart_where_the_clock_goes_back() {
        check(1.0, 1.0, &[5.0, 6.0, -0.0, 1.0], "0@5 1@6 2|0 3@1");
    }
}

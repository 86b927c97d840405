//! Pictures at their own times become frames at a constant rate.
//!
//! In: the times of pictures, one ahead of the one shown. Out: which picture each frame shows.
//! It is ffmpeg's `fps` filter: frame n lies at n / fps, and shows the last picture whose time,
//! rounded to a frame, is not after it. Across a gap nothing is repeated. Start at [`Resampler`].

use super::Frame;
use super::outcome::UNPLACED;

/// The time of one picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Moment {
    /// Seconds since the file's start.
    pub(super) time_secs: f64,
    /// How long the picture is shown at the end of the file, as the file says.
    pub(super) duration_secs: f64,
    /// How long the picture is shown where the next one is lost.
    pub(super) usual_secs: f64,
    /// Whether what came before it is unknown.
    pub(super) gap_before: bool,
    /// Whether the picture before it was shown for too long to tell what happened.
    pub(super) after_standstill: bool,
    /// Its position in the source.
    pub(super) index: u64,
}

/// Which frames the picture at hand still fills.
#[derive(Debug)]
pub(super) struct Resampler {
    fps: f64,
    next: i64,
    end: i64,
    gap: bool,
    /// The frame given last, and its position.
    given: Option<(i64, u64)>,
    /// The position of the picture at hand.
    shown: u64,
}

impl Resampler {
    /// Frames at `fps`, the first one where the first picture is.
    pub(super) fn new(fps: f64) -> Self {
        Self { fps, next: i64::MIN, end: i64::MIN, gap: false, given: None, shown: 0 }
    }

    /// Takes the next picture at hand, with the time of the one after it, if there is one.
    pub(super) fn show(&mut self, picture: Moment, after: Option<Moment>) {
        let start = self.frame_at(picture.time_secs);
        // Frames go on from the last one given, unless the clock went back.
        let steps_back = start.saturating_add(1) < self.next;
        self.next = if steps_back { start } else { self.next.max(start) };
        self.end = match after {
            Some(after) if !after.gap_before => self.frame_at(after.time_secs),
            Some(_) => self.frame_at(picture.time_secs + picture.usual_secs),
            None => self.frame_at(picture.time_secs + picture.duration_secs),
        };
        self.gap |= picture.gap_before;
        self.shown = picture.index;
    }

    /// The next frame that shows the picture at hand.
    pub(super) fn next_frame(&mut self) -> Option<Frame> {
        if self.next >= self.end {
            return None;
        }
        let index = self.position_of(self.next);
        self.given = Some((self.next, index));
        let time_secs = self.next as f64 / self.fps;
        self.next += 1;
        Some(Frame { time_secs, gap_before: std::mem::take(&mut self.gap), index })
    }

    /// The position of a frame: its distance from the one before counts those that a gap left out.
    fn position_of(&self, number: i64) -> u64 {
        match self.given {
            Some((last, index)) if number > last => index + number.abs_diff(last),
            // The clock went back. After a loss nothing tells where.
            Some((_, index)) if self.gap && self.shown >= UNPLACED => index.max(UNPLACED - 1) + 1,
            Some((_, index)) => index + 1,
            None if self.shown == 0 => 0,
            None => u64::try_from(number).unwrap_or(0),
        }
    }

    /// The nearest frame, a tie going up. Times carry rounding errors, so a tie is taken a little wider.
    fn frame_at(&self, time_secs: f64) -> i64 {
        (time_secs * self.fps + 0.5 + 1e-6).floor() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resamples pictures at the given times, a minus sign marking a gap; spells `picture@frame`.
    fn check(fps: f64, duration_secs: f64, times: &[f64], expected: &str) {
        let moment = |time: &f64| Moment {
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
            resampler.show(moment(time), times.get(index + 1).map(moment));
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
        // ffmpeg -vf fps=10 on 30 pictures a second shows pictures 1, 4, 7: thirds round to the nearest, ties up.
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
    fn nothing_is_repeated_across_a_gap_and_the_gap_is_told_once() {
        check(2.0, 0.5, &[0.0, -2.0, 2.5], "0@0 1|4 2@5");
        // The picture after the gap falls between frames: the next one carries the mark.
        check(1.0, 0.25, &[0.0, 1.25, -5.0, 5.25, 5.5], "0@0 1@1 3|5");
    }

    #[test]
    fn the_frames_that_a_gap_leaves_out_are_counted() {
        let mut resampler = Resampler::new(10.0);
        let picture = |time_secs: f64, gap_before: bool| Moment {
            time_secs,
            duration_secs: 0.1,
            usual_secs: 0.1,
            gap_before,
            after_standstill: false,
            index: 0,
        };
        let moments = [picture(0.2, false), picture(0.3, false), picture(0.9, true)];
        let mut seen = Vec::new();
        for (at, moment) in moments.iter().enumerate() {
            resampler.show(*moment, moments.get(at + 1).copied());
            seen.extend(std::iter::from_fn(|| resampler.next_frame()).map(|frame| frame.index));
        }
        assert_eq!(seen, [0, 1, 7]);
    }

    #[test]
    fn a_clock_that_goes_back_starts_again_there() {
        check(1.0, 1.0, &[5.0, 6.0, -0.0, 1.0], "0@5 1@6 2|0 3@1");
    }
}

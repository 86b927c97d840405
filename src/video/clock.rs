//! Converts timestamps to seconds and tracks how far a file reaches.
//!
//! Timestamps may be missing or jump. [`Clock::picture_time`] returns the [`PictureTime`] of each
//! picture.

use ffmpeg_next::{Packet, frame};

use super::ffi;
use super::position::Position;
use super::probe::{StatedDuration, frame_rate};
use super::resample::PictureTime;
use super::source::Source;

/// A picture shown for longer than this ends the transition: the next one is marked with a gap.
const STANDSTILL_SECS: f64 = 60.0;
/// A longer step is a jump of the clock. Broadcasts can be joined anywhere, so there a standstill
/// already counts as a jump.
const LONGEST_HOLD_SECS: f64 = 3600.0;
/// Steps up to this multiple of the step before are regular.
const REGULAR_STEP_RATIO: f64 = 1.5;

/// Time of one file.
pub(super) struct Clock {
    /// Frames per second according to the header.
    fps: f64,
    /// Duration of a tick in seconds, by stream.
    tick_secs: Vec<f64>,
    video: usize,
    start_secs: Option<f64>,
    last: Option<PictureTime>,
    /// Last distance between two consecutive pictures, in seconds.
    step_secs: Option<f64>,
    longest_hold_secs: f64,
    /// Duration according to the header.
    stated: Option<StatedDuration>,
    /// Latest end of a packet read, in seconds.
    covered_secs: f64,
}

impl Clock {
    /// Creates the clock of a newly opened file.
    pub(super) fn new(source: &Source) -> Self {
        Self {
            fps: frame_rate(&source.stream()),
            tick_secs: source.input.streams().map(|stream| f64::from(stream.time_base())).collect(),
            video: source.stream_index,
            start_secs: ffi::start_time_secs(&source.input),
            last: None,
            step_secs: None,
            longest_hold_secs: if source.is_broadcast() {
                STANDSTILL_SECS
            } else {
                LONGEST_HOLD_SECS
            },
            stated: StatedDuration::of(source),
            covered_secs: f64::NEG_INFINITY,
        }
    }

    /// Returns the time of the next picture.
    ///
    /// A picture without a timestamp, as in raw streams and at the end of an AVI, follows the last
    /// one by the usual step. A gap is marked after lost pictures and after a jump of the clock in
    /// either direction. Stated durations do not decide about gaps: in many files they belong to
    /// another picture order or rate.
    pub(super) fn picture_time(
        &mut self,
        picture: &frame::Video,
        position: Position,
    ) -> PictureTime {
        let tick = self.tick_secs[self.video];
        let usual_secs = self.step_secs.unwrap_or(1.0 / self.fps);
        let time_secs = match picture.timestamp() {
            Some(timestamp) => {
                let secs = timestamp as f64 * tick;
                secs - *self.start_secs.get_or_insert(secs)
            }
            None => self.last.map_or(0.0, |last| last.time_secs + usual_secs),
        };
        let stated_secs = picture.packet().duration as f64 * tick;
        let duration_secs = if stated_secs > 0.0 { stated_secs } else { 1.0 / self.fps };
        let step_secs = self.last.map_or(0.0, |last| time_secs - last.time_secs);
        // The first step is always regular, so a time lapse does not begin with a gap.
        let is_unusual = |longest_secs: f64| {
            self.step_secs
                .is_some_and(|usual| step_secs > longest_secs.max(REGULAR_STEP_RATIO * usual))
        };
        let gap_before =
            position.lost_before || step_secs < 0.0 || is_unusual(self.longest_hold_secs);
        let after_standstill = is_unusual(STANDSTILL_SECS);
        if step_secs > 0.0 && !gap_before {
            self.step_secs = Some(step_secs);
        }
        let usual_secs = duration_secs.max(self.step_secs.unwrap_or_default());
        let time = PictureTime {
            time_secs,
            duration_secs,
            usual_secs,
            gap_before,
            after_standstill,
            index: position.index,
        };
        self.last = Some(time);
        time
    }

    /// Extends the covered time by a packet.
    pub(super) fn cover(&mut self, packet: &Packet) {
        let any_stream = self.stated.is_some_and(|stated| stated.any_stream);
        let Some(tick) = self
            .tick_secs
            .get(packet.stream())
            .filter(|_| any_stream || packet.stream() == self.video)
        else {
            return;
        };
        if let Some(timestamp) = packet.pts().max(packet.dts()) {
            // Video packets without a duration cover one frame.
            let frame_secs = if packet.stream() == self.video { 1.0 / self.fps } else { 0.0 };
            let duration_secs = (packet.duration() as f64 * tick).max(frame_secs);
            self.covered_secs = self.covered_secs.max(timestamp as f64 * tick + duration_secs);
        }
    }

    /// Returns the covered and the stated seconds, if the file is shorter than stated by more than
    /// rounding.
    pub(super) fn shortfall(&self) -> Option<(f64, f64)> {
        let stated = self.stated?.secs;
        // Some containers count from their first timestamp, others from zero. Take the longer one.
        let covered = self.covered_secs.max(self.covered_secs - self.start_secs.unwrap_or(0.0));
        let slack = (2.0 / self.fps).max(0.25);
        (covered + slack < stated && covered.is_finite()).then_some((covered, stated))
    }

    /// Returns whether the stated duration covers every stream, so that all must be read.
    pub(super) fn needs_every_stream(&self) -> bool {
        self.stated.is_some_and(|stated| stated.any_stream)
    }
}

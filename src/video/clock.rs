//! Timestamps become seconds, and say how far the file got.
//!
//! In: timestamps of pictures and packets, missing or jumping as they may be. Out: a [`Moment`] for
//! each picture, and the seconds covered. Start at [`Clock::moment`].

use ffmpeg_next::{Packet, frame};

use super::ffi;
use super::probe::{Promise, frame_rate};
use super::resample::Moment;
use super::source::Source;

/// A picture shown for longer is a jump of the clock, not a still scene.
const LONGEST_HOLD_SECS: f64 = 60.0;

/// The time of one file.
pub(super) struct Clock {
    /// Frames a second, as the file says.
    fps: f64,
    /// Seconds a tick, for every stream.
    ticks: Vec<f64>,
    video: usize,
    start_secs: Option<f64>,
    last: Option<Moment>,
    promise: Option<Promise>,
    covered_secs: f64,
}

impl Clock {
    /// The clock of a file that was just opened.
    pub(super) fn new(source: &Source) -> Self {
        Self {
            fps: frame_rate(&source.stream()),
            ticks: source.input.streams().map(|stream| f64::from(stream.time_base())).collect(),
            video: source.stream_index,
            start_secs: ffi::start_time_secs(&source.input),
            last: None,
            promise: Promise::of(source),
            covered_secs: f64::NEG_INFINITY,
        }
    }

    /// The time of the next picture. Without a timestamp, as in raw streams, it follows the last one
    /// by one frame. A gap is marked where the clock goes back or leaps, and in a `suspect` place
    /// wherever a picture does not follow the last one at once.
    pub(super) fn moment(&mut self, picture: &frame::Video, suspect: bool) -> Moment {
        let tick = self.ticks[self.video];
        let frame_secs = 1.0 / self.fps;
        let time_secs = match picture.timestamp() {
            Some(timestamp) => {
                let secs = timestamp as f64 * tick;
                secs - *self.start_secs.get_or_insert(secs)
            }
            None => self.last.map_or(0.0, |last| last.time_secs + frame_secs),
        };
        let stated_secs = picture.packet().duration as f64 * tick;
        let duration_secs = if stated_secs > 0.0 { stated_secs } else { frame_secs };
        let gap_before = self.last.is_some_and(|last| {
            let longest = if suspect { 1.5 * last.duration_secs } else { LONGEST_HOLD_SECS };
            time_secs < last.time_secs || time_secs > last.time_secs + longest
        });
        let moment = Moment { time_secs, duration_secs, gap_before };
        self.last = Some(moment);
        moment
    }

    /// Notes how far a packet reaches.
    pub(super) fn cover(&mut self, packet: &Packet) {
        let any_stream = self.promise.is_some_and(|promise| promise.any_stream);
        let Some(tick) = self.ticks.get(packet.stream()).filter(|_| any_stream || packet.stream() == self.video) else {
            return;
        };
        if let Some(timestamp) = packet.pts().max(packet.dts()) {
            let frame_secs = if packet.stream() == self.video { 1.0 / self.fps } else { 0.0 };
            let duration_secs = (packet.duration() as f64 * tick).max(frame_secs);
            self.covered_secs = self.covered_secs.max(timestamp as f64 * tick + duration_secs);
        }
    }

    /// How far the file got, and how far it promised to, where it fell short by more than rounding.
    pub(super) fn shortfall(&self) -> Option<(f64, f64)> {
        let promised = self.promise?.secs;
        // Some containers count from their first timestamp, some from zero: the kinder reading.
        let covered = self.covered_secs.max(self.covered_secs - self.start_secs.unwrap_or(0.0));
        let slack = (2.0 / self.fps).max(0.25);
        (covered + slack < promised && covered.is_finite()).then_some((covered, promised))
    }

    /// Whether every stream must be read to know how far the file got.
    pub(super) fn needs_every_stream(&self) -> bool {
        self.promise.is_some_and(|promise| promise.any_stream)
    }
}

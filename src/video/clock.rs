//! Timestamps become seconds, and say how far the file got.
//!
//! In: timestamps of pictures and packets, missing or jumping as they may be. Out: a [`Moment`] for
//! each picture, and the seconds covered. Start at [`Clock::moment`].

use ffmpeg_next::{Packet, frame};

use super::ffi;
use super::position::Position;
use super::probe::{Promise, frame_rate};
use super::resample::Moment;
use super::source::Source;

/// What happens while a picture is shown for longer than this is no transition.
const STANDSTILL_SECS: f64 = 60.0;
/// A longer step is a jump of the clock. In broadcasts, which may be joined anywhere, so is a standstill.
const LONGEST_HOLD_SECS: f64 = 3600.0;
/// A step is as usual up to this many times the step before.
const USUAL: f64 = 1.5;

/// The time of one file.
pub(super) struct Clock {
    /// Frames a second, as the file says.
    fps: f64,
    /// Seconds a tick, for every stream.
    ticks: Vec<f64>,
    video: usize,
    start_secs: Option<f64>,
    last: Option<Moment>,
    /// The last distance between two pictures that follow each other.
    step_secs: Option<f64>,
    longest_hold_secs: f64,
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
            step_secs: None,
            longest_hold_secs: if source.is_broadcast() {
                STANDSTILL_SECS
            } else {
                LONGEST_HOLD_SECS
            },
            promise: Promise::of(source),
            covered_secs: f64::NEG_INFINITY,
        }
    }

    /// The time of the next picture. Without a timestamp, as in raw streams and at the end of an AVI,
    /// it follows the last one by the usual step. A gap is marked where pictures were lost, and where
    /// the clock goes back or leaps; durations that files state are never held against a step, since
    /// many state those of another order or rate.
    pub(super) fn moment(&mut self, picture: &frame::Video, position: Position) -> Moment {
        let tick = self.ticks[self.video];
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
        // The first step of a time lapse has none before it to be compared with.
        let is_unusual = |longest_secs: f64| {
            self.step_secs.is_some_and(|usual| step_secs > longest_secs.max(USUAL * usual))
        };
        let gap_before =
            position.lost_before || step_secs < 0.0 || is_unusual(self.longest_hold_secs);
        let after_standstill = is_unusual(STANDSTILL_SECS);
        if step_secs > 0.0 && !gap_before {
            self.step_secs = Some(step_secs);
        }
        let usual_secs = duration_secs.max(self.step_secs.unwrap_or_default());
        let moment = Moment {
            time_secs,
            duration_secs,
            usual_secs,
            gap_before,
            after_standstill,
            index: position.index,
        };
        self.last = Some(moment);
        moment
    }

    /// Notes how far a packet reaches.
    pub(super) fn cover(&mut self, packet: &Packet) {
        let any_stream = self.promise.is_some_and(|promise| promise.any_stream);
        let Some(tick) =
            self.ticks.get(packet.stream()).filter(|_| any_stream || packet.stream() == self.video)
        else {
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

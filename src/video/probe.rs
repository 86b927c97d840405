//! Reads a file's properties from its header.
//!
//! [`probe`] returns them as a [`Probe`]. [`StatedDuration`] is the duration according to the
//! header, which decoding later compares with the actual one.

use std::path::Path;

use ffmpeg_next::codec::packet::side_data;
use ffmpeg_next::{Rational, Stream, ffi};

use super::guard::Guard;
use super::orientation::Orientation;
use super::source::Source;
use super::{Error, Limits, Probe, ffi as libav};

/// Frames per second if the file states none; libav's value for raw streams.
const FALLBACK_FPS: f64 = 25.0;
/// Largest plausible rate. A container with a higher one states its ticks, not its frames.
const MAX_PLAUSIBLE_FPS: f64 = 1000.0;

/// Reads a file's header and first packets.
///
/// If the file is at fault, [`Error::class`] returns the fault class.
pub fn probe(path: &Path, limits: &Limits) -> Result<Probe, Error> {
    limits.validate()?;
    let guard = Guard::new(limits);
    let source = guard.timed(|| Source::open(path, limits, &guard))?;
    Ok(describe(&source))
}

/// Returns the properties of an opened file.
pub(super) fn describe(source: &Source) -> Probe {
    let stream = source.stream();
    let (width, height) = libav::stated_size(&stream);
    let (rotation_degrees, mirrored) = orientation(&stream).rotation();
    let duration_secs = StatedDuration::of(source).map(|stated| stated.secs);
    let fps = frame_rate(&stream);
    let counted = u64::try_from(stream.frames()).ok().filter(|frames| *frames > 0);
    Probe {
        container: source.input.format().name().to_owned(),
        codec: stream.parameters().id().name().to_owned(),
        width,
        height,
        rotation_degrees,
        mirrored,
        fps,
        duration_secs,
        // Preferred to the container's count, because only the duration respects edit lists.
        expected_frames: duration_secs.map(|secs| (secs * fps).round() as u64).or(counted),
    }
}

/// Returns how to turn the pictures upright.
pub(super) fn orientation(stream: &Stream) -> Orientation {
    let matrix = stream.side_data().find(|data| data.kind() == side_data::Type::DisplayMatrix);
    matrix
        .map_or_else(Orientation::default, |matrix| Orientation::from_display_matrix(matrix.data()))
}

/// Returns the frames per second: the average, else the nominal rate, else 25.
pub(super) fn frame_rate(stream: &Stream) -> f64 {
    let plausible = |rate: Rational| {
        let fps = f64::from(rate.numerator()) / f64::from(rate.denominator().max(1));
        (fps > 0.0 && fps <= MAX_PLAUSIBLE_FPS).then_some(fps)
    };
    plausible(stream.avg_frame_rate()).or_else(|| plausible(stream.rate())).unwrap_or(FALLBACK_FPS)
}

/// Duration of a file according to its header.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StatedDuration {
    /// Duration in seconds.
    pub(super) secs: f64,
    /// Whether this is the duration of the longest stream, which need not be the video.
    pub(super) any_stream: bool,
}

impl StatedDuration {
    /// Returns the duration of the video stream, else the container's, never one estimated from the
    /// bit rate.
    pub(super) fn of(source: &Source) -> Option<Self> {
        if !libav::duration_is_stated(&source.input) {
            return None;
        }
        let stream = source.stream();
        let ticks = stream.duration();
        if is_unknown(ticks) {
            return None;
        }
        if ticks != ffi::AV_NOPTS_VALUE && ticks > 0 {
            return Some(Self {
                secs: ticks as f64 * f64::from(stream.time_base()),
                any_stream: false,
            });
        }
        // Matroska states a stream's duration as text.
        let tag = libav::tag(&stream, c"DURATION").and_then(clock_secs);
        if let Some(secs) = tag.filter(|secs| *secs > 0.0) {
            return Some(Self { secs, any_stream: false });
        }
        let ticks = source.input.duration();
        let stated = ticks != ffi::AV_NOPTS_VALUE && ticks > 0;
        stated.then(|| Self { secs: ticks as f64 / f64::from(ffi::AV_TIME_BASE), any_stream: true })
    }
}

/// Returns whether a duration is MP4's value for "unknown": all 32 or 64 bits set.
fn is_unknown(ticks: i64) -> bool {
    ticks == i64::from(u32::MAX) || ticks == i64::MAX || ticks == -1
}

/// Parses `hours:minutes:seconds.fraction` into seconds.
fn clock_secs(text: &str) -> Option<f64> {
    text.split(':').try_fold(0.0, |secs, part| Some(secs * 60.0 + part.trim().parse::<f64>().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_time_is_parsed_into_seconds() {
        assert_eq!(clock_secs("00:01:02.500000000"), Some(62.5));
        assert_eq!(clock_secs("soon"), None);
    }
}

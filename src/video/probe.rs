//! What a file says about itself.
//!
//! In: an opened [`Source`]. Out: its [`Probe`], and the [`Promise`] of its length that decoding is
//! later held against. Start at [`probe`].

use std::path::Path;

use ffmpeg_next::codec::packet::side_data;
use ffmpeg_next::{Rational, Stream, ffi};

use super::guard::Guard;
use super::orientation::Orientation;
use super::source::Source;
use super::{Error, Limits, Probe, ffi as libav};

/// Frames a second where a file does not say: what libav takes for raw streams.
const FALLBACK_FPS: f64 = 25.0;
/// No camera or screen gives more; a container that says so is counting its own ticks.
const PLAUSIBLE_FPS: f64 = 1000.0;

/// Reads a file's header and first packets.
///
/// An error is never a crash: [`Error::class`] says what is wrong with the file.
pub fn probe(path: &Path, limits: &Limits) -> Result<Probe, Error> {
    limits.validate()?;
    let guard = Guard::new(limits);
    let source = guard.timed(|| Source::open(path, limits, &guard))?;
    Ok(describe(&source))
}

/// Says what an opened file is.
pub(super) fn describe(source: &Source) -> Probe {
    let stream = source.stream();
    let (width, height) = libav::stated_size(&stream);
    let (rotation_degrees, mirrored) = orientation(&stream).rotation();
    let duration_secs = Promise::of(source).map(|promise| promise.secs);
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
        // The duration comes first: it knows of edit lists, the container's count does not.
        expected_frames: duration_secs.map(|secs| (secs * fps).round() as u64).or(counted),
    }
}

/// How the picture is to be turned.
pub(super) fn orientation(stream: &Stream) -> Orientation {
    let matrix = stream.side_data().find(|data| data.kind() == side_data::Type::DisplayMatrix);
    matrix
        .map_or_else(Orientation::default, |matrix| Orientation::from_display_matrix(matrix.data()))
}

/// Frames a second: the average, else the nominal rate, else 25.
pub(super) fn frame_rate(stream: &Stream) -> f64 {
    let plausible = |rate: Rational| {
        let fps = f64::from(rate.numerator()) / f64::from(rate.denominator().max(1));
        (fps > 0.0 && fps <= PLAUSIBLE_FPS).then_some(fps)
    };
    plausible(stream.avg_frame_rate()).or_else(|| plausible(stream.rate())).unwrap_or(FALLBACK_FPS)
}

/// How long a file says it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Promise {
    /// Seconds.
    pub(super) secs: f64,
    /// Whether the longest stream reaches that far, and not necessarily the video.
    pub(super) any_stream: bool,
}

impl Promise {
    /// The video stream's own duration, else the container's; never a guess from the bit rate.
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

/// Whether a duration is MP4's word for "cannot be determined": all bits are set, of 32 or 64.
fn is_unknown(ticks: i64) -> bool {
    ticks == i64::from(u32::MAX) || ticks == i64::MAX || ticks == -1
}

/// Seconds of `hours:minutes:seconds.fraction`.
fn clock_secs(text: &str) -> Option<f64> {
    text.split(':').try_fold(0.0, |secs, part| Some(secs * 60.0 + part.trim().parse::<f64>().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_reads_as_seconds() {
        assert_eq!(clock_secs("00:01:02.500000000"), Some(62.5));
        assert_eq!(clock_secs("soon"), None);
    }
}

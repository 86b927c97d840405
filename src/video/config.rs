//! Settings of the decoder: plain data, compiled even without libav.
//!
//! [`Fit`] and [`Limits`] are fields of the pipeline's YAML. [`DecodeOptions`] combines them with
//! the frame size; [`DecodeOptions::validate`] checks all of it once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Error;

/// Largest width and height of an output frame, in pixels.
const MAX_SIDE: u32 = 8192;
/// Highest output rate, in frames per second.
const MAX_FPS: f64 = 1000.0;

/// How a picture is fitted into a frame with another aspect ratio.
///
/// `crop` and `pad` use the proportions displayed by a player: rotated upright, with non-square
/// pixels taken into account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Scale the whole picture to the frame and ignore its proportions. This is the default:
    /// nothing is lost, and a policy sees the same distortion in every frame.
    #[default]
    Stretch,
    /// Keep the proportions and cut off the overhang, evenly on both sides.
    Crop,
    /// Keep the proportions and the whole picture, and fill the rest with black.
    Pad,
}

impl Fit {
    /// Returns whether it is the default, `stretch`.
    pub fn is_default(&self) -> bool {
        *self == Fit::default()
    }
}

/// Limits on the cost of decoding one file, as a guard against broken and hostile videos.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest number of pixels in one picture. Default 67108864 (8192 x 8192): more than any
    /// common video has, and about 100 MB per picture in memory.
    pub max_pixels: u64,
    /// Longest time spent decoding one file, in seconds. Default 3600. Time in which the decoder
    /// waits for its caller or for the disk does not count.
    pub deadline_secs: f64,
    /// Largest number of broken packets in one file. Default 1000: each costs the frames up to the
    /// next key frame, so a file with more has few usable frames left.
    pub max_errors: u32,
    /// Largest number of bytes read to detect the format and the streams. Default 5000000, as in
    /// libav.
    pub probe_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pixels: 8192 * 8192,
            deadline_secs: 3600.0,
            max_errors: 1000,
            probe_bytes: 5_000_000,
        }
    }
}

/// Options of [`Decoder::open`](super::Decoder::open).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecodeOptions {
    /// Width of a frame in pixels, 1 to 8192.
    pub width: u32,
    /// Height of a frame in pixels, 1 to 8192.
    pub height: u32,
    /// Frames per second; each frame shows the picture nearest in time. `None` keeps every picture.
    pub fps: Option<f64>,
    /// How to fit a picture with another aspect ratio.
    pub fit: Fit,
    /// Edges to cut off before fitting: left, top, right and bottom of the upright picture, each as
    /// a share of its width or height, below 0.5.
    pub trim: [f32; 4],
    /// Whether each sample of colour covers its pixels evenly, if pictures have the size of frames
    /// already: the default of ffmpeg and of players made with it. Otherwise colours are
    /// interpolated between samples.
    pub even_colours: bool,
    /// Largest number of codec threads, at least 1. At most 16 are used, and fewer if the machine
    /// is short of threads or memory. The number changes the speed and never the pixels, except in
    /// pictures whose damage libav does not detect. One thread is the most efficient; more help
    /// only when there are fewer files than cores.
    pub codec_threads: usize,
    /// Limits on the cost of decoding the file.
    pub limits: Limits,
}

impl DecodeOptions {
    /// Creates options for stretched frames of `width` x `height`: every picture, one codec thread,
    /// default limits.
    pub fn new(width: u32, height: u32) -> Self {
        Self {
            width,
            height,
            fps: None,
            fit: Fit::default(),
            trim: [0.0; 4],
            even_colours: false,
            codec_threads: 1,
            limits: Limits::default(),
        }
    }

    /// Returns the size of one frame in bytes: `height * width * 3`.
    pub fn frame_bytes(&self) -> usize {
        self.height as usize * self.width as usize * 3
    }

    /// Checks every field, and returns an error for the first one out of range.
    pub fn validate(&self) -> Result<(), Error> {
        let side = format!("1 to {MAX_SIDE} pixels");
        for (field, pixels) in [("width", self.width), ("height", self.height)] {
            check(field, pixels, (1..=MAX_SIDE).contains(&pixels), &side)?;
        }
        if let Some(fps) = self.fps {
            let expected = format!("more than 0, at most {MAX_FPS}");
            check("fps", fps, fps > 0.0 && fps <= MAX_FPS, &expected)?;
        }
        for edge in self.trim {
            check("trim", edge, (0.0..0.5).contains(&edge), "a share of at least 0 and below 0.5")?;
        }
        let threads = self.codec_threads;
        check("codec_threads", threads, threads > 0, "at least 1")?;
        self.limits.validate()
    }
}

impl Limits {
    /// Checks every limit, and returns an error for the first one out of range.
    pub fn validate(&self) -> Result<(), Error> {
        let secs = self.deadline_secs;
        check("max_pixels", self.max_pixels, self.max_pixels > 0, "at least 1")?;
        check("deadline_secs", secs, secs > 0.0 && secs <= 1e9, "more than 0, at most 1e9")?;
        check("probe_bytes", self.probe_bytes, self.probe_bytes >= 2048, "at least 2048")
    }
}

fn check(
    field: &'static str,
    seen: impl ToString,
    holds: bool,
    expected: &str,
) -> Result<(), Error> {
    if holds {
        return Ok(());
    }
    Err(Error::Option { field, seen: seen.to_string(), expected: expected.to_owned() })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn an_option_out_of_range_is_reported_with_field_value_and_range() {
        let options = DecodeOptions { fps: Some(f64::NAN), ..DecodeOptions::new(64, 64) };
        let message = options.validate().unwrap_err().to_string();
        assert_eq!(message, "fps is NaN, expected more than 0, at most 1000");
        assert!(DecodeOptions::new(0, 64).validate().unwrap_err().to_string().starts_with("width"));
        assert!(DecodeOptions::new(64, 64).validate().is_ok());
    }

    #[test]
    fn omitted_limits_keep_their_defaults() {
        let limits: Limits = serde_json::from_str(r#"{"max_errors": 3}"#).unwrap();
        assert_eq!(limits, Limits { max_errors: 3, ..Limits::default() });
        assert!(serde_json::from_str::<Limits>(r#"{"max_error": 3}"#).is_err());
    }
}

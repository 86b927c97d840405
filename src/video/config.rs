//! What a caller asks of the decoder: plain data, compiled even without libav.
//!
//! In: fields of the YAML ([`Fit`], [`Limits`]) and the frame's size. Out: [`DecodeOptions`],
//! checked once by [`DecodeOptions::validate`]. Start at `DecodeOptions`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Error;

/// The largest side of an output frame, in pixels.
const MAX_SIDE: u32 = 8192;
/// The highest frame rate that can be asked for.
const MAX_FPS: f64 = 1000.0;

/// How a picture is brought to the asked shape when its own aspect ratio differs.
///
/// `crop` and `pad` go by the picture as a player shows it: turned upright, with non-square
/// pixels accounted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Squeeze the whole picture into the frame, whatever happens to its proportions. The default:
    /// nothing is lost, and a policy sees the same distortion in every frame.
    #[default]
    Stretch,
    /// Keep the proportions and cut off what does not fit, evenly on both sides.
    Crop,
    /// Keep the proportions and the whole picture, and fill the rest with black.
    Pad,
}

/// What one file may cost before it is given up: the guards against broken and hostile videos.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The most pixels in one picture of the file. Default 67108864 (8192 x 8192): above every
    /// video in use, and about 100 MB a picture in memory.
    pub max_pixels: u64,
    /// The most seconds spent decoding one file, not counting the time its frames wait for
    /// whoever asked for them. Default 3600.
    pub deadline_secs: f64,
    /// The most broken packets in one file. Default 1000: each costs the frames up to the next
    /// key frame, so a file with more has little left to give.
    pub max_errors: u32,
    /// The most bytes read to find out the file's format and streams. Default 5000000, libav's own.
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

/// What [`Decoder::open`](super::Decoder::open) is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecodeOptions {
    /// Width of the frames given, in pixels, 1 to 8192.
    pub width: u32,
    /// Height of the frames given, in pixels, 1 to 8192.
    pub height: u32,
    /// Frames a second, the nearest source frame in time for each; `None` keeps every frame.
    pub fps: Option<f64>,
    /// What to do with another aspect ratio.
    pub fit: Fit,
    /// Cut off first, as shares of the picture as it is shown, each below a half: left, top, right, bottom.
    pub trim: [f32; 4],
    /// Most threads for the codec, at least 1; above 16, and where the machine has no thread or memory
    /// to give, fewer are used. It changes the speed and never a byte of the frames, but for pictures
    /// so damaged that libav itself does not notice. One is the cheapest; more pay off only when there
    /// are fewer files than cores.
    pub codec_threads: usize,
    /// The guards.
    pub limits: Limits,
}

impl DecodeOptions {
    /// Frames of `width` x `height`, every one, stretched, on one thread, with the default guards.
    pub fn new(width: u32, height: u32) -> Self {
        Self {
            width,
            height,
            fps: None,
            fit: Fit::default(),
            trim: [0.0; 4],
            codec_threads: 1,
            limits: Limits::default(),
        }
    }

    /// Bytes of one frame: `height * width * 3`.
    pub fn frame_bytes(&self) -> usize {
        self.height as usize * self.width as usize * 3
    }

    /// Says which field has a value that no file could be decoded with.
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
            check("trim", edge, (0.0..0.5).contains(&edge), "shares from 0 to below .5")?;
        }
        let threads = self.codec_threads;
        check("codec_threads", threads, threads > 0, "at least 1")?;
        self.limits.validate()
    }
}

impl Limits {
    /// Says which guard could never let a file pass.
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
    fn options_out_of_range_name_the_field_the_value_and_the_range() {
        let options = DecodeOptions { fps: Some(f64::NAN), ..DecodeOptions::new(64, 64) };
        let message = options.validate().unwrap_err().to_string();
        assert_eq!(message, "fps is NaN, expected more than 0, at most 1000");
        assert!(DecodeOptions::new(0, 64).validate().unwrap_err().to_string().starts_with("width"));
        assert!(DecodeOptions::new(64, 64).validate().is_ok());
    }

    #[test]
    fn limits_left_out_of_the_yaml_keep_their_defaults() {
        let limits: Limits = serde_json::from_str(r#"{"max_errors": 3}"#).unwrap();
        assert_eq!(limits, Limits { max_errors: 3, ..Limits::default() });
        assert!(serde_json::from_str::<Limits>(r#"{"max_error": 3}"#).is_err());
    }
}

//! What became of a file: plain data, compiled even without libav.
//!
//! In: nothing. Out: [`Probe`] before decoding, [`Frame`] with every picture, and [`Outcome`] with
//! its [`Fault`] at the end. Start at `Outcome`.

use serde::{Deserialize, Serialize};

/// What a file says about itself before it is decoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// libav's name of the container, such as `mov,mp4,m4a,3gp,3g2,mj2`.
    pub container: String,
    /// libav's name of the codec, such as `h264`.
    pub codec: String,
    /// Width of the coded picture in pixels, before it is turned upright; 0 where unknown.
    pub width: u32,
    /// Height of the coded picture in pixels, before it is turned upright; 0 where unknown.
    pub height: u32,
    /// Degrees clockwise by which the picture is turned to stand upright: 0, 90, 180 or 270.
    pub rotation_degrees: u32,
    /// Whether the picture is mirrored as well.
    pub mirrored: bool,
    /// Frames a second: the average if the file tells it, else the nominal rate.
    pub fps: f64,
    /// How long the video is, in seconds, where the file states it.
    pub duration_secs: Option<f64>,
    /// How many frames the file promises: its duration times its rate. An estimate where the
    /// rate varies.
    pub expected_frames: Option<u64>,
}

/// The place in time of one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    /// Seconds since the file's start.
    pub time_secs: f64,
    /// Frames were lost, or the clock jumped, between the previous frame and this one: what
    /// happened in between is unknown, so no window may cross it.
    pub gap_before: bool,
    /// Its position in the source: how many frames of the intact file come before it. What was lost
    /// counts. From [`UNPLACED`] on the position is unknown.
    pub index: u64,
}

/// The first number of frames whose position in the source is unknown: above every position, so that
/// an action recorded for a position never becomes theirs.
pub const UNPLACED: u64 = 1 << 31;

/// The account of one decoded file. A fault does not unmake the frames already given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Video packets read.
    pub packets: u64,
    /// Pictures that came out of the codec intact.
    pub decoded: u64,
    /// Frames given to the caller: `decoded`, unless a frame rate was asked for.
    pub frames: u64,
    /// Places where packets could not be read or decoded.
    pub errors: u32,
    /// Packets skipped after such a place, up to the next key frame.
    pub skipped_packets: u64,
    /// Places where pictures are missing between those that came out.
    pub holes: u64,
    /// The time of the first picture whose position in the source is unknown.
    pub unplaced_secs: Option<f64>,
    /// Times the picture's size or format changed on the way. Handled, so no fault.
    pub resizes: u32,
    /// How many pictures the file promised (see [`Probe::expected_frames`]).
    pub expected_frames: Option<u64>,
    /// What was wrong with the file, if anything was.
    pub fault: Option<Fault>,
}

/// What is wrong with a file, in a word for tables and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Fault {
    /// The kind of fault.
    pub class: FaultClass,
    /// What was seen and what was expected.
    pub reason: String,
}

impl Fault {
    /// A fault of a kind, and what was seen.
    pub fn new(class: FaultClass, reason: impl Into<String>) -> Self {
        Self { class, reason: reason.into() }
    }
}

/// The kinds of fault a file can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultClass {
    /// The file has no bytes.
    EmptyFile,
    /// A directory, pipe, socket or device.
    NotAFile,
    /// The file is missing, or may not be read.
    Unreadable,
    /// The bytes are in no format libav knows.
    UnknownFormat,
    /// A playlist, image pattern or script: it would make libav open other files or the network.
    ForbiddenFormat,
    /// The container's header is broken or missing, as in an MP4 whose recording was cut short.
    IncompleteHeader,
    /// There is sound, a cover picture or text, but no video.
    NoVideoStream,
    /// libav was built without a decoder for the codec, or cannot scale its pixels.
    Unsupported,
    /// The picture has more pixels than the limit.
    TooLarge,
    /// There is a video stream, but no frame came out of it.
    NoFrames,
    /// The video ends before the time its header promises.
    Truncated,
    /// Some packets could not be read or decoded.
    CorruptPackets,
    /// Several files were written one behind the other, of which players read the first.
    Joined,
    /// Decoding took longer than the limit.
    Deadline,
    /// It asks for more memory than there is: a broken header may ask for any amount.
    OutOfMemory,
    /// libav, or what we make of it, died on it.
    Crashed,
}

impl FaultClass {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 16] = [
        Self::EmptyFile,
        Self::NotAFile,
        Self::Unreadable,
        Self::UnknownFormat,
        Self::ForbiddenFormat,
        Self::IncompleteHeader,
        Self::NoVideoStream,
        Self::Unsupported,
        Self::TooLarge,
        Self::NoFrames,
        Self::Truncated,
        Self::CorruptPackets,
        Self::Joined,
        Self::Deadline,
        Self::OutOfMemory,
        Self::Crashed,
    ];

    /// The name in tables and receipts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EmptyFile => "empty_file",
            Self::NotAFile => "not_a_file",
            Self::Unreadable => "unreadable",
            Self::UnknownFormat => "unknown_format",
            Self::ForbiddenFormat => "forbidden_format",
            Self::IncompleteHeader => "incomplete_header",
            Self::NoVideoStream => "no_video_stream",
            Self::Unsupported => "unsupported",
            Self::TooLarge => "too_large",
            Self::NoFrames => "no_frames",
            Self::Truncated => "truncated",
            Self::CorruptPackets => "corrupt_packets",
            Self::Joined => "joined",
            Self::Deadline => "deadline",
            Self::OutOfMemory => "out_of_memory",
            Self::Crashed => "crashed",
        }
    }

    /// What a person can do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::EmptyFile | Self::IncompleteHeader | Self::Truncated => {
                "copy or download the file again"
            }
            Self::NotAFile => "list the video files themselves, as in `videos/*.mp4`",
            Self::Unreadable => "check that the file exists and may be read",
            Self::UnknownFormat => "check with `ffprobe` that the file is a video",
            Self::ForbiddenFormat => {
                "list the video files themselves, not a playlist or pattern of them"
            }
            Self::NoVideoStream => "leave sound files out of the list",
            Self::Unsupported => "convert the file, as in `ffmpeg -i in.mov out.mp4`",
            Self::TooLarge => "raise `max_pixels` if the file is meant to be this large",
            Self::NoFrames => "the file may be cut short, or its pictures larger than `max_pixels`",
            Self::CorruptPackets => {
                "the frames around the damage were left out; copy the file again if it matters"
            }
            Self::Joined => "split it into its files, or join videos with `ffmpeg -f concat`",
            Self::Deadline => "raise `deadline_secs`, or cut the file into pieces",
            Self::OutOfMemory => {
                "if the file is sound, give its decoder more: `--decoder-memory-gib`"
            }
            Self::Crashed => "the frames before it are kept; a newer libav may read on",
        }
    }
}

impl std::fmt::Display for FaultClass {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_class_has_one_name_in_json_and_in_tables() {
        for class in FaultClass::ALL {
            assert_eq!(serde_json::to_string(&class).unwrap(), format!("\"{}\"", class.as_str()));
        }
    }
}

//! Results of decoding a file: plain data, compiled even without libav.
//!
//! [`Probe`] describes a file before decoding, [`Frame`] accompanies the pixels of every frame, and
//! [`Outcome`] with its [`Fault`] is the summary at the end.

use serde::{Deserialize, Serialize};

/// Properties stated in a file's header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// libav's name for the container, such as `mov,mp4,m4a,3gp,3g2,mj2`.
    pub container: String,
    /// libav's name for the codec, such as `h264`.
    pub codec: String,
    /// Width of the coded picture in pixels, before rotation; 0 if unknown.
    pub width: u32,
    /// Height of the coded picture in pixels, before rotation; 0 if unknown.
    pub height: u32,
    /// Clockwise rotation that puts the picture upright, in degrees: 0, 90, 180 or 270.
    pub rotation_degrees: u32,
    /// Whether the picture is mirrored left to right before the rotation.
    pub mirrored: bool,
    /// Frames per second: the average if the file states it, else the nominal rate.
    pub fps: f64,
    /// Duration in seconds, if the file states it.
    pub duration_secs: Option<f64>,
    /// Number of pictures according to the header: duration times rate. An estimate if the rate
    /// varies.
    pub expected_frames: Option<u64>,
}

/// Time and position of one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    /// Time since the start of the file, in seconds.
    pub time_secs: f64,
    /// Whether frames were lost, or the clock jumped, between the previous frame and this one. What
    /// happened in between is unknown, so no window may cross the gap.
    pub gap_before: bool,
    /// Position in the source: the number of frames before this one in the intact file, lost frames
    /// included. Values from [`UNPLACED`] on mean an unknown position.
    pub index: u64,
}

/// Lower bound of the indices of frames with an unknown position in the source.
///
/// It is above every real position, so no recorded action is ever matched to such a frame.
pub const UNPLACED: u64 = 1 << 31;

/// Summary of decoding one file. Frames returned before a fault remain valid.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Number of video packets read.
    pub packets: u64,
    /// Number of intact pictures decoded.
    pub decoded: u64,
    /// Number of frames returned to the caller. Differs from `decoded` only at a set frame rate.
    pub frames: u64,
    /// Number of places where packets could not be read or decoded.
    pub errors: u32,
    /// Number of packets skipped between such a place and the next key frame.
    pub skipped_packets: u64,
    /// Number of places where pictures are missing between decoded ones.
    pub holes: u64,
    /// Time in seconds of the first picture with an unknown position in the source.
    pub unplaced_secs: Option<f64>,
    /// Number of changes of picture size or format within the file. Handled, so not a fault.
    pub resizes: u32,
    /// Number of pictures according to the header (see [`Probe::expected_frames`]).
    pub expected_frames: Option<u64>,
    /// The fault of the file, if it has one.
    pub fault: Option<Fault>,
}

/// Fault of a file: a class for tables and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Fault {
    /// The class of the fault.
    pub class: FaultClass,
    /// A sentence with the value seen and the value expected.
    pub reason: String,
}

impl Fault {
    /// Creates a fault.
    pub fn new(class: FaultClass, reason: impl Into<String>) -> Self {
        Self { class, reason: reason.into() }
    }
}

/// Class of a file's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultClass {
    /// The file has no bytes.
    EmptyFile,
    /// The path is a directory, pipe, socket or device.
    NotAFile,
    /// The file is missing, or reading it is not permitted.
    Unreadable,
    /// libav does not recognise the format.
    UnknownFormat,
    /// A playlist, image pattern or script, which would make libav open other files or the network.
    ForbiddenFormat,
    /// The container's header is broken or missing, as in an MP4 whose recording was interrupted.
    IncompleteHeader,
    /// The file has sound, a cover picture or text, but no video.
    NoVideoStream,
    /// libav has no decoder for the codec, or cannot scale its pixels.
    Unsupported,
    /// A picture has more pixels than the limit.
    TooLarge,
    /// The file has a video stream, but none of its pictures could be decoded.
    NoFrames,
    /// The video ends before the time stated in its header.
    Truncated,
    /// Some packets could not be read or decoded.
    CorruptPackets,
    /// Several files were concatenated; players read only the first.
    Joined,
    /// Decoding took longer than the limit.
    Deadline,
    /// Decoding needs more memory than is available. A broken header may request any amount.
    OutOfMemory,
    /// The decoder process crashed on the file.
    Crashed,
}

impl FaultClass {
    /// Every class, in declaration order.
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

    /// Returns the name used in tables and receipts.
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

    /// Returns a suggestion for the user.
    pub fn hint(self) -> &'static str {
        match self {
            Self::EmptyFile | Self::IncompleteHeader | Self::Truncated => {
                "copy or download the file again"
            }
            Self::NotAFile => "list the video files themselves, as in `videos/*.mp4`",
            Self::Unreadable => "check that the file exists and that you may read it",
            Self::UnknownFormat => "check with `ffprobe` that the file is a video",
            Self::ForbiddenFormat => "list the video files themselves, not a playlist or a pattern",
            Self::NoVideoStream => "remove files without video from the list",
            Self::Unsupported => "convert the file, for example with `ffmpeg -i in.mov out.mp4`",
            Self::TooLarge => "raise `max_pixels` if the file is meant to be this large",
            Self::NoFrames => {
                "check that the file is complete and its pictures are within `max_pixels`"
            }
            Self::CorruptPackets => {
                "frames around the damage were left out; copy the file again to get them"
            }
            Self::Joined => {
                "split the file at that byte, or join the videos with `ffmpeg -f concat`"
            }
            Self::Deadline => "raise `deadline_secs`, or cut the file into pieces",
            Self::OutOfMemory => "if the file is intact, raise `--decoder-memory-gib`",
            Self::Crashed => "frames before the crash are kept; a newer libav may decode the rest",
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
    fn a_fault_class_has_the_same_name_in_json_and_in_tables() {
        for class in FaultClass::ALL {
            assert_eq!(serde_json::to_string(&class).unwrap(), format!("\"{}\"", class.as_str()));
        }
    }
}

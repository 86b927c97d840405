//! Decodes video files into RGB frames, and encodes frames into a video.
//!
//! A [`Decoder`] takes a path to any video that libav can read. It returns upright RGB frames of
//! one size, in order, each with its time, and an [`Outcome`] with all faults of the file: a broken
//! video is an outcome, not a crash.
//!
//! In this module a *picture* is one decoded image of the source. A *frame* is what the caller
//! gets: a picture after resampling, cropping and scaling.
//!
//! | file | contents |
//! |---|---|
//! | [`config`] | the settings: [`DecodeOptions`], [`Fit`], [`Limits`] |
//! | [`outcome`] | the results: [`Probe`], [`Frame`], [`Outcome`], [`Fault`] |
//! | `source` | opens a container and selects its video stream |
//! | `guard` | the time limit of a file, and its disk errors: [`Guard`] |
//! | `probe` | reads size, rate and duration from the header |
//! | `file_kind` | identifies files other than playable videos |
//! | `reader` | decodes a container into intact pictures |
//! | `codec` | opens the codec and decides which packets it can decode |
//! | `second_decoder` | a second decoder that measures how far damage reaches |
//! | `clock` | converts timestamps to seconds |
//! | `position` | numbers the pictures of the source, also after a loss |
//! | `resample` | selects the picture for each frame at a constant rate |
//! | `scale` | scales a picture to RGB pixels |
//! | `layout` | computes crops, bars and padding |
//! | `orientation` | rotates and mirrors pixels upright |
//! | `decode` | combines these parts: [`Decoder`] |
//! | `encode` | encodes frames as H.264 in MP4: [`VideoEncoder`] |
//! | `libav` | the version and codecs of the linked libav |
//! | `libav_log` | captures libav's log messages |
//! | `ffi` | calls without a safe wrapper in `ffmpeg-next` |
//!
//! `ffi` and `libav_log` hold all unsafe code of this module. Without the cargo feature `video` only
//! `config` and `outcome` are compiled.

// Paths are the same within this crate and in `lapo`: `crate::video::...`.
extern crate self as video;

pub mod config;
pub mod outcome;

#[cfg(feature = "video")]
mod clock;
#[cfg(feature = "video")]
mod codec;
#[cfg(feature = "video")]
mod decode;
#[cfg(feature = "video")]
mod encode;
#[cfg(feature = "video")]
mod ffi;
#[cfg(feature = "video")]
mod file_kind;
#[cfg(feature = "video")]
mod guard;
#[cfg(feature = "video")]
mod layout;
#[cfg(feature = "video")]
mod libav;
#[cfg(feature = "video")]
mod libav_log;
#[cfg(feature = "video")]
mod orientation;
#[cfg(feature = "video")]
mod position;
#[cfg(feature = "video")]
mod probe;
#[cfg(feature = "video")]
mod reader;
#[cfg(feature = "video")]
mod resample;
#[cfg(feature = "video")]
mod scale;
#[cfg(feature = "video")]
mod second_decoder;
#[cfg(feature = "video")]
mod source;
#[cfg(all(test, feature = "video"))]
mod tests;

use std::io::{ErrorKind, Read, Seek};
use std::path::PathBuf;
use std::sync::Arc;

pub use config::{DecodeOptions, Fit, Limits};
pub use outcome::{Fault, FaultClass, Frame, Outcome, Probe, UNPLACED};

#[cfg(feature = "video")]
pub use decode::Decoder;
#[cfg(feature = "video")]
pub use encode::{EncodeError, VideoEncoder};
#[cfg(feature = "video")]
pub use guard::Guard;
#[cfg(feature = "video")]
pub use libav::{libav_version, missing_decoders, writes_h264};
#[cfg(feature = "video")]
pub use probe::probe;

/// The bytes of a video, from a file or from an object store.
pub trait VideoFile: Read + Seek + Send {}
impl<T: Read + Seek + Send> VideoFile for T {}

/// Opens the bytes of a video, positioned at the start.
pub type OpenVideo = Arc<dyn Fn() -> std::io::Result<Box<dyn VideoFile>> + Send + Sync>;

/// Reason why a file gave no frames, or why decoding stopped.
///
/// Faults found after opening the file are not errors. They are the [`Fault`] of the [`Outcome`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is at fault. The same bytes always fail the same way.
    #[error("{}: {fault}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: Fault,
    },
    /// The file could not be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system or store.
        source: std::io::Error,
    },
    /// An option is out of range.
    #[error("{field} is {seen}, expected {expected}")]
    Option {
        /// Name of a field of [`DecodeOptions`] or [`Limits`].
        field: &'static str,
        /// The value of the field.
        seen: String,
        /// The allowed values.
        expected: String,
    },
    /// The caller's buffer does not have the size of one frame.
    #[error("the buffer for a frame has {seen} bytes, expected {expected}")]
    Buffer {
        /// Length of the buffer in bytes.
        seen: usize,
        /// `height * width * 3`.
        expected: usize,
    },
}

impl Error {
    /// Returns the fault class to record, or `None` if the file is not at fault.
    pub fn class(&self) -> Option<FaultClass> {
        match self {
            Self::Refused { fault, .. } => Some(fault.class),
            Self::Read { .. } if !self.is_transient() => Some(FaultClass::Unreadable),
            _ => None,
        }
    }

    /// Returns whether the same file may decode later: the disk or network failed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Read { source, .. } => {
                !matches!(source.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied)
            }
            _ => false,
        }
    }

    /// Returns a suggestion for the user.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Read { .. } if self.is_transient() => {
                Some("run the command again when the disk or network is available")
            }
            _ => self.class().map(FaultClass::hint),
        }
    }
}

//! A video file becomes frames, and frames a video file.
//!
//! In: a path to any video libav knows. Out: upright RGB frames of one size, in order, each with
//! its time; and an account of what was wrong with the file, because a broken video is an outcome
//! and not a crash. Start at [`Decoder`].
//!
//! | file | what it does |
//! |---|---|
//! | [`config`] | what to ask for: [`DecodeOptions`], [`Fit`], [`Limits`] |
//! | [`outcome`] | what comes back: [`Probe`], [`Frame`], [`Outcome`], [`Fault`] |
//! | `source` | a path becomes an opened container and its video stream, past the guards |
//! | `guard` | what a file may cost, and what the disk said: [`Guard`] |
//! | `probe` | what a file says about itself |
//! | `recognise` | what a file is that gave no video |
//! | `reader` | a container becomes intact pictures |
//! | `codec` | the codec, and which packets it can use |
//! | `witness` | a second decoder, which shows how far damage reaches |
//! | `clock` | timestamps become seconds |
//! | `position` | which number a picture has in the source, also after a loss |
//! | `resample` | pictures at their own times become frames at a constant rate |
//! | `scale` | a picture becomes RGB pixels of the asked size |
//! | `layout` | which part of a picture goes where |
//! | `orientation` | pixels are turned upright |
//! | `decode` | the parts together: [`Decoder`] |
//! | `encode` | the other way: frames become a video, [`Film`] |
//! | `about` | what the linked libav is |
//! | `listen` | what libav says only in words |
//! | `ffi` | the few calls libav has no safe wrapper for; here and in `listen` is the `unsafe` of the room |
//!
//! Without the cargo feature `video` only `config` and `outcome` are there.

pub mod config;
pub mod outcome;

#[cfg(feature = "video")]
mod about;
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
mod guard;
#[cfg(feature = "video")]
mod layout;
#[cfg(feature = "video")]
mod listen;
#[cfg(feature = "video")]
mod orientation;
#[cfg(feature = "video")]
mod position;
#[cfg(feature = "video")]
mod probe;
#[cfg(feature = "video")]
mod reader;
#[cfg(feature = "video")]
mod recognise;
#[cfg(feature = "video")]
mod resample;
#[cfg(feature = "video")]
mod scale;
#[cfg(feature = "video")]
mod source;
#[cfg(all(test, feature = "video"))]
mod tests;
#[cfg(feature = "video")]
mod witness;

use std::io::{ErrorKind, Read, Seek};
use std::path::PathBuf;
use std::sync::Arc;

pub use config::{DecodeOptions, Fit, Limits};
pub use outcome::{Fault, FaultClass, Frame, Outcome, Probe, UNPLACED};

#[cfg(feature = "video")]
pub use about::{libav_version, missing_decoders, writes_h264};
#[cfg(feature = "video")]
pub use decode::Decoder;
#[cfg(feature = "video")]
pub use encode::{Film, FilmError};
#[cfg(feature = "video")]
pub use guard::Guard;
#[cfg(feature = "video")]
pub use probe::probe;

/// A video's bytes, wherever they lie: a file, or an object of a store.
pub trait VideoFile: Read + Seek + Send {}
impl<T: Read + Seek + Send> VideoFile for T {}

/// Opens a video's bytes at their beginning.
pub type OpenVideo = Arc<dyn Fn() -> std::io::Result<Box<dyn VideoFile>> + Send + Sync>;

/// Why a file gave no frames, or stopped giving them.
///
/// Only what happens before the first frame, and what is not the file's fault, is an error; the
/// rest is the [`Outcome`]'s [`Fault`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is at fault: the same bytes will fail the same way.
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
        /// What the operating system said.
        source: std::io::Error,
    },
    /// An option has a value that no file could be decoded with.
    #[error("{field} is {seen}, expected {expected}")]
    Option {
        /// The field of [`DecodeOptions`] or [`Limits`].
        field: &'static str,
        /// Its value.
        seen: String,
        /// The values it may have.
        expected: String,
    },
    /// The caller's buffer does not hold one frame.
    #[error("the buffer for a frame has {seen} bytes, expected {expected}")]
    Buffer {
        /// Its length.
        seen: usize,
        /// `height * width * 3`.
        expected: usize,
    },
}

impl Error {
    /// The file's fault, to be recorded; `None` where the file is not to blame.
    pub fn class(&self) -> Option<FaultClass> {
        match self {
            Self::Refused { fault, .. } => Some(fault.class),
            Self::Read { .. } if !self.is_transient() => Some(FaultClass::Unreadable),
            _ => None,
        }
    }

    /// Whether the same file may well decode later: a disk, network or memory failure.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Read { source, .. } => {
                !matches!(source.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied)
            }
            _ => false,
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Read { .. } if self.is_transient() => {
                Some("run it again when the disk or network is back")
            }
            _ => self.class().map(FaultClass::hint),
        }
    }
}

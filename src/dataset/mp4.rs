//! Consecutive frames of an MP4 file, read as a file of their own. Start at [`Mp4Index::read`].
//!
//! Datasets join many episodes in one MP4 file. A [`Clip`] is one of them: an MP4 file with exactly
//! its frames, made while it is read from the parts of the joined file. Nothing is encoded or
//! stored. The bytes of a clip depend only on its encoded frames and its rate, and neither on the
//! file around it nor on the times written there. So a clip is decoded, hashed and recognised like
//! any other video, and stays the same video when its file is written again with more episodes.
//!
//! Only tables of the file are read here, in safe code with limits; codecs run elsewhere.
//! Source of the layout: ISO/IEC 14496-12.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use serde::{Deserialize, Serialize};

use super::access::Access;
use super::archive::{Readable, open_source, position};

mod clip_header;
mod index;

pub use index::Mp4Index;

/// Consecutive frames of an MP4 file, in the order in which they are shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clip {
    /// The path or address of the file.
    pub path: String,
    /// The number of the first frame in the file.
    pub first: u64,
    /// The number of frames.
    pub frames: u64,
    /// Frames per second, at which the clip is played whatever the file says.
    pub fps: f64,
}

/// A sample, which is an encoded frame, of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    /// The offset of its bytes in the file.
    at: u64,
    bytes: u32,
    /// When it is shown, in units of the track's time scale.
    time: i64,
    /// Whether decoding can begin with it.
    is_key: bool,
    /// The number of its description, which holds the codec's settings.
    description: u32,
}

/// Opens a clip as an MP4 file of its own.
///
/// # Errors
/// Fails if the file cannot be read or does not have these frames.
pub fn open_clip(clip: &Clip, access: &Access) -> io::Result<Box<dyn Readable>> {
    let mut file = open_source(&clip.path, None, access)?;
    let index = Mp4Index::read(&mut file)?;
    Ok(Box::new(index.open(clip, file)?))
}

/// A clip as a file: a header in memory, then parts of the joined file.
struct ClipReader<R> {
    file: R,
    header: Vec<u8>,
    /// Ranges of the joined file. They do not overlap the header and follow each other here.
    parts: Vec<Part>,
    /// The size of the header and all parts.
    bytes: u64,
    at: u64,
}

/// A range of the joined file.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    /// Its offset in the clip.
    at: u64,
    /// Its offset in the joined file.
    from: u64,
    bytes: u64,
}

impl<R: Read + Seek> Read for ClipReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.bytes || out.is_empty() {
            return Ok(0);
        }
        if let Some(rest) = self.header.get(self.at as usize..).filter(|rest| !rest.is_empty()) {
            let count = rest.len().min(out.len());
            out[..count].copy_from_slice(&rest[..count]);
            self.at += count as u64;
            return Ok(count);
        }
        let next = self.parts.partition_point(|part| part.at <= self.at);
        let part = next.checked_sub(1).map(|number| self.parts[number]);
        let part = part.ok_or(ErrorKind::UnexpectedEof)?;
        let within = self.at - part.at;
        let wanted = (part.bytes - within).min(out.len() as u64) as usize;
        self.file.seek(SeekFrom::Start(part.from + within))?;
        let count = self.file.read(&mut out[..wanted])?;
        if count == 0 {
            let seen = "the file ends before the last frame of this episode";
            return Err(io::Error::new(ErrorKind::UnexpectedEof, seen));
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl<R> Seek for ClipReader<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = position(to, self.at, self.bytes)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests;

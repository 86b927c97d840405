//! What a file is that gave no video, or holds more than libav reads.
//!
//! In: a file's bytes. Out: the [`Known`] thing they are, with what to do about it: libav's errors
//! only say which part it missed. Start at [`recognise`].

use std::io::{ErrorKind, Read, Result as IoResult, SeekFrom};

use super::{Fault, FaultClass, VideoFile};

/// Top-level boxes of an MP4 that are looked at: enough for any that is not fragmented.
const MOST_BOXES: usize = 64;
/// Bytes of an MP4's index that are searched.
const MOST_OF_INDEX: u64 = 16 << 20;
/// Brands of still pictures in MP4's structure.
const STILLS: [&[u8; 4]; 6] = [b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif"];
/// How the text begins that stands for a file in a repository.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// A kind of file that is often taken for a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// A few lines of text that name a file elsewhere.
    LfsPointer,
    /// A HEIC or AVIF picture.
    Still,
    /// A part of a stream whose beginning is in another file.
    Segment,
    /// An MP4 whose samples are encrypted.
    Encrypted,
    /// A WebP of several pictures.
    AnimatedWebp,
    /// An MP4 with another one behind it, from this byte on.
    Joined(u64),
}

/// A part of an MP4.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Part {
    name: [u8; 4],
    at: u64,
    bytes: u64,
}

/// Recognises a file by its bytes.
pub(super) fn recognise(file: &mut dyn VideoFile) -> IoResult<Option<Known>> {
    let mut head = [0; 64];
    let read = read_up_to(file, &mut head)?;
    let head = &head[..read];
    if head.starts_with(LFS_POINTER) {
        return Ok(Some(Known::LfsPointer));
    }
    if head.starts_with(b"RIFF") && head.get(8..16) == Some(b"WEBPVP8X") {
        let is_animated = head.get(20).is_some_and(|flags| flags & 2 != 0);
        return Ok(is_animated.then_some(Known::AnimatedWebp));
    }
    let parts = parts(file)?;
    let find = |name: &[u8; 4]| parts.iter().find(|part| part.name == *name);
    let Some(index) = find(b"moov") else {
        let is_still = find(b"ftyp").is_some()
            && head.get(8..12).is_some_and(|brand| STILLS.iter().any(|still| *still == brand));
        let is_segment = find(b"moof").is_some();
        return Ok(if is_still {
            Some(Known::Still)
        } else {
            is_segment.then_some(Known::Segment)
        });
    };
    if holds(file, *index, b"encv")? {
        return Ok(Some(Known::Encrypted));
    }
    let other = parts.iter().skip(1).find(|part| part.name == *b"ftyp" && part.at > index.at);
    Ok(other.map(|other| Known::Joined(other.at)))
}

impl Known {
    /// What to tell of it.
    pub(super) fn fault(self) -> Fault {
        let (class, reason) = match self {
            Self::LfsPointer => (
                FaultClass::UnknownFormat,
                "it is a Git LFS pointer, a text that stands for the video: fetch the video with `git lfs pull`".into(),
            ),
            Self::Still => (FaultClass::Unsupported, "it is a still picture (HEIC, HEIF or AVIF), not a video: leave it out".into()),
            Self::Segment => (
                FaultClass::IncompleteHeader,
                "it is a media segment without its initialisation segment: join them, as in `cat init.mp4 segment.m4s > video.mp4`".into(),
            ),
            Self::Encrypted => (FaultClass::Unsupported, "it is encrypted, and its key is not in it: decrypt it first".into()),
            Self::AnimatedWebp => (
                FaultClass::Unsupported,
                "it is an animated WebP, which this libav cannot decode: convert it to a video, as with ImageMagick".into(),
            ),
            Self::Joined(at) => (
                FaultClass::Joined,
                format!("another MP4 begins at byte {at} of it, and no player reads on there: only the frames before were taken"),
            ),
        };
        Fault::new(class, reason)
    }
}

/// The top-level parts of an MP4; none where it is something else.
fn parts(file: &mut dyn VideoFile) -> IoResult<Vec<Part>> {
    let end = file.seek(SeekFrom::End(0))?;
    let (mut parts, mut at) = (Vec::new(), 0);
    while at + 8 <= end && parts.len() < MOST_BOXES {
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 16];
        let read = read_up_to(file, &mut head)?;
        let (size, name) = head.split_at(4);
        let size = u64::from(u32::from_be_bytes([size[0], size[1], size[2], size[3]]));
        let name = [name[0], name[1], name[2], name[3]];
        let bytes = match size {
            0 => end - at,
            1 if read == 16 => u64::from_be_bytes([
                head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15],
            ]),
            size => size,
        };
        if bytes < 8 || !name.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
            break;
        }
        parts.push(Part { name, at, bytes });
        at = at.saturating_add(bytes);
    }
    Ok(parts)
}

/// Whether a part of the file holds these bytes.
fn holds(file: &mut dyn VideoFile, part: Part, wanted: &[u8]) -> IoResult<bool> {
    file.seek(SeekFrom::Start(part.at))?;
    let mut bytes = Vec::new();
    file.take(part.bytes.min(MOST_OF_INDEX)).read_to_end(&mut bytes)?;
    Ok(bytes.windows(wanted.len()).any(|window| window == wanted))
}

fn read_up_to(file: &mut dyn VideoFile, buffer: &mut [u8]) -> IoResult<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn part(name: &[u8; 4], inner: &[u8]) -> Vec<u8> {
        let mut bytes = (inner.len() as u32 + 8).to_be_bytes().to_vec();
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(inner);
        bytes
    }

    fn known(parts: &[Vec<u8>]) -> Option<Known> {
        recognise(&mut Cursor::new(parts.concat())).unwrap()
    }

    #[test]
    fn a_file_is_known_by_its_bytes() {
        let (kind, index, data) =
            (part(b"ftyp", b"isom0000"), part(b"moov", b"avc1"), part(b"mdat", b"pictures"));
        let all = [kind.clone(), index.clone(), data.clone()];
        assert_eq!(known(&all), None);
        assert_eq!(
            known(&[all.concat(), all.concat()]),
            Some(Known::Joined(all.concat().len() as u64))
        );
        assert_eq!(
            known(&[kind.clone(), part(b"moov", b"trak encv"), data.clone()]),
            Some(Known::Encrypted)
        );
        assert_eq!(
            known(&[part(b"ftyp", b"heic0000"), part(b"meta", b""), data.clone()]),
            Some(Known::Still)
        );
        assert_eq!(
            known(&[part(b"styp", b"msdh0000"), part(b"moof", b""), data.clone()]),
            Some(Known::Segment)
        );
        assert_eq!(known(&[part(b"moof", b""), data.clone()]), Some(Known::Segment));
        assert_eq!(known(&[kind, data]), None, "an MP4 whose recording was cut short");
        assert_eq!(
            known(
                &[b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n".to_vec()]
            ),
            Some(Known::LfsPointer)
        );
        let webp = |flags: u8| [&b"RIFF0000WEBPVP8X0000"[..], &[flags, 0, 0, 0]].concat();
        assert_eq!(known(&[webp(2)]), Some(Known::AnimatedWebp));
        assert_eq!(known(&[webp(16)]), None);
        for short in [&b""[..], b"RIFF", b"\0\0\0\x01moov", b"\0\0\0\0ftyp"] {
            assert_eq!(known(&[short.to_vec()]), None);
        }
    }
}

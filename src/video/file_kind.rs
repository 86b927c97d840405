//! Identifies files that are not playable videos, and joined videos.
//!
//! libav's errors only name the missing part of a file. [`recognise`] looks at the bytes and
//! returns the [`FileKind`], whose fault states what to do with the file.

use std::io::{ErrorKind, Read, Result as IoResult, SeekFrom};

use super::{Fault, FaultClass, VideoFile};

/// Largest number of top-level MP4 boxes to read; enough for any MP4 without fragments.
const MAX_BOXES: usize = 64;
/// Largest number of bytes of an MP4's index (`moov`) to search.
const MAX_INDEX_BYTES: u64 = 16 << 20;
/// Brands of still pictures in the box structure of MP4.
const STILL_BRANDS: [&[u8; 4]; 6] = [b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif"];
/// First bytes of a Git LFS pointer, a text in place of a large file.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Kind of file often mistaken for a playable video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    /// A Git LFS pointer: a few lines of text that name a file elsewhere.
    LfsPointer,
    /// A HEIC or AVIF picture.
    Still,
    /// A segment of a stream whose header is in another file.
    Segment,
    /// An MP4 whose samples are encrypted.
    Encrypted,
    /// A WebP with several pictures.
    AnimatedWebp,
    /// Two or more concatenated MP4 files; the second begins at this byte.
    Joined(u64),
}

/// Header of a top-level box of an MP4.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Mp4Box {
    name: [u8; 4],
    offset: u64,
    bytes: u64,
}

/// Identifies a file by its bytes, or returns `None` if it may be a plain video.
pub(super) fn recognise(file: &mut dyn VideoFile) -> IoResult<Option<FileKind>> {
    let mut head = [0; 64];
    let read = read_up_to(file, &mut head)?;
    let head = &head[..read];
    if head.starts_with(LFS_POINTER) {
        return Ok(Some(FileKind::LfsPointer));
    }
    if head.starts_with(b"RIFF") && head.get(8..16) == Some(b"WEBPVP8X") {
        let is_animated = head.get(20).is_some_and(|flags| flags & 2 != 0);
        return Ok(is_animated.then_some(FileKind::AnimatedWebp));
    }
    let boxes = top_level_boxes(file)?;
    let find = |name: &[u8; 4]| boxes.iter().find(|it| it.name == *name);
    let Some(index) = find(b"moov") else {
        let is_still = find(b"ftyp").is_some()
            && head
                .get(8..12)
                .is_some_and(|brand| STILL_BRANDS.iter().any(|still| *still == brand));
        let is_segment = find(b"moof").is_some();
        let segment = is_segment.then_some(FileKind::Segment);
        return Ok(if is_still { Some(FileKind::Still) } else { segment });
    };
    // `encv` is the sample type of encrypted video.
    if contains(file, *index, b"encv")? {
        return Ok(Some(FileKind::Encrypted));
    }
    // A second file type box after the index starts another file.
    let second = boxes.iter().skip(1).find(|it| it.name == *b"ftyp" && it.offset > index.offset);
    Ok(second.map(|second| FileKind::Joined(second.offset)))
}

impl FileKind {
    /// Returns the fault of a file of this kind.
    pub(super) fn fault(self) -> Fault {
        let (class, reason) = match self {
            Self::LfsPointer => (
                FaultClass::UnknownFormat,
                "it is a Git LFS pointer, not the video itself; fetch the video with \
                 `git lfs pull`"
                    .into(),
            ),
            Self::Still => (
                FaultClass::Unsupported,
                "it is a still picture (HEIC, HEIF or AVIF), not a video".into(),
            ),
            Self::Segment => (
                FaultClass::IncompleteHeader,
                "it is a media segment without its initialisation segment; join them, for \
                 example with `cat init.mp4 segment.m4s > video.mp4`"
                    .into(),
            ),
            Self::Encrypted => {
                (FaultClass::Unsupported, "it is encrypted; decrypt it first".into())
            }
            Self::AnimatedWebp => (
                FaultClass::Unsupported,
                "it is an animated WebP, which this libav cannot decode; convert it to a video, \
                 for example with ImageMagick"
                    .into(),
            ),
            Self::Joined(offset) => (
                FaultClass::Joined,
                format!(
                    "another MP4 begins at byte {offset}, which players ignore; only the frames \
                     before it were decoded"
                ),
            ),
        };
        Fault::new(class, reason)
    }
}

/// Reads the top-level boxes of an MP4. Returns none for other formats.
fn top_level_boxes(file: &mut dyn VideoFile) -> IoResult<Vec<Mp4Box>> {
    let end = file.seek(SeekFrom::End(0))?;
    let mut boxes = Vec::new();
    let mut offset: u64 = 0;
    while offset + 8 <= end && boxes.len() < MAX_BOXES {
        file.seek(SeekFrom::Start(offset))?;
        let mut head = [0; 16];
        let read = read_up_to(file, &mut head)?;
        let (size, name) = head.split_at(4);
        let size = u64::from(u32::from_be_bytes([size[0], size[1], size[2], size[3]]));
        let name = [name[0], name[1], name[2], name[3]];
        let bytes = match size {
            // 0 means up to the end of the file; 1 means that a 64-bit size follows.
            0 => end - offset,
            1 if read == 16 => u64::from_be_bytes([
                head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15],
            ]),
            size => size,
        };
        if bytes < 8 || !name.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') {
            break;
        }
        boxes.push(Mp4Box { name, offset, bytes });
        offset = offset.saturating_add(bytes);
    }
    Ok(boxes)
}

/// Returns whether a box contains the bytes `wanted`.
fn contains(file: &mut dyn VideoFile, parent: Mp4Box, wanted: &[u8]) -> IoResult<bool> {
    file.seek(SeekFrom::Start(parent.offset))?;
    let mut bytes = Vec::new();
    file.take(parent.bytes.min(MAX_INDEX_BYTES)).read_to_end(&mut bytes)?;
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

    fn mp4_box(name: &[u8; 4], inner: &[u8]) -> Vec<u8> {
        let mut bytes = (inner.len() as u32 + 8).to_be_bytes().to_vec();
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(inner);
        bytes
    }

    fn kind_of(boxes: &[Vec<u8>]) -> Option<FileKind> {
        recognise(&mut Cursor::new(boxes.concat())).unwrap()
    }

    #[test]
    fn a_file_kind_is_recognised_by_its_bytes() {
        let kind = mp4_box(b"ftyp", b"isom0000");
        let index = mp4_box(b"moov", b"avc1");
        let data = mp4_box(b"mdat", b"pictures");
        let all = [kind.clone(), index.clone(), data.clone()];
        assert_eq!(kind_of(&all), None);
        assert_eq!(
            kind_of(&[all.concat(), all.concat()]),
            Some(FileKind::Joined(all.concat().len() as u64))
        );
        assert_eq!(
            kind_of(&[kind.clone(), mp4_box(b"moov", b"trak encv"), data.clone()]),
            Some(FileKind::Encrypted)
        );
        assert_eq!(
            kind_of(&[mp4_box(b"ftyp", b"heic0000"), mp4_box(b"meta", b""), data.clone()]),
            Some(FileKind::Still)
        );
        assert_eq!(
            kind_of(&[mp4_box(b"styp", b"msdh0000"), mp4_box(b"moof", b""), data.clone()]),
            Some(FileKind::Segment)
        );
        assert_eq!(kind_of(&[mp4_box(b"moof", b""), data.clone()]), Some(FileKind::Segment));
        assert_eq!(kind_of(&[kind, data]), None, "an MP4 whose recording was cut short");
        assert_eq!(
            kind_of(&[
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n".to_vec()
            ]),
            Some(FileKind::LfsPointer)
        );
        let webp = |flags: u8| [&b"RIFF0000WEBPVP8X0000"[..], &[flags, 0, 0, 0]].concat();
        assert_eq!(kind_of(&[webp(2)]), Some(FileKind::AnimatedWebp));
        assert_eq!(kind_of(&[webp(16)]), None);
        for short in [&b""[..], b"RIFF", b"\0\0\0\x01moov", b"\0\0\0\0ftyp"] {
            assert_eq!(kind_of(&[short.to_vec()]), None);
        }
    }
}

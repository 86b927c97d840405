//! Writes the header of a clip: an MP4 file of one track whose frames follow in one chunk.

use super::Sample;

/// Units of time in a frame.
const FRAME: u64 = 1000;
/// The bytes of a video description before its inner boxes, and its compressor's name.
const DESCRIPTION: usize = 86;
const COMPRESSOR: std::ops::Range<usize> = 50..82;

/// The frames of a clip.
pub(super) struct ClipTrack<'a> {
    /// From the key frame before the first frame on, in the order of decoding.
    pub samples: &'a [Sample],
    /// The place of each sample in the order in which they are shown.
    pub places: &'a [usize],
    /// The samples that are decoded but not shown, because they lie before the first frame.
    pub lead: usize,
    /// The number of frames shown.
    pub frames: usize,
    /// Frames per second.
    pub fps: f64,
    /// The description of the samples, a box of `stsd`.
    pub entry: &'a [u8],
    /// How pictures are turned.
    pub matrix: [u8; 36],
}

/// Returns everything before the first byte of the first sample.
pub(super) fn clip_header(track: &ClipTrack) -> Result<Vec<u8>, String> {
    let scale = (track.fps * FRAME as f64).round();
    if !(1.0..=f64::from(u32::MAX)).contains(&scale) {
        return Err(format!("{} is no number of frames per second", track.fps));
    }
    let entry = common_description(track.entry).ok_or("its codec's description is damaged")?;
    let of = |first_byte: u64| [ftyp(), moov(track, scale as u32, &entry, first_byte)].concat();
    // The offset has the same width whatever it is.
    let mdat: u64 = 16 + track.samples.iter().map(|sample| u64::from(sample.bytes)).sum::<u64>();
    let first_byte = of(0).len() as u64 + 16;
    let mut header = of(first_byte);
    header.extend([&1_u32.to_be_bytes()[..], b"mdat", &mdat.to_be_bytes()].concat());
    Ok(header)
}

/// Returns a description without what changes when a file is joined with others: the average bit
/// rate and the name of the program.
fn common_description(entry: &[u8]) -> Option<Vec<u8>> {
    let mut common = entry.get(..DESCRIPTION)?.to_vec();
    common[COMPRESSOR].fill(0);
    let mut rest = &entry[DESCRIPTION..];
    while rest.len() >= 8 {
        let size = u32::from_be_bytes(rest[..4].try_into().ok()?) as usize;
        let inner = rest.get(..size).filter(|inner| inner.len() >= 8)?;
        if &inner[4..8] != b"btrt" {
            common.extend_from_slice(inner);
        }
        rest = &rest[size..];
    }
    // The file's own data reference is 1.
    common[14..16].copy_from_slice(&1_u16.to_be_bytes());
    let size = u32::try_from(common.len()).ok()?;
    common[..4].copy_from_slice(&size.to_be_bytes());
    Some(common)
}

/// Joins a kind and the parts of its content to a box.
fn boxed(kind: &[u8; 4], content: &[&[u8]]) -> Vec<u8> {
    let size = 8 + content.iter().map(|part| part.len()).sum::<usize>();
    let mut all = Vec::with_capacity(size);
    all.extend((size as u32).to_be_bytes());
    all.extend(kind);
    content.iter().for_each(|part| all.extend(*part));
    all
}

/// Returns a box of 32-bit numbers.
fn numbers(kind: &[u8; 4], content: impl IntoIterator<Item = u32>) -> Vec<u8> {
    let content: Vec<u8> = content.into_iter().flat_map(u32::to_be_bytes).collect();
    boxed(kind, &[&content])
}

fn ftyp() -> Vec<u8> {
    boxed(b"ftyp", &[b"isom", &0x200_u32.to_be_bytes(), b"isomiso2mp41"])
}

fn moov(track: &ClipTrack, scale: u32, entry: &[u8], first_byte: u64) -> Vec<u8> {
    let ticks = (track.samples.len() as u64 * FRAME) as u32;
    let shown = (track.frames as u64 * FRAME) as u32;
    let matrix = &track.matrix[..];
    let zeros = [0; 24];
    // Rate and volume of the movie, then its matrix; next free track.
    let mvhd = boxed(
        b"mvhd",
        &[
            &be([0, 0, 0, scale, shown, 0x1_0000, 0x100_0000, 0, 0]),
            &be([0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000]),
            &zeros,
            &be([2]),
        ],
    );
    let size = [&entry[32..34], &[0; 2], &entry[34..36], &[0; 2]].concat();
    // Flag 3: the track is enabled and in the movie.
    let tkhd = boxed(b"tkhd", &[&be([3, 0, 0, 1, 0, shown, 0, 0, 0, 0]), matrix, &size]);
    let mdhd = numbers(b"mdhd", [0, 0, 0, scale, ticks, 0x55c4_0000]);
    let hdlr = boxed(b"hdlr", &[&be([0, 0]), b"vide", &[0; 12], b"video\0"]);
    let vmhd = numbers(b"vmhd", [1, 0, 0]);
    // Flag 1: the media are in this file.
    let dref = boxed(b"dref", &[&be([0, 1]), &numbers(b"url ", [1])]);
    let dinf = boxed(b"dinf", &[&dref]);
    let minf = boxed(b"minf", &[&vmhd, &dinf, &stbl(track, entry, first_byte)]);
    let mdia = boxed(b"mdia", &[&mdhd, &hdlr, &minf]);
    let trak = boxed(b"trak", &[&tkhd, &edts(track, shown), &mdia]);
    boxed(b"moov", &[&mvhd, &trak])
}

/// Returns the edit list, or nothing if the clip shows all samples and the first one at once.
fn edts(track: &ClipTrack, shown: u32) -> Vec<u8> {
    let start = ((track.lead + delay(track)) as u64 * FRAME) as u32;
    if start == 0 && track.frames == track.samples.len() {
        return vec![];
    }
    boxed(b"edts", &[&numbers(b"elst", [0, 1, shown, start, 0x1_0000])])
}

/// Returns how many frames later than it is decoded a frame must be shown at least.
fn delay(track: &ClipTrack) -> usize {
    let late = track.places.iter().enumerate().map(|(at, place)| at.saturating_sub(*place));
    late.max().unwrap_or(0)
}

fn stbl(track: &ClipTrack, entry: &[u8], first_byte: u64) -> Vec<u8> {
    let count = track.samples.len() as u32;
    let stsd = boxed(b"stsd", &[&be([0, 1]), entry]);
    let stts = numbers(b"stts", [0, 1, count, FRAME as u32]);
    let delay = delay(track);
    let offset = |(at, place): (usize, &usize)| ((place + delay - at) as u64 * FRAME) as u32;
    let ctts = if delay == 0 {
        vec![]
    } else {
        let offsets = track.places.iter().enumerate().flat_map(|each| [1, offset(each)]);
        numbers(b"ctts", [0, count].into_iter().chain(offsets))
    };
    let stsc = numbers(b"stsc", [0, 1, 1, count, 1]);
    let sizes = track.samples.iter().map(|sample| sample.bytes);
    let stsz = numbers(b"stsz", [0, 0, count].into_iter().chain(sizes));
    let co64 = boxed(b"co64", &[&be([0, 1]), &first_byte.to_be_bytes()]);
    let keys = (1..).zip(track.samples).filter(|(_, sample)| sample.is_key);
    let keys: Vec<u32> = keys.map(|(number, _)| number).collect();
    let stss = if keys.len() == track.samples.len() {
        vec![]
    } else {
        numbers(b"stss", [0, keys.len() as u32].into_iter().chain(keys))
    };
    boxed(b"stbl", &[&stsd, &stts, &ctts, &stss, &stsc, &stsz, &co64])
}

fn be<const N: usize>(values: [u32; N]) -> Vec<u8> {
    values.into_iter().flat_map(u32::to_be_bytes).collect()
}

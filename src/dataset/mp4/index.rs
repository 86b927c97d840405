//! The tables of an MP4 file: where each frame is and when it is shown.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use super::clip_header::{ClipTrack, clip_header};
use super::{Clip, ClipReader, Part, Sample};

/// The largest table of contents (`moov`), in bytes.
const MAX_TABLES: u64 = 256 << 20;
/// The largest number of frames in a file: 92 hours at 30 per second.
const MAX_SAMPLES: usize = 10_000_000;

/// Where the frames of an MP4 file are, and when they are shown.
#[derive(Clone, Debug)]
pub struct Mp4Index {
    /// Units of time in a second.
    time_scale: u32,
    /// In the order of decoding.
    samples: Vec<Sample>,
    /// The number of each frame's sample, in the order in which frames are shown.
    shown: Vec<u32>,
    /// The codec's settings, as boxes of `stsd`.
    descriptions: Vec<Vec<u8>>,
    /// How pictures are turned (`matrix` of `tkhd`).
    matrix: [u8; 36],
}

impl Mp4Index {
    /// Reads the tables of a file.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::InvalidData`] if it is not an MP4 file with a table of all frames.
    pub fn read(file: &mut (impl Read + Seek)) -> io::Result<Mp4Index> {
        let tables = read_tables(file)?;
        parse(&tables).map_err(|reason| io::Error::new(ErrorKind::InvalidData, reason))
    }

    /// Returns the number of frames.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.shown.len() as u64
    }

    /// Returns when a frame is shown, in seconds.
    #[must_use]
    pub fn seconds(&self, frame: u64) -> Option<f64> {
        let sample = *self.shown.get(usize::try_from(frame).ok()?)?;
        Some(self.samples[sample as usize].time as f64 / f64::from(self.time_scale))
    }

    /// Returns the frame that is shown nearest to a time; 0 if there are no frames.
    #[must_use]
    pub fn nearest(&self, seconds: f64) -> u64 {
        let time =
            |sample: &u32| self.samples[*sample as usize].time as f64 / f64::from(self.time_scale);
        let next = self.shown.partition_point(|sample| time(sample) < seconds);
        let before = next.saturating_sub(1);
        let is_later = self.shown.get(next).is_some_and(|at| {
            (time(at) - seconds).abs() < (time(&self.shown[before]) - seconds).abs()
        });
        (if is_later { next } else { before }) as u64
    }

    /// Returns the size of a clip in bytes.
    ///
    /// # Errors
    /// Fails if the file does not have the clip's frames.
    pub fn clip_bytes(&self, clip: &Clip) -> io::Result<u64> {
        self.open(clip, io::empty()).map(|clip| clip.bytes)
    }

    /// Opens a clip of this file.
    pub(super) fn open<R>(&self, clip: &Clip, file: R) -> io::Result<ClipReader<R>> {
        let invalid = |reason: String| io::Error::new(ErrorKind::InvalidData, reason);
        let range = usize::try_from(clip.first)
            .ok()
            .zip(usize::try_from(clip.frames).ok().filter(|frames| *frames > 0))
            .and_then(|(first, frames)| self.shown.get(first..first.checked_add(frames)?));
        let shown = range.ok_or_else(|| {
            invalid(format!(
                "it has {} frames, so frames {} to {} do not exist",
                self.shown.len(),
                clip.first,
                clip.first.saturating_add(clip.frames)
            ))
        })?;
        let (Some(first), Some(last)) = (shown.iter().min(), shown.iter().max()) else {
            return Err(invalid("it has no frames".into()));
        };
        let keys = self.samples[..=*first as usize].iter().rposition(|sample| sample.is_key);
        let start =
            keys.ok_or_else(|| invalid("no frame before this one is a key frame".into()))?;
        let samples = &self.samples[start..=*last as usize];
        let description = samples[0].description;
        if samples.iter().any(|sample| sample.description != description) {
            return Err(invalid("the codec's settings change within the episode".into()));
        }
        let entry = self.descriptions.get(description as usize - 1);
        let entry = entry.ok_or_else(|| invalid("its codec is not described".into()))?;
        // The place of each sample among the frames shown, relative to the clip's first frame.
        let mut order: Vec<usize> = (0..samples.len()).collect();
        order.sort_by_key(|at| samples[*at].time);
        let mut places = vec![0; samples.len()];
        for (place, at) in order.into_iter().enumerate() {
            places[at] = place;
        }
        let lead = places[shown[0] as usize - start];
        let track = ClipTrack {
            samples,
            places: &places,
            lead,
            frames: shown.len(),
            fps: clip.fps,
            entry,
            matrix: self.matrix,
        };
        let header = clip_header(&track).map_err(invalid)?;
        let mut parts: Vec<Part> = vec![];
        let mut bytes = header.len() as u64;
        for sample in samples.iter().filter(|sample| sample.bytes > 0) {
            let size = u64::from(sample.bytes);
            match parts.last_mut() {
                Some(part) if part.from + part.bytes == sample.at => part.bytes += size,
                _ => parts.push(Part { at: bytes, from: sample.at, bytes: size }),
            }
            bytes += size;
        }
        Ok(ClipReader { file, header, parts, bytes, at: 0 })
    }
}

/// Returns the content of `moov`.
fn read_tables(file: &mut (impl Read + Seek)) -> io::Result<Vec<u8>> {
    let invalid = |reason: &str| io::Error::new(ErrorKind::InvalidData, reason.to_owned());
    let end = file.seek(SeekFrom::End(0))?;
    let mut at = 0;
    while end - at >= 8 {
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 16];
        file.read_exact(&mut head[..8])?;
        let kind: [u8; 4] = [head[4], head[5], head[6], head[7]];
        let short = u64::from(u32::from_be_bytes([head[0], head[1], head[2], head[3]]));
        let (size, body) = match short {
            0 => (end - at, 8),
            1 if end - at >= 16 => {
                file.read_exact(&mut head[8..])?;
                (u64::from_be_bytes(head[8..].try_into().expect("8 bytes")), 16)
            }
            short => (short, 8),
        };
        if head.starts_with(b"version ") {
            return Err(invalid("it is a Git LFS pointer, not the video; run `git lfs pull`"));
        }
        if at == 0 && &kind != b"ftyp" {
            return Err(invalid("it is not an MP4 file"));
        }
        if size < body || size > end - at {
            return Err(invalid("it is cut off or damaged: a box is larger than the file"));
        }
        match &kind {
            b"moov" if size - body > MAX_TABLES => {
                return Err(invalid("its tables are larger than 256 MiB"));
            }
            b"moov" => {
                let mut tables = vec![0; (size - body) as usize];
                file.seek(SeekFrom::Start(at + body))?;
                file.read_exact(&mut tables)?;
                return Ok(tables);
            }
            _ => at += size,
        }
    }
    Err(invalid("it has no table of its frames (`moov`), so it was not written to its end"))
}

/// A range of boxes that are not read yet.
struct Boxes<'a>(&'a [u8]);

impl<'a> Iterator for Boxes<'a> {
    type Item = ([u8; 4], &'a [u8]);

    /// Ends at a damaged box; whoever needs a later one misses it.
    fn next(&mut self) -> Option<Self::Item> {
        let mut fields = Fields(self.0);
        let size = fields.u32()? as usize;
        let kind: [u8; 4] = fields.take(4)?.try_into().ok()?;
        let body = self.0.get(8..size)?;
        self.0 = &self.0[size..];
        Some((kind, body))
    }
}

/// Finds the first box at a path of kinds.
fn find<'a>(mut body: &'a [u8], path: &[&[u8; 4]]) -> Option<&'a [u8]> {
    for wanted in path {
        body = Boxes(body).find(|(kind, _)| kind == *wanted)?.1;
    }
    Some(body)
}

/// Big-endian fields that are not read yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }
    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }
    /// Reads the version and skips the flags of a box.
    fn version(&mut self) -> Option<u8> {
        Some(self.take(4)?[0])
    }
    /// Reads a table of entries with `N` numbers each.
    fn table<const N: usize>(mut self) -> Option<Vec<[u32; N]>> {
        let count = self.u32()? as usize;
        let entries = self.take(count.checked_mul(4 * N)?)?.as_chunks::<4>().0;
        let numbers = entries.iter().map(|number| u32::from_be_bytes(*number));
        let numbers: Vec<u32> = numbers.collect();
        Some(numbers.as_chunks::<N>().0.to_vec())
    }
}

/// Reads the first video track of `moov`.
fn parse(tables: &[u8]) -> Result<Mp4Index, String> {
    if find(tables, &[b"mvex"]).is_some() {
        return Err(
            "it is a fragmented MP4 file, without one table of its frames; write it again \
                    with `ffmpeg -i IN.mp4 -c copy OUT.mp4`"
                .into(),
        );
    }
    let is_video = |track: &&[u8]| {
        find(track, &[b"mdia", b"hdlr"]).and_then(|of| of.get(8..12)) == Some(b"vide")
    };
    let tracks = Boxes(tables).filter(|(kind, _)| kind == b"trak").map(|(_, body)| body);
    let track = tracks.into_iter().find(is_video).ok_or("it has no video track")?;
    let damaged = |what: &str| format!("its table `{what}` is missing or damaged");
    let matrix = find(track, &[b"tkhd"]).and_then(matrix).ok_or_else(|| damaged("tkhd"))?;
    let media = find(track, &[b"mdia", b"mdhd"]).ok_or_else(|| damaged("mdhd"))?;
    let time_scale = time_scale(media).ok_or_else(|| damaged("mdhd"))?;
    let movie = find(tables, &[b"mvhd"]).and_then(self::time_scale);
    let table = find(track, &[b"mdia", b"minf", b"stbl"]).ok_or_else(|| damaged("stbl"))?;
    let delay = match find(track, &[b"edts", b"elst"]) {
        None => 0,
        Some(edits) => delay(edits, time_scale, movie.ok_or_else(|| damaged("mvhd"))?)?,
    };
    let samples = samples(table, delay)?;
    let mut shown: Vec<u32> = (0..samples.len() as u32).collect();
    // Stable, so that frames of one time keep their order.
    shown.sort_by_key(|at| samples[*at as usize].time);
    let entries = find(table, &[b"stsd"]).and_then(|of| of.get(8..)).unwrap_or_default();
    let whole = |(kind, body): ([u8; 4], &[u8])| {
        let size = (body.len() + 8) as u32;
        [&size.to_be_bytes(), &kind[..], body].concat()
    };
    let descriptions = Boxes(entries).map(whole).collect();
    Ok(Mp4Index { time_scale, samples, shown, descriptions, matrix })
}

fn matrix(tkhd: &[u8]) -> Option<[u8; 36]> {
    // Behind the times, whose size depends on the version.
    let at = if *tkhd.first()? == 1 { 52 } else { 40 };
    tkhd.get(at..at + 36)?.try_into().ok()
}

/// Returns the units in a second of `mdhd` or `mvhd`.
fn time_scale(header: &[u8]) -> Option<u32> {
    let mut fields = Fields(header);
    let skipped = if fields.version()? == 1 { 16 } else { 8 };
    fields.take(skipped)?;
    fields.u32().filter(|scale| *scale > 0)
}

/// Returns what the edit list adds to the time of every frame.
fn delay(edits: &[u8], time_scale: u32, movie: u32) -> Result<i64, String> {
    let read = || {
        let mut fields = Fields(edits);
        let is_wide = fields.version()? == 1;
        let count = fields.u32()?;
        let mut delay = 0;
        let mut played = 0;
        for _ in 0..count {
            let (length, start) = if is_wide {
                (fields.u64()?, fields.u64()?.cast_signed())
            } else {
                (u64::from(fields.u32()?), i64::from(fields.u32()?.cast_signed()))
            };
            fields.take(4)?;
            if start < 0 {
                let scaled = i128::from(length) * i128::from(time_scale) / i128::from(movie);
                delay += i64::try_from(scaled).ok()?;
            } else {
                played += 1;
                delay -= start;
            }
        }
        Some((delay, played))
    };
    match read() {
        Some((delay, 0 | 1)) => Ok(delay),
        Some(_) => Err("its edit list has several parts, so frames are not shown in order; write \
                        it again with `ffmpeg -i IN.mp4 OUT.mp4`"
            .into()),
        None => Err("its table `elst` is damaged".into()),
    }
}

/// Reads the samples of `stbl`. `delay` is added to their times.
fn samples(table: &[u8], delay: i64) -> Result<Vec<Sample>, String> {
    let damaged = |what: &str| format!("its table `{what}` is missing or damaged");
    let content = |kind: &[u8; 4]| find(table, &[kind]).and_then(|of| of.get(4..)).map(Fields);
    let missing = |kind: &[u8; 4]| damaged(&String::from_utf8_lossy(kind));
    let pairs = |kind| content(kind).and_then(Fields::table::<2>).ok_or_else(|| missing(kind));
    let sizes = content(b"stsz").and_then(sizes).ok_or_else(|| damaged("stsz"))?;
    let durations = pairs(b"stts")?;
    let offsets = match content(b"ctts") {
        None => vec![],
        Some(_) => pairs(b"ctts")?,
    };
    let keys = match content(b"stss") {
        None => None,
        Some(of) => Some(of.table::<1>().ok_or_else(|| damaged("stss"))?),
    };
    let chunks: Vec<u64> = match content(b"co64") {
        Some(of) => of.table::<2>().map(|all| {
            all.iter().map(|entry| u64::from(entry[0]) << 32 | u64::from(entry[1])).collect()
        }),
        None => content(b"stco")
            .and_then(Fields::table::<1>)
            .map(|all| all.iter().map(|entry| u64::from(entry[0])).collect()),
    }
    .ok_or_else(|| damaged("stco"))?;
    let places = content(b"stsc")
        .and_then(Fields::table::<3>)
        .and_then(|of_chunks| places(&chunks, &of_chunks, &sizes))
        .ok_or_else(|| damaged("stsc"))?;
    let mut durations = runs(&durations);
    let mut offsets = runs(&offsets);
    let mut time = delay;
    let mut all = Vec::with_capacity(sizes.len());
    for ((at, description), bytes) in places.into_iter().zip(sizes) {
        let duration = durations.next().ok_or_else(|| damaged("stts"))?;
        // Signed in practice in both versions of the table.
        let offset = offsets.next().unwrap_or(0).cast_signed();
        all.push(Sample {
            at,
            bytes,
            time: time + i64::from(offset),
            is_key: keys.is_none(),
            description,
        });
        time += i64::from(duration);
    }
    for key in keys.iter().flatten() {
        let at = (key[0] as usize).checked_sub(1).and_then(|at| all.get_mut(at));
        at.ok_or_else(|| damaged("stss"))?.is_key = true;
    }
    Ok(all)
}

/// Reads `stsz`: the size of each sample in bytes.
fn sizes(mut fields: Fields) -> Option<Vec<u32>> {
    let common = fields.u32()?;
    let count = fields.u32()? as usize;
    if count > MAX_SAMPLES || (common == 0 && count > fields.0.len() / 4) {
        return None;
    }
    (0..count).map(|_| if common == 0 { fields.u32() } else { Some(common) }).collect()
}

/// Repeats the second number of each entry as often as the first one says.
fn runs(entries: &[[u32; 2]]) -> impl Iterator<Item = u32> {
    entries.iter().flat_map(|entry| std::iter::repeat_n(entry[1], entry[0] as usize))
}

/// Returns the offset and the description of each sample, from the offsets of the chunks that hold
/// them (`stco`) and the number of samples in each chunk (`stsc`).
fn places(chunks: &[u64], of_chunks: &[[u32; 3]], sizes: &[u32]) -> Option<Vec<(u64, u32)>> {
    let mut places = Vec::with_capacity(sizes.len());
    let mut rules = of_chunks.iter().peekable();
    let mut rule = None;
    for (number, chunk) in (1..).zip(chunks) {
        rule = rules.next_if(|rule| rule[0] == number).or(rule);
        let rule = rule?;
        let mut at = *chunk;
        for _ in 0..rule[1] {
            let Some(bytes) = sizes.get(places.len()) else { break };
            places.push((at, rule[2].max(1)));
            at = at.checked_add(u64::from(*bytes))?;
        }
    }
    (places.len() == sizes.len()).then_some(places)
}

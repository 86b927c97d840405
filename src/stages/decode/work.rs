//! The work of [`decode`](super): videos, one after the other, into one shard. Compiled where libav is.

use super::copy::Copied;
use super::episodes::{Episodes, Judged, Timed};
use super::frames::decode;
use super::opener::opener;
use super::quality::{LeftOut, Look, Quality};
use super::wire::{Request, Take};
use super::{DecodeTask, VideoSource};
use crate::dataset::{
    FrameSize, Reject, ShardLayout, ShardWriter, VideoName, VideoRecord, address, version_of,
};
use crate::stages::{Done, Error, Workplace};
use crate::video::{DecodeOptions, Fault, FaultClass, Fit, Guard};

/// Pixels of a side at which bars are looked for.
const BARS_SIDE: u32 = 256;
/// A bar ends here.
const MOST_OF_A_SIDE: f32 = 0.49;

/// Decodes the task's videos, one after the other, into one shard.
pub fn run(task: &DecodeTask, place: &Workplace) -> Result<Done, Error> {
    let name =
        |video: &VideoSource| VideoName { uri: video.uri.clone(), digest: video.digest.clone() };
    let layout = ShardLayout {
        size: FrameSize { height: task.config.size, width: task.config.size },
        compression: task.config.compression,
        videos: task.videos.iter().map(name).collect(),
    };
    let shard =
        ShardWriter::create(place.store, &format!("{}/shard.arrow", place.folder), &layout)?;
    let (mut out, mut done) = (Out { shard, quality: Quality::default() }, Done::default());
    let (mut cuts, mut trimmed, mut copied) = (0, 0, Copied::default());
    for (i, video) in task.videos.iter().enumerate() {
        out.shard.begin_video(i)?;
        if let Some(decoded) = &video.decoded {
            let (record, reject) =
                copied.take(decoded, video, i, place, (&mut out.shard, &mut out.quality))?;
            done.videos.push(record);
            done.rejects.extend(reject);
            place.progress.advance(1);
            continue;
        }
        let mut frames = Frames {
            out: &mut out,
            video: i,
            episodes: Episodes::new(&task.config),
            trimmed: false,
        };
        let (record, reject) = decode_video(task, video, place, &mut frames)?;
        cuts += frames.episodes.cuts();
        trimmed += u64::from(frames.trimmed);
        done.videos.push(record);
        done.rejects.extend(reject);
        place.progress.advance(1);
    }
    let Out { shard, quality } = out;
    let frames: u64 = done.videos.iter().map(|video| video.frames).sum();
    let counts = [
        ("videos", done.videos.len() as f64),
        ("frames", frames as f64),
        ("copied_videos", copied.videos as f64),
        ("copied_frames", copied.frames as f64),
        ("cuts", (cuts + copied.cuts) as f64),
        ("trimmed_videos", trimmed as f64),
        ("blank_frames", quality.count(LeftOut::Blank) as f64),
        ("still_frames", quality.count(LeftOut::Still) as f64),
    ];
    done.stats.extend(counts.map(|(name, count)| (name.to_owned(), count)));
    let uris = task.videos.iter().map(|video| video.uri.clone()).collect();
    done.files = vec![
        shard.finish()?,
        quality.write(place.store, &format!("{}/quality.parquet", place.folder), uris)?,
    ];
    Ok(done)
}

/// One video: its frames into the shard, its fault (if any) into words.
fn decode_video(
    task: &DecodeTask,
    video: &VideoSource,
    place: &Workplace,
    frames: &mut Frames,
) -> Result<(VideoRecord, Option<Reject>), Error> {
    let mut fault = video.unusable.clone();
    if fault.is_none() {
        fault = frames_into(task, video, place, frames)?;
        if fault.as_ref().is_none_or(|(class, _)| class != FaultClass::Unreadable.as_str()) {
            unchanged(video, place)?;
        }
    }
    let (frames, episodes) = (frames.episodes.kept(), frames.episodes.count());
    if fault.is_none() && frames < task.config.min_frames {
        let reason = format!("{frames} frames, expected at least {}", task.config.min_frames);
        fault = Some(("too_short".into(), reason));
    }
    let record = VideoRecord {
        digest: video.digest.clone(),
        uri: video.uri.clone(),
        bytes: video.bytes,
        modified: video.modified.clone(),
        at: video.archived.as_ref().map(|archived| archived.at),
        inode: video.inode,
        frames,
        episodes,
        about: video.about.clone(),
    };
    let reject = fault.map(|(class, reason)| Reject {
        video: video.uri.clone(),
        digest: video.digest.clone(),
        class,
        reason,
        frames_kept: frames,
    });
    Ok((record, reject))
}

/// Decodes until the end or the first fault that ends the file; returns the fault as (class, reason).
fn frames_into(
    task: &DecodeTask,
    video: &VideoSource,
    place: &Workplace,
    frames: &mut Frames,
) -> Result<Option<(String, String)>, Error> {
    let options = DecodeOptions {
        fps: task.config.fps,
        fit: task.config.fit,
        codec_threads: place.cores_free.max(1),
        limits: task.config.limits,
        ..DecodeOptions::new(task.config.size, task.config.size)
    };
    let trim = if task.config.trim_bars { bars_of(video, &options, place)? } else { [0.0; 4] };
    frames.trimmed = trim != [0.0; 4];
    let request = Request { video: video.clone(), options: DecodeOptions { trim, ..options } };
    let result = decoded(&request, place, &mut |frame, pixels| {
        place.go_on()?;
        let index = u32::try_from(frame.index).unwrap_or(u32::MAX);
        frames.push(
            Timed { pixels: pixels.to_vec(), time_secs: frame.time_secs, index },
            frame.gap_before,
        )
    });
    frames.finish()?;
    let fault = match result {
        Ok(fault) => fault.map(|fault| (fault.class, fault.reason)),
        // The file's fault is an outcome; anything else (a disk error, a file that vanished) is an error, and tried again by the next run.
        // That an object may be listed but not read shows only here.
        Err(Error::Video(error)) => match error.class() {
            Some(FaultClass::Unreadable) if address(&video.uri).is_none() => {
                return Err(Error::Unavailable {
                    video: video.uri.clone(),
                    reason: error.to_string(),
                });
            }
            None => return Err(error.into()),
            Some(class) => Some((class, error.to_string())),
        },
        Err(error) => return Err(error),
    };
    Ok(fault.map(|(class, reason)| (class.as_str().to_string(), reason)))
}

/// The black bars that stay throughout a video: left, top, right, bottom. What is wrong with the file is found again when it is decoded.
fn bars_of(
    video: &VideoSource,
    options: &DecodeOptions,
    place: &Workplace,
) -> Result<[f32; 4], Error> {
    let size = FrameSize { height: BARS_SIDE, width: BARS_SIDE };
    let options = DecodeOptions {
        width: BARS_SIDE,
        height: BARS_SIDE,
        fit: Fit::Stretch,
        fps: None,
        ..options.clone()
    };
    let mut least = None;
    let seen = decoded(&Request { video: video.clone(), options }, place, &mut |_, pixels| {
        place.go_on()?;
        let bars = Look::at(pixels, size).bars;
        // Of a dark picture nothing is known.
        if bars[0] + bars[2] < 1.0 && bars[1] + bars[3] < 1.0 {
            let before = least.unwrap_or(bars);
            least = Some(std::array::from_fn(|edge| before[edge].min(bars[edge])));
        }
        Ok(())
    });
    match seen {
        Ok(_) | Err(Error::Video(_)) => {
            Ok(least.unwrap_or_default().map(|bar: f32| bar.min(MOST_OF_A_SIDE)))
        }
        Err(error) => Err(error),
    }
}

/// Decodes where this run decodes.
fn decoded(request: &Request, place: &Workplace, take: &mut Take) -> Result<Option<Fault>, Error> {
    place.go_on()?;
    let result = match place.decoders {
        Some(decoders) => decoders.decode(request, place.store.access(), take),
        None => {
            let open = opener(&request.video, place.store.access());
            decode(request, open, Guard::new(&request.options.limits), take)
        }
    };
    // A signal to the whole group may have ended the process that decodes: that says nothing of the video.
    place.go_on()?;
    result
}

/// What a task writes.
struct Out {
    shard: ShardWriter,
    quality: Quality,
}

/// The frames of one video on their way there.
struct Frames<'a> {
    out: &'a mut Out,
    /// Its number in the task.
    video: usize,
    episodes: Episodes,
    /// Whether black bars were cut off.
    trimmed: bool,
}

impl Frames<'_> {
    fn push(&mut self, frame: Timed, gap_before: bool) -> Result<(), Error> {
        let judged = self.episodes.push(frame, gap_before);
        self.write(judged)
    }

    /// Those that waited for what comes after them.
    fn finish(&mut self) -> Result<(), Error> {
        while let Some(judged) = self.episodes.pop() {
            self.write(Some(judged))?;
        }
        Ok(())
    }

    fn write(&mut self, judged: Option<Judged>) -> Result<(), Error> {
        let Some(Judged { frame, episode, measured }) = judged else { return Ok(()) };
        self.out.quality.push(self.video, frame.index, &measured);
        if measured.left_out.is_none() {
            self.out.shard.push(episode, frame.index, frame.time_secs, &frame.pixels)?;
        }
        Ok(())
    }
}

/// A file that changed since it was hashed must not be filed under its old hash.
fn unchanged(video: &VideoSource, place: &Workplace) -> Result<(), Error> {
    match version_of(video.file(), place.store.access()) {
        Ok((bytes, version))
            if version == video.modified && (bytes == video.bytes || video.archived.is_some()) =>
        {
            Ok(())
        }
        _ => Err(Error::Unavailable {
            video: video.uri.clone(),
            reason: "it changed since this run looked at it".into(),
        }),
    }
}

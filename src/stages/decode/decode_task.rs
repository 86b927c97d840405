//! The work of [`decode`](super): decodes a task's videos into one shard. Compiled only with libav.

use super::copied_frames::Copied;
use super::episodes::{Episodes, Judged, Timed};
use super::frames::decode;
use super::opener::opener;
use super::output::DecodeOutput;
use super::protocol::{FrameSink, Request};
use super::quality::{DropReason, FrameStats, Quality};
use super::{DecodeTask, VideoSource};
use crate::dataset::{
    FrameSize, Reject, ShardLayout, ShardWriter, VideoName, VideoRecord, address, size_and_version,
};
use crate::stages::{Error, TaskContext, TaskOutput};
use crate::video::{DecodeOptions, Fault, FaultClass, Fit, Guard};

/// The width and height of the pictures in which bars are detected.
const BARS_SIDE: u32 = 256;
/// The largest width of a bar, as a share of the picture.
const MAX_BAR: f32 = 0.49;

/// Decodes the task's videos in sequence into one shard.
pub fn run(task: &DecodeTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    let name =
        |video: &VideoSource| VideoName { uri: video.uri.clone(), digest: video.digest.clone() };
    let layout = ShardLayout {
        size: FrameSize { height: task.config.size, width: task.config.size },
        compression: task.config.compression,
        videos: task.videos.iter().map(name).collect(),
    };
    let shard = ShardWriter::create(ctx.store, &format!("{}/shard.arrow", ctx.folder), &layout)?;
    let mut out = DecodeOutput { shard, quality: Quality::default() };
    let mut done = TaskOutput::default();
    let mut copied = Copied::default();
    let mut cuts = 0;
    let mut trimmed = 0;
    for (i, video) in task.videos.iter().enumerate() {
        out.shard.begin_video(i)?;
        if let Some(decoded) = &video.decoded {
            let (record, reject) = copied.take(decoded, video, i, ctx, &mut out)?;
            done.videos.push(record);
            done.rejects.extend(reject);
            ctx.progress.advance(1);
            continue;
        }
        let mut frames = Frames {
            out: &mut out,
            video: i,
            episodes: Episodes::new(&task.config),
            trimmed: false,
        };
        let (record, reject) = decode_video(task, video, ctx, &mut frames)?;
        cuts += frames.episodes.cuts();
        trimmed += u64::from(frames.trimmed);
        done.videos.push(record);
        done.rejects.extend(reject);
        ctx.progress.advance(1);
    }
    let DecodeOutput { shard, quality } = out;
    let frames: u64 = done.videos.iter().map(|video| video.frames).sum();
    let counts = [
        ("videos", done.videos.len() as f64),
        ("frames", frames as f64),
        ("copied_videos", copied.videos as f64),
        ("copied_frames", copied.frames as f64),
        ("cuts", (cuts + copied.cuts) as f64),
        ("trimmed_videos", trimmed as f64),
        ("blank_frames", quality.count(DropReason::Blank) as f64),
        ("still_frames", quality.count(DropReason::Still) as f64),
    ];
    done.stats.extend(counts.map(|(name, count)| (name.to_owned(), count)));
    let uris = task.videos.iter().map(|video| video.uri.clone()).collect();
    done.files = vec![
        shard.finish()?,
        quality.write(ctx.store, &format!("{}/quality.parquet", ctx.folder), uris)?,
    ];
    Ok(done)
}

/// Decodes one video into the shard. Returns its record and its reject.
fn decode_video(
    task: &DecodeTask,
    video: &VideoSource,
    ctx: &TaskContext,
    frames: &mut Frames,
) -> Result<(VideoRecord, Option<Reject>), Error> {
    let mut fault = video.unusable.clone();
    if fault.is_none() {
        fault = frames_into(task, video, ctx, frames)?;
        // An unreadable file cannot be checked for changes.
        if fault.as_ref().is_none_or(|(class, _)| class != FaultClass::Unreadable.as_str()) {
            unchanged(video, ctx)?;
        }
    }
    let episodes = frames.episodes.count();
    let frames = frames.episodes.kept();
    if fault.is_none() && frames < task.config.min_frames {
        let reason = format!("{frames} frames, expected at least {}", task.config.min_frames);
        fault = Some(("too_short".into(), reason));
    }
    let record = VideoRecord {
        digest: video.digest.clone(),
        uri: video.uri.clone(),
        bytes: video.bytes,
        modified: video.modified.clone(),
        at: video.at(),
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

/// Decodes until the end or a fatal fault of the file. Returns the fault's class and reason.
fn frames_into(
    task: &DecodeTask,
    video: &VideoSource,
    ctx: &TaskContext,
    frames: &mut Frames,
) -> Result<Option<(String, String)>, Error> {
    let options = DecodeOptions {
        fps: task.config.fps,
        fit: task.config.fit,
        // As in LeRobot's own frames.
        even_colours: video.clip.is_some(),
        codec_threads: ctx.cores_free.max(1),
        limits: task.config.limits,
        ..DecodeOptions::new(task.config.size, task.config.size)
    };
    let trim = if task.config.trim_bars { bars_of(video, &options, ctx)? } else { [0.0; 4] };
    frames.trimmed = trim != [0.0; 4];
    let request = Request { video: video.clone(), options: DecodeOptions { trim, ..options } };
    let result = decoded(&request, ctx, &mut |frame, pixels| {
        ctx.check_stop()?;
        let index = u32::try_from(frame.index).unwrap_or(u32::MAX);
        frames.push(
            Timed { pixels: pixels.to_vec(), time_secs: frame.time_secs, index },
            frame.gap_before,
        )
    });
    // Also after a fault: the frames before it are kept.
    frames.finish()?;
    let fault = match result {
        Ok(fault) => fault.map(|fault| (fault.class, fault.reason)),
        // A fault of the file is an outcome. Anything else, such as a disk error, is an error that
        // the next run tries again. Objects may be listed but unreadable, which shows only here.
        Err(Error::Video(error)) => match error.class() {
            Some(FaultClass::Unreadable) if address(video.file()).is_none() => {
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

/// Returns the black bars that last throughout a video: left, top, right, bottom. Faults of the
/// file are found again when it is decoded.
fn bars_of(
    video: &VideoSource,
    options: &DecodeOptions,
    ctx: &TaskContext,
) -> Result<[f32; 4], Error> {
    let size = FrameSize { height: BARS_SIDE, width: BARS_SIDE };
    let options = DecodeOptions {
        width: BARS_SIDE,
        height: BARS_SIDE,
        fit: Fit::Stretch,
        // All frames count, whatever the rate of the output.
        fps: None,
        ..options.clone()
    };
    let mut least = None;
    let seen = decoded(&Request { video: video.clone(), options }, ctx, &mut |_, pixels| {
        ctx.check_stop()?;
        let bars = FrameStats::of(pixels, size).bars;
        // In a dark picture, bars cannot be seen.
        if bars[0] + bars[2] < 1.0 && bars[1] + bars[3] < 1.0 {
            // A bar lasts throughout a video, so the narrowest one counts.
            let before = least.unwrap_or(bars);
            least = Some(std::array::from_fn(|edge| before[edge].min(bars[edge])));
        }
        Ok(())
    });
    match seen {
        Ok(_) | Err(Error::Video(_)) => {
            Ok(least.unwrap_or_default().map(|bar: f32| bar.min(MAX_BAR)))
        }
        Err(error) => Err(error),
    }
}

/// Decodes in a decoder process or, without any, in this process.
fn decoded(
    request: &Request,
    ctx: &TaskContext,
    take: &mut FrameSink,
) -> Result<Option<Fault>, Error> {
    ctx.check_stop()?;
    let result = match ctx.decoders {
        Some(decoders) => decoders.decode(request, ctx.store.access(), take),
        None => {
            let open = opener(&request.video, ctx.store.access());
            decode(request, open, Guard::new(&request.options.limits), take)
        }
    };
    // A signal to the whole process group may have ended the decoder. That is no fault of the
    // video.
    ctx.check_stop()?;
    result
}

/// The frames of one video on their way to the shard.
struct Frames<'a> {
    out: &'a mut DecodeOutput,
    /// The video's number in the task.
    video: usize,
    episodes: Episodes,
    /// Whether black bars were removed.
    trimmed: bool,
}

impl Frames<'_> {
    fn push(&mut self, frame: Timed, gap_before: bool) -> Result<(), Error> {
        let judged = self.episodes.push(frame, gap_before);
        self.write(judged)
    }

    /// Writes the frames that waited for their successors.
    fn finish(&mut self) -> Result<(), Error> {
        while let Some(judged) = self.episodes.pop() {
            self.write(Some(judged))?;
        }
        Ok(())
    }

    fn write(&mut self, judged: Option<Judged>) -> Result<(), Error> {
        let Some(Judged { frame, episode, measured }) = judged else { return Ok(()) };
        self.out.quality.push(self.video, frame.index, &measured);
        if measured.dropped.is_none() {
            self.out.shard.push(episode, frame.index, frame.time_secs, &frame.pixels)?;
        }
        Ok(())
    }
}

/// Returns an error if the file changed after it was hashed, since its frames would be stored under
/// the old hash.
fn unchanged(video: &VideoSource, ctx: &TaskContext) -> Result<(), Error> {
    match size_and_version(video.file(), ctx.store.access()) {
        Ok((bytes, version))
            if version == video.modified && (bytes == video.bytes || video.at().is_some()) =>
        {
            Ok(())
        }
        _ => Err(Error::Unavailable {
            video: video.uri.clone(),
            reason: "the file changed after this run was planned".into(),
        }),
    }
}

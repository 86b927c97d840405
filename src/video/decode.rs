//! Decodes a video file into frames.
//!
//! A [`Decoder`] combines the parts of this module: it writes frame after frame into the caller's
//! buffer and returns an [`Outcome`] at the end.

use std::path::Path;

use super::guard::Guard;
use super::reader::Reader;
use super::resample::{PictureTime, Resampler};
use super::scale::{Picture, Scaler};
use super::source::Source;
use super::{DecodeOptions, Error, Fault, FaultClass, Frame, OpenVideo, Outcome, probe};

/// Decoder of one file.
///
/// It cannot move between threads, because its scaler must stay on one thread.
///
/// ```no_run
/// use lapo_video::{DecodeOptions, Decoder};
///
/// # fn main() -> Result<(), lapo_video::Error> {
/// let options = DecodeOptions { fps: Some(15.0), ..DecodeOptions::new(64, 64) };
/// let mut decoder = Decoder::open("data/maze/maze_1_000.mp4".as_ref(), &options)?;
/// let mut pixels = vec![0; options.frame_bytes()];
/// while let Some(frame) = decoder.next_frame(&mut pixels)? {
///     println!("{:.3} s: the first pixel is {:?}", frame.time_secs, &pixels[..3]);
/// }
/// println!("{:?}", decoder.finish().fault);
/// # Ok(())
/// # }
/// ```
pub struct Decoder {
    reader: Reader,
    scaler: Scaler,
    /// Resampling state; `None` keeps every picture.
    resampling: Option<Resampling>,
    guard: Guard,
    frame_bytes: usize,
    frames: u64,
}

/// State of resampling to a constant rate.
struct Resampling {
    resampler: Resampler,
    current: Option<Picture>,
    next: Option<(Picture, PictureTime)>,
}

impl Decoder {
    /// Opens a file. If it is at fault, [`Error::class`] returns the fault class.
    pub fn open(path: &Path, options: &DecodeOptions) -> Result<Self, Error> {
        Self::guarded(path, None, options, Guard::new(&options.limits))
    }

    /// Opens a video from a file or an object store, with a guard that other threads can poll.
    ///
    /// `open` opens the bytes; a damaged video is opened a second time. Without `open`, `name` is
    /// the path of a local file. `guard` must be new.
    pub fn guarded(
        name: &Path,
        open: Option<OpenVideo>,
        options: &DecodeOptions,
        guard: Guard,
    ) -> Result<Self, Error> {
        options.validate()?;
        let source = || match open {
            Some(open) => Source::read(name, open, &options.limits, &guard),
            None => Source::open(name, &options.limits, &guard),
        };
        let reader =
            guard.timed(|| Reader::open(source()?, &options.limits, options.codec_threads))?;
        let scaler = Scaler::new(options, probe::orientation(&reader.source().stream()));
        let resampling = options.fps.map(|fps| Resampling {
            resampler: Resampler::new(fps),
            current: None,
            next: None,
        });
        let frame_bytes = options.frame_bytes();
        Ok(Self { reader, scaler, resampling, guard, frame_bytes, frames: 0 })
    }

    /// Writes the next frame, `[height, width, 3]` RGB, into `out`.
    ///
    /// Returns `None` at the end of the file. It also returns `None` after a fault has ended
    /// decoding early; [`Decoder::finish`] returns the fault. An error here is not the file's
    /// fault: the disk or the memory failed, or `out` has the wrong size.
    pub fn next_frame(&mut self, out: &mut [u8]) -> Result<Option<Frame>, Error> {
        if out.len() != self.frame_bytes {
            return Err(Error::Buffer { seen: out.len(), expected: self.frame_bytes });
        }
        let guard = self.guard.clone();
        let frame = guard.timed(|| {
            if self.resampling.is_some() {
                self.next_resampled(out)
            } else {
                self.next_picture(out)
            }
        })?;
        self.frames += u64::from(frame.is_some());
        Ok(frame)
    }

    /// Closes the file and returns the summary. Truncation is detected only at the end of the file.
    pub fn finish(self) -> Outcome {
        Outcome { frames: self.frames, resizes: self.scaler.rebuilds, ..self.reader.finish() }
    }

    fn next_picture(&mut self, out: &mut [u8]) -> Result<Option<Frame>, Error> {
        let Some((picture, time)) = self.reader.next()? else {
            return Ok(None);
        };
        let gap_before = time.gap_before || time.after_standstill;
        let frame = Frame { time_secs: time.time_secs, gap_before, index: time.index };
        Ok(self.write(&mut Picture::new(picture), out).then_some(frame))
    }

    fn next_resampled(&mut self, out: &mut [u8]) -> Result<Option<Frame>, Error> {
        // The state is taken out of `self` and put back, because writing needs `self` as well.
        while let Some(mut state) = self.resampling.take() {
            let due = state
                .current
                .as_mut()
                .and_then(|picture| Some((picture, state.resampler.next_frame()?)));
            if let Some((picture, frame)) = due {
                let written = self.write(picture, out);
                self.resampling = Some(state);
                return Ok(written.then_some(frame));
            }
            let next = match state.next.take() {
                Some(next) => Some(next),
                None => self.read_picture()?,
            };
            let Some((picture, time)) = next else {
                break;
            };
            // How long a picture is shown depends on the time of the next one.
            state.next = self.read_picture()?;
            state.resampler.show(time, state.next.as_ref().map(|(_, time)| *time));
            state.current = Some(picture);
            self.resampling = Some(state);
        }
        Ok(None)
    }

    fn read_picture(&mut self) -> Result<Option<(Picture, PictureTime)>, Error> {
        Ok(self.reader.next()?.map(|(picture, time)| (Picture::new(picture), time)))
    }

    /// Scales a picture into `out`. Failure ends decoding.
    fn write(&mut self, picture: &mut Picture, out: &mut [u8]) -> bool {
        let result = self.scaler.write(picture, out);
        if let Err(error) = &result {
            let reason = format!("libav cannot scale its pictures: {error}");
            self.reader.give_up(Fault::new(FaultClass::Unsupported, reason));
        }
        result.is_ok()
    }
}

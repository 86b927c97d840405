//! A video file becomes frames: the parts of the room together.
//!
//! In: a path and [`DecodeOptions`]. Out: frame after frame into the caller's buffer, then an
//! [`Outcome`]. Start at [`Decoder`].

use std::path::Path;

use super::guard::Guard;
use super::reader::Reader;
use super::resample::{Moment, Resampler};
use super::scale::{Picture, Scaler};
use super::source::Source;
use super::{DecodeOptions, Error, Fault, FaultClass, Frame, OpenVideo, Outcome, probe};

/// Decodes one file.
///
/// The scaler within must stay on its thread, so a decoder does too: one worker, one file.
///
/// ```no_run
/// use lapo::video::{DecodeOptions, Decoder};
///
/// # fn main() -> Result<(), lapo::video::Error> {
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
    pace: Option<Pace>,
    guard: Guard,
    frame_bytes: usize,
    frames: u64,
}

/// What resampling keeps: the picture at hand, and the one after it.
struct Pace {
    resampler: Resampler,
    shown: Option<Picture>,
    ahead: Option<(Picture, Moment)>,
}

impl Decoder {
    /// Opens a file; [`Error::class`] tells what is wrong with one that cannot be.
    pub fn open(path: &Path, options: &DecodeOptions) -> Result<Self, Error> {
        Self::guarded(path, None, options, Guard::new(&options.limits))
    }

    /// Reads what `open` opens, wherever it lies, as the video called `name`; a damaged file is opened a second time. Without `open`, `name`
    /// is a local file's path. The new `guard` lets others watch.
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
        let pace = options.fps.map(|fps| Pace {
            resampler: Resampler::new(fps),
            shown: None,
            ahead: None,
        });
        Ok(Self { reader, scaler, pace, guard, frame_bytes: options.frame_bytes(), frames: 0 })
    }

    /// Writes the next frame, `[height, width, 3]` RGB, into `out`; `None` at the end, or where the
    /// file was given up, which [`Decoder::finish`] tells.
    ///
    /// An error here is not the file's fault: the disk or the memory failed, or `out` has another size.
    pub fn next_frame(&mut self, out: &mut [u8]) -> Result<Option<Frame>, Error> {
        if out.len() != self.frame_bytes {
            return Err(Error::Buffer { seen: out.len(), expected: self.frame_bytes });
        }
        let guard = self.guard.clone();
        let frame = guard.timed(|| match self.pace.is_some() {
            true => self.next_at_pace(out),
            false => self.next_as_it_comes(out),
        })?;
        self.frames += u64::from(frame.is_some());
        Ok(frame)
    }

    /// Closes the file and says what became of it. Before the end, a file cut short is not noticed.
    pub fn finish(self) -> Outcome {
        let (frames, resizes) = (self.frames, self.scaler.rebuilds);
        Outcome { frames, resizes, ..self.reader.finish() }
    }

    fn next_as_it_comes(&mut self, out: &mut [u8]) -> Result<Option<Frame>, Error> {
        let Some((picture, moment)) = self.reader.next()? else {
            return Ok(None);
        };
        let gap_before = moment.gap_before || moment.after_standstill;
        let frame = Frame { time_secs: moment.time_secs, gap_before, index: moment.index };
        Ok(self.write(&mut Picture::new(picture), out).then_some(frame))
    }

    fn next_at_pace(&mut self, out: &mut [u8]) -> Result<Option<Frame>, Error> {
        while let Some(mut pace) = self.pace.take() {
            let due = pace
                .shown
                .as_mut()
                .and_then(|picture| Some((picture, pace.resampler.next_frame()?)));
            if let Some((picture, frame)) = due {
                let written = self.write(picture, out);
                self.pace = Some(pace);
                return Ok(written.then_some(frame));
            }
            let Some((picture, moment)) = self.ahead(pace.ahead.take())? else {
                break;
            };
            pace.ahead = self.ahead(None)?;
            pace.resampler.show(moment, pace.ahead.as_ref().map(|(_, moment)| *moment));
            pace.shown = Some(picture);
            self.pace = Some(pace);
        }
        Ok(None)
    }

    fn ahead(
        &mut self,
        ready: Option<(Picture, Moment)>,
    ) -> Result<Option<(Picture, Moment)>, Error> {
        match ready {
            Some(ready) => Ok(Some(ready)),
            None => {
                Ok(self.reader.next()?.map(|(picture, moment)| (Picture::new(picture), moment)))
            }
        }
    }

    /// Scales a picture into `out`; a picture that cannot be scaled ends the file.
    fn write(&mut self, picture: &mut Picture, out: &mut [u8]) -> bool {
        let result = self.scaler.write(picture, out);
        if let Err(error) = &result {
            let reason = format!("its pictures cannot be scaled: {error}");
            self.reader.give_up(Fault::new(FaultClass::Unsupported, reason));
        }
        result.is_ok()
    }
}

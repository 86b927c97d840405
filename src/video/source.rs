//! A path becomes an opened container and its video stream, past the guards.
//!
//! In: a path, or whatever opens the file, and [`Limits`]. Out: a [`Source`] that reads this one file and nothing else. Start at
//! [`Source::open`].

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::{Dictionary, Stream, media};

use super::guard::{Guard, GuardedFile};
use super::recognise::{Known, recognise};
use super::{Error, Fault, FaultClass, Limits, OpenVideo, ffi};

/// Formats that would make libav open other files, the network or a script interpreter.
const FORBIDDEN: [&str; 14] = [
    "applehttp",
    "avisynth",
    "concat",
    "dash",
    "hls",
    "image2",
    "imf",
    "lavfi",
    "rtp",
    "rtsp",
    "sap",
    "sdp",
    "vapoursynth",
    "vobsub",
];

/// Sizes of a transport stream's packets: plain, with a time stamp, with error correction.
const TRANSPORT_PACKETS: [u64; 3] = [188, 192, 204];

/// libav's score for a format that any bytes could be.
const SCORE_OF_A_GUESS: i32 = 1;

/// An opened file.
pub(super) struct Source {
    /// The container.
    pub(super) input: Input,
    /// Which of its streams is the video.
    pub(super) stream_index: usize,
    /// The time and the disk.
    pub(super) guard: Guard,
    /// The file.
    pub(super) path: PathBuf,
    open: OpenVideo,
    /// Its size.
    bytes: u64,
}

impl Source {
    /// Opens `path` as a video, or says why it is none.
    pub(super) fn open(path: &Path, limits: &Limits, guard: &Guard) -> Result<Self, Error> {
        // Asked before opening: opening a pipe that nobody writes to never returns.
        let metadata = std::fs::metadata(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        if !metadata.is_file() {
            let fault = Fault::new(
                FaultClass::NotAFile,
                "it is a directory, pipe or device; expected a file",
            );
            return Err(Error::Refused { path: path.to_owned(), fault });
        }
        let place = path.to_owned();
        Self::read(path, Arc::new(move || Ok(Box::new(File::open(&place)?))), limits, guard)
    }

    /// Reads what `open` opens, wherever it lies, as the video called `path`.
    pub(super) fn read(
        path: &Path,
        open: OpenVideo,
        limits: &Limits,
        guard: &Guard,
    ) -> Result<Self, Error> {
        super::about::silence_libav();
        let refuse = |fault| Error::Refused { path: path.to_owned(), fault };
        let unreadable = |source| Error::Read { path: path.to_owned(), source };
        let mut file = guard.paused(|| open()).map_err(unreadable)?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(unreadable)?;
        if bytes == 0 {
            return Err(refuse(Fault::new(FaultClass::EmptyFile, "it has 0 bytes")));
        }
        file.rewind().map_err(unreadable)?;
        let input = open_container(path, GuardedFile::new(file, guard), limits, guard);
        let opened = input.and_then(|input| {
            let stream_index = video_stream(&input).map_err(refuse)?;
            let stream = input.stream(stream_index).expect("the index of one of its streams");
            check_size(ffi::stated_size(&stream), limits.max_pixels).map_err(refuse)?;
            Ok((input, stream_index))
        });
        match opened {
            Ok((input, stream_index)) => Ok(Self {
                input,
                stream_index,
                guard: guard.clone(),
                path: path.to_owned(),
                open,
                bytes,
            }),
            Err(error) => Err(known(error, &open, guard)),
        }
    }

    /// What the file is besides a video, or instead of one, where its bytes tell.
    pub(super) fn recognised(&self) -> Option<Known> {
        recognised(&self.open, &self.guard)
    }

    /// Whether a transport stream, which says nothing of its length, ends within a packet.
    pub(super) fn ends_within_a_packet(&self) -> bool {
        self.input.format().name() == "mpegts"
            && TRANSPORT_PACKETS.iter().all(|packet| !self.bytes.is_multiple_of(*packet))
    }

    /// Whether its packets state how long each picture is shown, and are fewer than its header counts.
    pub(super) fn states_every_duration(&self, packets: u64) -> bool {
        let counted = u64::try_from(self.stream().frames()).unwrap_or(0);
        self.is_mp4() && counted != packets
    }

    /// Whether it is a stream that may be cut and joined anywhere, and says nothing of its length.
    pub(super) fn is_broadcast(&self) -> bool {
        ["mpegts", "mpeg"].contains(&self.input.format().name())
    }

    /// Whether it is in MP4 or one of its kin.
    pub(super) fn is_mp4(&self) -> bool {
        self.input.format().name().starts_with("mov,")
    }

    /// The same file, from its beginning.
    pub(super) fn again(&self, limits: &Limits) -> Result<Self, Error> {
        Self::read(&self.path, self.open.clone(), limits, &self.guard)
    }

    /// The video stream.
    pub(super) fn stream(&self) -> Stream<'_> {
        self.input.stream(self.stream_index).expect("the index of one of its streams")
    }

    /// The file's fault as an error.
    pub(super) fn refuse(&self, class: FaultClass, reason: impl Into<String>) -> Error {
        Error::Refused { path: self.path.clone(), fault: Fault::new(class, reason) }
    }
}

/// An error of a file that is no video, in the words of what it is.
fn known(error: Error, open: &OpenVideo, guard: &Guard) -> Error {
    let Error::Refused { path, fault } = error else { return error };
    let is_no_video = matches!(
        fault.class,
        FaultClass::UnknownFormat | FaultClass::IncompleteHeader | FaultClass::NoVideoStream
    );
    let known = if is_no_video { recognised(open, guard) } else { None };
    let fault =
        known.filter(|known| !matches!(known, Known::Joined(_))).map_or(fault, Known::fault);
    Error::Refused { path, fault }
}

/// What cannot be read a second time is not recognised.
fn recognised(open: &OpenVideo, guard: &Guard) -> Option<Known> {
    guard.paused(|| recognise(&mut open().ok()?).ok()?)
}

/// Options for every codec opened on a file: one picture never takes more memory than allowed.
pub(super) fn codec_options(limits: &Limits) -> Dictionary<'static> {
    let mut options = Dictionary::new();
    options.set("max_pixels", &limits.max_pixels.min(i32::MAX as u64).to_string());
    options
}

fn open_container(
    path: &Path,
    file: GuardedFile,
    limits: &Limits,
    guard: &Guard,
) -> Result<Input, Error> {
    let refuse = |class, reason: String| Error::Refused {
        path: path.to_owned(),
        fault: Fault::new(class, reason),
    };
    let mut io = StreamIo::from_read_seek(file).map_err(|_| out_of_memory(path))?;
    let found = ffi::find_format(&mut io, limits.probe_bytes);
    guard.check(path)?;
    let format = match found {
        Ok((format, score)) if score > SCORE_OF_A_GUESS => format,
        _ => {
            return Err(refuse(
                FaultClass::UnknownFormat,
                "its bytes are in no known video format".into(),
            ));
        }
    };
    let name = format.name();
    if name.split(',').any(|name| FORBIDDEN.contains(&name)) {
        let reason =
            format!("it is in the format {name}, which opens other files; expected a video");
        return Err(refuse(FaultClass::ForbiddenFormat, reason));
    }

    let mut format_options = Dictionary::new();
    // No protocol has this name: whatever a demuxer tries to open besides the file is refused.
    format_options.set("protocol_whitelist", "none");
    format_options.set("probesize", &limits.probe_bytes.to_string());
    let opened = ffi::open_input(io, &format, format_options, &codec_options(limits));
    guard.check(path)?;
    opened.map_err(|error| match error {
        error if is_out_of_memory(error) => out_of_memory(path),
        error => refuse(
            FaultClass::IncompleteHeader,
            format!("the header of its {name} format is broken or cut off: {error}"),
        ),
    })
}

/// The stream a player would show; a cover picture is a picture of the sound, not a video. Among equals
/// it is the first: the others may hold the transparency or the depth of its pictures.
fn video_stream(input: &Input) -> Result<usize, Fault> {
    let is_video = |stream: &Stream| {
        stream.parameters().medium() == media::Type::Video
            && !stream.disposition().contains(Disposition::ATTACHED_PIC)
    };
    let best = input
        .streams()
        .best(media::Type::Video)
        .filter(is_video)
        .or_else(|| input.streams().find(is_video));
    let rank = |stream: &Stream| {
        (ffi::stated_size(stream), stream.disposition().contains(Disposition::DEFAULT))
    };
    let first = best.and_then(|best| {
        input.streams().find(|stream| is_video(stream) && rank(stream) == rank(&best))
    });
    first.map(|stream| stream.index()).ok_or_else(|| {
        let kinds: Vec<_> = input.streams().map(|stream| describe(&stream)).collect();
        let kinds = if kinds.is_empty() {
            "nothing else either".into()
        } else {
            format!("only: {}", kinds.join(", "))
        };
        Fault::new(FaultClass::NoVideoStream, format!("it has no video, {kinds}"))
    })
}

fn describe(stream: &Stream) -> String {
    match stream.parameters().medium() {
        media::Type::Video => "a cover picture".into(),
        medium => format!("{medium:?}").to_lowercase(),
    }
}

fn check_size((width, height): (u32, u32), max_pixels: u64) -> Result<(), Fault> {
    if u64::from(width) * u64::from(height) <= max_pixels {
        return Ok(());
    }
    Err(Fault::new(
        FaultClass::TooLarge,
        format!("its pictures are {width}x{height}, expected at most {max_pixels} pixels"),
    ))
}

/// What libav could not get memory for, as a fault: a broken header may ask for any amount, and one such file must not stop a run.
pub(super) fn out_of_memory(path: &Path) -> Error {
    Error::Refused {
        path: path.to_owned(),
        fault: Fault::new(FaultClass::OutOfMemory, "it asks for more memory than there is"),
    }
}

/// Whether libav ran out of memory.
pub(super) fn is_out_of_memory(error: ffmpeg_next::Error) -> bool {
    error == ffmpeg_next::Error::Other { errno: ffmpeg_next::error::ENOMEM }
}

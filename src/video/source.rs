//! Opens a container and selects its video stream, within the [`Limits`].
//!
//! Start at [`Source::open`]. A [`Source`] reads its own file and nothing else: formats that would
//! open other files or the network are refused.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::{Dictionary, Stream, media};

use super::file_kind::{FileKind, recognise};
use super::guard::{Guard, GuardedFile};
use super::{Error, Fault, FaultClass, Limits, OpenVideo, VideoFile, ffi};

/// Formats in which libav opens other files, the network or a script interpreter.
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

/// Packet sizes of transport streams: plain, with a timestamp, with error correction.
const TRANSPORT_PACKET_BYTES: [u64; 3] = [188, 192, 204];

/// libav's detection score for a format that matches any bytes.
const GUESS_SCORE: i32 = 1;

/// An opened video file.
pub(super) struct Source {
    /// The demuxer of the container.
    pub(super) input: Input,
    /// Index of the video stream.
    pub(super) stream_index: usize,
    /// Time limit and disk errors of the file.
    pub(super) guard: Guard,
    /// Path or name of the file, for messages.
    pub(super) path: PathBuf,
    open: OpenVideo,
    /// Size of the file.
    bytes: u64,
}

impl Source {
    /// Opens the file at `path`.
    pub(super) fn open(path: &Path, limits: &Limits, guard: &Guard) -> Result<Self, Error> {
        // Checked before opening: opening a pipe without a writer blocks for ever.
        let metadata = std::fs::metadata(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        if !metadata.is_file() {
            let fault = Fault::new(
                FaultClass::NotAFile,
                "it is a directory, pipe or device; expected a file",
            );
            return Err(Error::Refused { path: path.to_owned(), fault });
        }
        let owned_path = path.to_owned();
        let open = move || -> std::io::Result<Box<dyn VideoFile>> {
            Ok(Box::new(File::open(&owned_path)?))
        };
        Self::read(path, Arc::new(open), limits, guard)
    }

    /// Opens a video by calling `open`; `path` is its name in messages.
    pub(super) fn read(
        path: &Path,
        open: OpenVideo,
        limits: &Limits,
        guard: &Guard,
    ) -> Result<Self, Error> {
        super::libav::silence_libav();
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
            Err(error) => Err(explain(error, &open, guard)),
        }
    }

    /// Identifies the kind of file from its bytes, if it is a known kind other than a plain video.
    pub(super) fn file_kind(&self) -> Option<FileKind> {
        file_kind(&self.open, &self.guard)
    }

    /// Returns whether this is a transport stream with an incomplete last packet. Transport streams
    /// state no length, so this is the only sign of truncation.
    pub(super) fn ends_within_a_packet(&self) -> bool {
        self.input.format().name() == "mpegts"
            && TRANSPORT_PACKET_BYTES.iter().all(|packet| !self.bytes.is_multiple_of(*packet))
    }

    /// Returns whether the packets state their durations, and their number `packets` differs from
    /// the number in the header.
    pub(super) fn states_every_duration(&self, packets: u64) -> bool {
        let counted = u64::try_from(self.stream().frames()).unwrap_or(0);
        self.is_mp4() && counted != packets
    }

    /// Returns whether this is a broadcast format: it states no length, and can be cut and joined
    /// anywhere.
    pub(super) fn is_broadcast(&self) -> bool {
        ["mpegts", "mpeg"].contains(&self.input.format().name())
    }

    /// Returns whether the format is MP4 or a relative of it, such as QuickTime.
    pub(super) fn is_mp4(&self) -> bool {
        self.input.format().name().starts_with("mov,")
    }

    /// Opens the same file again, at its start.
    pub(super) fn reopen(&self, limits: &Limits) -> Result<Self, Error> {
        Self::read(&self.path, self.open.clone(), limits, &self.guard)
    }

    /// Returns the video stream.
    pub(super) fn stream(&self) -> Stream<'_> {
        self.input.stream(self.stream_index).expect("the index of one of its streams")
    }

    /// Creates an error for a fault of this file.
    pub(super) fn refuse(&self, class: FaultClass, reason: impl Into<String>) -> Error {
        Error::Refused { path: self.path.clone(), fault: Fault::new(class, reason) }
    }
}

/// Replaces a general fault by a more specific one, if the bytes show the kind of file.
fn explain(error: Error, open: &OpenVideo, guard: &Guard) -> Error {
    let Error::Refused { path, fault } = error else { return error };
    let is_no_video = matches!(
        fault.class,
        FaultClass::UnknownFormat | FaultClass::IncompleteHeader | FaultClass::NoVideoStream
    );
    let kind = if is_no_video { file_kind(open, guard) } else { None };
    let fault =
        kind.filter(|kind| !matches!(kind, FileKind::Joined(_))).map_or(fault, FileKind::fault);
    Error::Refused { path, fault }
}

/// Opens the file a second time to identify it. A failed read counts as an unknown kind.
fn file_kind(open: &OpenVideo, guard: &Guard) -> Option<FileKind> {
    guard.paused(|| recognise(&mut open().ok()?).ok()?)
}

/// Returns the options of every codec opened on a file. They limit the memory of one picture.
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
        Ok((format, score)) if score > GUESS_SCORE => format,
        _ => {
            return Err(refuse(
                FaultClass::UnknownFormat,
                "libav recognises no video format in its bytes".into(),
            ));
        }
    };
    let name = format.name();
    if name.split(',').any(|name| FORBIDDEN.contains(&name)) {
        let reason = format!(
            "its format is {name}, which can open other files or the network; expected a video file"
        );
        return Err(refuse(FaultClass::ForbiddenFormat, reason));
    }

    let mut format_options = Dictionary::new();
    // No protocol has this name, so libav refuses every other file that a demuxer tries to open.
    format_options.set("protocol_whitelist", "none");
    format_options.set("probesize", &limits.probe_bytes.to_string());
    let opened = ffi::open_input(io, &format, format_options, &codec_options(limits));
    guard.check(path)?;
    opened.map_err(|error| match error {
        error if is_out_of_memory(error) => out_of_memory(path),
        error => refuse(
            FaultClass::IncompleteHeader,
            format!("its {name} header is broken or incomplete: {error}"),
        ),
    })
}

/// Selects the same stream as a player.
///
/// Cover pictures of sound files do not count. Among equal streams the first is selected, because
/// the others may hold its transparency or depth.
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
        let kinds = if kinds.is_empty() { "none".into() } else { kinds.join(", ") };
        Fault::new(
            FaultClass::NoVideoStream,
            format!("it has no video stream; its streams: {kinds}"),
        )
    })
}

fn describe(stream: &Stream) -> String {
    match stream.parameters().medium() {
        media::Type::Video => "cover picture".into(),
        medium => format!("{medium:?}").to_lowercase(),
    }
}

fn check_size((width, height): (u32, u32), max_pixels: u64) -> Result<(), Fault> {
    if u64::from(width) * u64::from(height) <= max_pixels {
        return Ok(());
    }
    Err(Fault::new(
        FaultClass::TooLarge,
        format!("its pictures are {width}x{height}, expected at most {max_pixels} pixels each"),
    ))
}

/// Creates the error for a file whose decoding exhausts the memory.
///
/// This is a fault of the file: a broken header may request any amount, and one such file must not
/// stop a run.
pub(super) fn out_of_memory(path: &Path) -> Error {
    Error::Refused {
        path: path.to_owned(),
        fault: Fault::new(
            FaultClass::OutOfMemory,
            "decoding it needs more memory than is available",
        ),
    }
}

/// Returns whether libav ran out of memory.
pub(super) fn is_out_of_memory(error: ffmpeg_next::Error) -> bool {
    error == ffmpeg_next::Error::Other { errno: ffmpeg_next::error::ENOMEM }
}

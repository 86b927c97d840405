//! The protocol between a run and its decoder processes. Start at [`Request`].
//!
//! A request is a line of JSON. The reply is a sequence of frames (a tag, the time, the position,
//! whether there is a gap before, the pixels) and an ending. In between, the decoder asks for the
//! video's bytes, since it opens no file itself. Each question is answered at once.

use std::io::{Error as IoError, ErrorKind, Read, Result as IoResult, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::VideoSource;
use crate::stages::Error;
use crate::video::{DecodeOptions, Error as VideoError, Fault, Frame};

/// One video to decode.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The video.
    pub video: VideoSource,
    /// The size and format of its frames.
    pub options: DecodeOptions,
}

/// A receiver of frames and their pixels, `[height, width, 3]`.
pub type FrameSink<'a> = dyn FnMut(Frame, &[u8]) -> Result<(), Error> + 'a;

/// One message from a decoder.
#[derive(Debug, PartialEq)]
pub enum Reply {
    /// A frame. Its pixels are in the reader's buffer.
    Frame(Frame),
    /// A question for the video's size. It also opens the video from its beginning.
    Open,
    /// A question for some of the video's bytes.
    Read {
        /// Their offset.
        at: u64,
        /// Their number, at most.
        most: u32,
    },
    /// The ending of the video.
    End(Ending),
}

/// The ending of a video.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Decoding reached the end or a fault.
    Done(Option<Fault>),
    /// Decoding failed before the first frame, or memory ran out.
    Refused(Fault),
    /// The video could not be read.
    Unreadable {
        /// The operating system's error code, if there is one.
        code: Option<i32>,
        /// Whether the error is permanent: no such file, or no permission.
        absent: bool,
        /// The error in words.
        said: String,
    },
    /// A bug in lapo, not a fault of the file.
    Failed(String),
}

/// The tags of messages.
const FRAME: u8 = b'F';
const END: u8 = b'E';
const OPEN: u8 = b'O';
const READ: u8 = b'R';
/// The tags of an answer: success, or a read error.
const GOOD: u8 = 0;
const BAD: u8 = 1;
/// The largest number of bytes in an answer.
const MAX_ANSWER_BYTES: u64 = 1 << 24;

/// A read error in a serialisable form.
#[derive(Debug, Serialize, Deserialize)]
struct ReadError {
    code: Option<i32>,
    absent: bool,
    said: String,
}

impl ReadError {
    fn of(error: &IoError) -> Self {
        let absent = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied);
        Self { code: error.raw_os_error(), absent, said: error.to_string() }
    }

    fn error(self) -> IoError {
        match self {
            // A system error is rebuilt from its code, so that its kind survives.
            Self { code: Some(code), .. } => IoError::from_raw_os_error(code),
            Self { absent, said, .. } => {
                IoError::new(if absent { ErrorKind::NotFound } else { ErrorKind::Other }, said)
            }
        }
    }
}

/// Sends a question for the video's size.
pub fn ask_to_open(to: &mut impl Write) -> IoResult<()> {
    to.write_all(&[OPEN])?;
    to.flush()
}

/// Sends a question for some of the video's bytes.
pub fn ask_to_read(to: &mut impl Write, at: u64, most: u32) -> IoResult<()> {
    to.write_all(&[READ])?;
    to.write_all(&at.to_le_bytes())?;
    to.write_all(&most.to_le_bytes())?;
    to.flush()
}

/// Sends the video's size as an answer.
pub fn write_size(to: &mut impl Write, size: &IoResult<u64>) -> IoResult<()> {
    match size {
        Ok(size) => write_bytes(to, &Ok(size.to_le_bytes().to_vec())),
        Err(error) => write_error(to, error),
    }
}

/// Sends some of the video's bytes as an answer.
pub fn write_bytes(to: &mut impl Write, bytes: &IoResult<Vec<u8>>) -> IoResult<()> {
    match bytes {
        Ok(bytes) => write_answer(to, GOOD, bytes),
        Err(error) => write_error(to, error),
    }
}

fn write_error(to: &mut impl Write, error: &IoError) -> IoResult<()> {
    write_answer(to, BAD, &serde_json::to_vec(&ReadError::of(error))?)
}

fn write_answer(to: &mut impl Write, tag: u8, bytes: &[u8]) -> IoResult<()> {
    to.write_all(&[tag])?;
    to.write_all(&(bytes.len() as u64).to_le_bytes())?;
    to.write_all(bytes)?;
    to.flush()
}

/// Reads an answer with the video's size.
pub fn read_size(from: &mut impl Read) -> IoResult<u64> {
    let bytes = read_bytes(from)?;
    let bytes = bytes
        .try_into()
        .map_err(|_| IoError::new(ErrorKind::InvalidData, "expected a size of 8 bytes"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Reads an answer with some of the video's bytes.
pub fn read_bytes(from: &mut impl Read) -> IoResult<Vec<u8>> {
    let [tag] = array(from)?;
    let length = u64::from_le_bytes(array(from)?);
    // A corrupt length must not exhaust the memory.
    if length > MAX_ANSWER_BYTES {
        return Err(IoError::new(
            ErrorKind::InvalidData,
            format!("an answer has {length} bytes, more than the limit"),
        ));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    if tag == GOOD { Ok(bytes) } else { Err(serde_json::from_slice::<ReadError>(&bytes)?.error()) }
}

/// Sends a frame.
pub fn write_frame(to: &mut impl Write, frame: Frame, pixels: &[u8]) -> IoResult<()> {
    // One tag, two numbers of 8 bytes, and the gap.
    let mut head = [FRAME; 18];
    head[1..9].copy_from_slice(&frame.time_secs.to_le_bytes());
    head[9..17].copy_from_slice(&frame.index.to_le_bytes());
    head[17] = u8::from(frame.gap_before);
    to.write_all(&head)?;
    to.write_all(pixels)
}

/// Sends the ending of a video and flushes.
pub fn write_end(to: &mut impl Write, ending: &Ending) -> IoResult<()> {
    let text = serde_json::to_vec(ending)?;
    to.write_all(&[END])?;
    to.write_all(&(text.len() as u32).to_le_bytes())?;
    to.write_all(&text)?;
    to.flush()
}

/// Reads the next message. The pixels of a frame go into `pixels`.
pub fn read(from: &mut impl Read, pixels: &mut [u8]) -> IoResult<Reply> {
    let [tag] = array(from)?;
    match tag {
        FRAME => {
            let time_secs = f64::from_le_bytes(array(from)?);
            let index = u64::from_le_bytes(array(from)?);
            let [gap] = array(from)?;
            from.read_exact(pixels)?;
            Ok(Reply::Frame(Frame { time_secs, gap_before: gap != 0, index }))
        }
        OPEN => Ok(Reply::Open),
        READ => Ok(Reply::Read {
            at: u64::from_le_bytes(array(from)?),
            most: u32::from_le_bytes(array(from)?),
        }),
        END => {
            let length = u32::from_le_bytes(array(from)?);
            let mut text = Vec::new();
            // Read with a limit, without allocating the announced length up front.
            from.take(u64::from(length)).read_to_end(&mut text)?;
            Ok(Reply::End(serde_json::from_slice(&text)?))
        }
        other => Err(IoError::new(
            ErrorKind::InvalidData,
            format!("a message has the unknown tag {other}"),
        )),
    }
}

fn array<const N: usize>(from: &mut impl Read) -> IoResult<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map(|()| bytes)
}

impl Ending {
    /// Creates the ending of a decoding result.
    pub fn of(result: Result<Option<Fault>, Error>) -> Self {
        match result {
            Ok(fault) => Ending::Done(fault),
            Err(Error::Video(VideoError::Refused { fault, .. })) => Ending::Refused(fault),
            Err(Error::Video(VideoError::Read { source, .. })) => Ending::Unreadable {
                code: source.raw_os_error(),
                absent: matches!(source.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied),
                said: source.to_string(),
            },
            Err(error) => Ending::Failed(error.to_string()),
        }
    }

    /// Returns the decoding result, as if the video had been decoded in this process.
    pub fn result(self, video: &VideoSource) -> Result<Option<Fault>, Error> {
        let path = PathBuf::from(&video.uri);
        Err(match self {
            Ending::Done(fault) => return Ok(fault),
            Ending::Refused(fault) => VideoError::Refused { path, fault }.into(),
            Ending::Unreadable { code: Some(code), .. } => {
                VideoError::Read { path, source: IoError::from_raw_os_error(code) }.into()
            }
            Ending::Unreadable { code: None, absent, said } => {
                let kind = if absent { ErrorKind::NotFound } else { ErrorKind::Other };
                VideoError::Read { path, source: IoError::new(kind, said) }.into()
            }
            Ending::Failed(what) => Error::Invariant { what },
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::video::FaultClass;

    fn video() -> VideoSource {
        VideoSource {
            uri: "videos/a.mp4".into(),
            digest: "d".into(),
            bytes: 1,
            modified: "m".into(),
            ..VideoSource::default()
        }
    }

    #[test]
    fn messages_come_back_as_they_were_sent() {
        let mut sent = Vec::new();
        let frames = [(0.1 + 0.2, false, [1, 2, 3]), (f64::MAX, true, [4, 5, 6])];
        for (time_secs, gap_before, pixels) in frames {
            write_frame(&mut sent, Frame { time_secs, gap_before, index: 7 }, &pixels).unwrap();
        }
        let fault = || Fault::new(FaultClass::Truncated, "after \"2\" frames\n");
        write_end(&mut sent, &Ending::Done(Some(fault()))).unwrap();
        let (mut from, mut seen) = (sent.as_slice(), [0; 3]);
        for (time_secs, gap_before, pixels) in frames {
            assert_eq!(
                read(&mut from, &mut seen).unwrap(),
                Reply::Frame(Frame { time_secs, gap_before, index: 7 })
            );
            assert_eq!(seen, pixels);
        }
        assert_eq!(read(&mut from, &mut seen).unwrap(), Reply::End(Ending::Done(Some(fault()))));
        assert_eq!(read(&mut from, &mut seen).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        for cut in 0..sent.len() {
            let mut from = &sent[..cut];
            let ended = std::iter::from_fn(|| Some(read(&mut from, &mut seen)))
                .take(3)
                .find_map(Result::err);
            assert!(ended.is_some(), "{cut} bytes are no whole message");
        }
        assert!(read(&mut &b"X"[..], &mut seen).is_err());
    }

    #[test]
    fn questions_and_their_answers_come_back_as_they_were_sent() {
        let mut asked = Vec::new();
        let mut answered = Vec::new();
        ask_to_open(&mut asked).unwrap();
        ask_to_read(&mut asked, 1 << 40, 7).unwrap();
        let mut from = asked.as_slice();
        assert_eq!(read(&mut from, &mut []).unwrap(), Reply::Open);
        assert_eq!(read(&mut from, &mut []).unwrap(), Reply::Read { at: 1 << 40, most: 7 });
        write_size(&mut answered, &Ok(1 << 33)).unwrap();
        write_bytes(&mut answered, &Ok(b"bytes".to_vec())).unwrap();
        write_bytes(&mut answered, &Err(IoError::from_raw_os_error(5))).unwrap();
        let mut from = answered.as_slice();
        assert_eq!(read_size(&mut from).unwrap(), 1 << 33);
        assert_eq!(read_bytes(&mut from).unwrap(), b"bytes");
        assert_eq!(read_bytes(&mut from).unwrap_err().raw_os_error(), Some(5));
    }

    #[test]
    fn an_error_means_the_same_in_both_processes() {
        let read = |source: IoError| VideoError::Read { path: "videos/a.mp4".into(), source };
        let fault = Fault::new(FaultClass::TooLarge, "it is too large");
        let errors = [
            read(IoError::from_raw_os_error(5)),
            read(IoError::from_raw_os_error(2)),
            read(IoError::new(ErrorKind::PermissionDenied, "the store refuses access")),
            read(IoError::new(ErrorKind::TimedOut, "the store is gone")),
            VideoError::Refused { path: "videos/a.mp4".into(), fault },
        ];
        for error in errors {
            let (text, class, passes) = (error.to_string(), error.class(), error.is_transient());
            let Err(Error::Video(received)) = Ending::of(Err(error.into())).result(&video()) else {
                panic!("{text}: expected an error")
            };
            assert_eq!(
                (received.to_string(), received.class(), received.is_transient()),
                (text, class, passes)
            );
        }
    }
}

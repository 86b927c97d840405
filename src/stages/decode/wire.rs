//! What goes between a run and the processes that decode for it. A request is a line of JSON; a reply is frames, each a tag, its time,
//! its position, whether there is a gap before it, and its pixels, and then how it ended. In between the process asks for the video's
//! bytes, since it opens no file itself; each question is answered at once. Start at [`Request`].

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
    /// What its frames should be like.
    pub options: DecodeOptions,
}

/// Takes the next frame and its pixels, `[height, width, 3]`.
pub type Take<'a> = dyn FnMut(Frame, &[u8]) -> Result<(), Error> + 'a;

/// One part of an answer.
#[derive(Debug, PartialEq)]
pub enum Reply {
    /// A frame; its pixels are in the reader's buffer.
    Frame(Frame),
    /// A question: the video's size, which opens it from its beginning.
    Open,
    /// A question: some of the video's bytes.
    Read {
        /// Where they begin.
        at: u64,
        /// How many, at most.
        most: u32,
    },
    /// There are no more.
    End(Ending),
}

/// How a video ended.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// At its end, or at a fault.
    Done(Option<Fault>),
    /// Before the first frame, or where the memory ended.
    Refused(Fault),
    /// It could not be read.
    Unreadable {
        /// The operating system's number for it, if it has one.
        code: Option<i32>,
        /// Whether it will not pass: there is no such file, or it may not be read.
        absent: bool,
        /// In words.
        said: String,
    },
    /// Our fault, not the file's.
    Failed(String),
}

const FRAME: u8 = b'F';
const END: u8 = b'E';
const OPEN: u8 = b'O';
const READ: u8 = b'R';
/// An answer to a question: it worked, or what the system said.
const GOOD: u8 = 0;
const BAD: u8 = 1;
/// Most bytes of one answer.
const MOST_BYTES: u64 = 1 << 24;

/// Why a video could not be read, in a form that can be sent.
#[derive(Debug, Serialize, Deserialize)]
struct Trouble {
    code: Option<i32>,
    absent: bool,
    said: String,
}

impl Trouble {
    fn of(error: &IoError) -> Self {
        let absent = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied);
        Self { code: error.raw_os_error(), absent, said: error.to_string() }
    }

    fn error(self) -> IoError {
        match self {
            Self { code: Some(code), .. } => IoError::from_raw_os_error(code),
            Self { absent, said, .. } => {
                IoError::new(if absent { ErrorKind::NotFound } else { ErrorKind::Other }, said)
            }
        }
    }
}

/// Asks for the video's size.
pub fn ask_to_open(to: &mut impl Write) -> IoResult<()> {
    to.write_all(&[OPEN])?;
    to.flush()
}

/// Asks for some of the video's bytes.
pub fn ask_to_read(to: &mut impl Write, at: u64, most: u32) -> IoResult<()> {
    to.write_all(&[READ])?;
    to.write_all(&at.to_le_bytes())?;
    to.write_all(&most.to_le_bytes())?;
    to.flush()
}

/// Answers with the video's size.
pub fn write_size(to: &mut impl Write, size: &IoResult<u64>) -> IoResult<()> {
    match size {
        Ok(size) => write_bytes(to, &Ok(size.to_le_bytes().to_vec())),
        Err(error) => write_trouble(to, error),
    }
}

/// Answers with some of its bytes.
pub fn write_bytes(to: &mut impl Write, bytes: &IoResult<Vec<u8>>) -> IoResult<()> {
    match bytes {
        Ok(bytes) => write_answer(to, GOOD, bytes),
        Err(error) => write_trouble(to, error),
    }
}

fn write_trouble(to: &mut impl Write, error: &IoError) -> IoResult<()> {
    write_answer(to, BAD, &serde_json::to_vec(&Trouble::of(error))?)
}

fn write_answer(to: &mut impl Write, tag: u8, bytes: &[u8]) -> IoResult<()> {
    to.write_all(&[tag])?;
    to.write_all(&(bytes.len() as u64).to_le_bytes())?;
    to.write_all(bytes)?;
    to.flush()
}

/// The video's size, as answered.
pub fn read_size(from: &mut impl Read) -> IoResult<u64> {
    let bytes = read_bytes(from)?;
    let bytes =
        bytes.try_into().map_err(|_| IoError::new(ErrorKind::InvalidData, "a size has 8 bytes"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Some of its bytes, as answered.
pub fn read_bytes(from: &mut impl Read) -> IoResult<Vec<u8>> {
    let ([tag], length) = (array(from)?, u64::from_le_bytes(array(from)?));
    if length > MOST_BYTES {
        return Err(IoError::new(ErrorKind::InvalidData, format!("an answer has {length} bytes")));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    if tag == GOOD { Ok(bytes) } else { Err(serde_json::from_slice::<Trouble>(&bytes)?.error()) }
}

/// Sends a frame.
pub fn write_frame(to: &mut impl Write, frame: Frame, pixels: &[u8]) -> IoResult<()> {
    let mut head = [FRAME; 18];
    head[1..9].copy_from_slice(&frame.time_secs.to_le_bytes());
    head[9..17].copy_from_slice(&frame.index.to_le_bytes());
    head[17] = u8::from(frame.gap_before);
    to.write_all(&head)?;
    to.write_all(pixels)
}

/// Sends how a video ended, and all that was held back.
pub fn write_end(to: &mut impl Write, ending: &Ending) -> IoResult<()> {
    let text = serde_json::to_vec(ending)?;
    to.write_all(&[END])?;
    to.write_all(&(text.len() as u32).to_le_bytes())?;
    to.write_all(&text)?;
    to.flush()
}

/// The next part of an answer; the pixels of a frame go into `pixels`.
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
            from.take(u64::from(length)).read_to_end(&mut text)?;
            Ok(Reply::End(serde_json::from_slice(&text)?))
        }
        other => {
            Err(IoError::new(ErrorKind::InvalidData, format!("an answer begins with byte {other}")))
        }
    }
}

fn array<const N: usize>(from: &mut impl Read) -> IoResult<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map(|()| bytes)
}

impl Ending {
    /// What became of decoding, ready to be sent.
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

    /// The same as if it had been decoded here.
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
        let (uri, digest, modified) = ("videos/a.mp4".into(), "d".into(), "m".into());
        VideoSource { uri, digest, bytes: 1, modified, ..VideoSource::default() }
    }

    #[test]
    fn an_answer_comes_back_as_it_was_sent() {
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
            assert!(ended.is_some(), "{cut} bytes of an answer are not one");
        }
        assert!(read(&mut &b"X"[..], &mut seen).is_err());
    }

    #[test]
    fn questions_and_their_answers_come_back_as_they_were_sent() {
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
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
    fn an_error_means_there_what_it_means_here() {
        let read = |source: IoError| VideoError::Read { path: "videos/a.mp4".into(), source };
        let fault = Fault::new(FaultClass::TooLarge, "it is too large");
        let errors = [
            read(IoError::from_raw_os_error(5)),
            read(IoError::from_raw_os_error(2)),
            read(IoError::new(ErrorKind::PermissionDenied, "the store says no")),
            read(IoError::new(ErrorKind::TimedOut, "the store is gone")),
            VideoError::Refused { path: "videos/a.mp4".into(), fault },
        ];
        for error in errors {
            let (text, class, passes) = (error.to_string(), error.class(), error.is_transient());
            let Err(Error::Video(told)) = Ending::of(Err(error.into())).result(&video()) else {
                panic!("{text}: no error any more")
            };
            assert_eq!(
                (told.to_string(), told.class(), told.is_transient()),
                (text, class, passes)
            );
        }
    }
}

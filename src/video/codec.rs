//! Opens the codec of a file and decides which packets it can decode.
//!
//! [`open_codec`] opens a codec and makes it report damage instead of hiding it. [`Resume`] decides
//! at which packets decoding can start or continue. Damage stays undetected if it decodes without
//! an error; VP9 reports almost none.
//!
//! Where libav is wrong or silent:
//!
//! | codec, container | libav | this module |
//! |---|---|---|
//! | H.264 | fails in a cut stream that releases earlier references | is not strict; drops marked pictures |
//! | H.264 | conceals damage and marks no picture predicted from it | compares with a second decoder (`second_decoder`) |
//! | HEVC | invents a lost reference and only logs a message | counts the message as damage (`libav_log`) |
//! | FFV1, GIF | keeps a part with a wrong checksum or code and logs it | the same |
//! | MPEG-TS | marks packets as damaged if only a length field is wrong | trusts the codec |
//! | MP4 with alpha or depth | may prefer the auxiliary track | uses the first of the largest tracks |
//! | AVI, fragmented MP4, ASF | state counts and durations without pictures | does not treat them as faults |

use ffmpeg_next::codec::{self, Id, threading};
use ffmpeg_next::decoder::{self, Check};
use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::{Error as AvError, Packet};

use super::libav_log::CodecLog;
use super::source::{Source, codec_options, is_out_of_memory, out_of_memory};
use super::{Error, FaultClass, Limits, ffi};

/// Codecs that may use several threads: expensive to decode and predictable at damage.
///
/// MPEG-4 aborts the process at damage. VP8 detects almost none, and the pixels of its damaged
/// pictures depend on the timing of the threads.
const MULTITHREADED: [Id; 4] = [Id::H264, Id::HEVC, Id::VP9, Id::AV1];

/// Largest number of codec threads. libav warns above it: more cost memory and gain nothing.
const MAX_THREADS: usize = 16;

/// Codecs that count the parts of a picture, and so detect a packet with missing parts.
const DETECT_MISSING_PARTS: [Id; 3] = [Id::MPEG1VIDEO, Id::MPEG2VIDEO, Id::MPEG4];

/// Kinds of packet loss detected by a codec itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum LossDetection {
    /// Almost none.
    Nothing,
    /// Missing parts of a packet, but not missing packets.
    Parts,
    /// Also missing reference pictures, because H.264 numbers them.
    All,
}

/// An opened codec.
pub(super) struct Opened {
    /// The decoder.
    pub(super) codec: decoder::Video,
    /// Its log messages.
    pub(super) codec_log: CodecLog,
    /// Number of threads in use; fewer than requested if the machine is short of them.
    pub(super) threads: usize,
}

/// Opens the codec of the video stream and captures its log.
///
/// A shortage of threads or memory is not the file's fault: the codec is opened again with half as
/// many threads, down to one.
pub(super) fn open_codec(
    source: &Source,
    limits: &Limits,
    threads: usize,
) -> Result<Opened, Error> {
    let id = source.stream().parameters().id();
    let mut threads = if MULTITHREADED.contains(&id) { threads.clamp(1, MAX_THREADS) } else { 1 };
    loop {
        match open_with(source, limits, threads) {
            Ok((codec, codec_log)) => return Ok(Opened { codec, codec_log, threads }),
            Err(error) if threads > 1 && is_shortage(error) => threads /= 2,
            Err(error) if is_out_of_memory(error) => return Err(out_of_memory(&source.path)),
            Err(error) => {
                let reason = format!("libav cannot decode its codec {}: {error}", name_of(source));
                return Err(source.refuse(FaultClass::Unsupported, reason));
            }
        }
    }
}

/// Returns libav's name for the codec, or the container's four-letter code if libav has none.
fn name_of(source: &Source) -> String {
    let parameters = source.stream().parameters();
    match parameters.id() {
        Id::None => format!("`{}`", ffi::fourcc(&source.stream())),
        id => id.name().to_owned(),
    }
}

/// Returns whether the codec conceals damage in a picture instead of rejecting the picture.
pub(super) fn conceals(source: &Source) -> bool {
    source.stream().parameters().id() == Id::H264
}

/// Opens a second decoder of the file, single-threaded and without concealment.
pub(super) fn open_second(
    source: &Source,
    limits: &Limits,
) -> Result<(decoder::Video, CodecLog), Error> {
    open_as(source, limits, 1, Concealment::Noise).map_err(|_| out_of_memory(&source.path))
}

fn open_with(
    source: &Source,
    limits: &Limits,
    threads: usize,
) -> Result<(decoder::Video, CodecLog), AvError> {
    open_as(source, limits, threads, Concealment::Guess)
}

/// Content of the damaged parts of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Concealment {
    /// The codec's guess from neighbouring pixels and pictures.
    Guess,
    /// Noise, which no intact picture contains.
    Noise,
}

fn open_as(
    source: &Source,
    limits: &Limits,
    threads: usize,
    concealment: Concealment,
) -> Result<(decoder::Video, CodecLog), AvError> {
    let stream = source.stream();
    let id = stream.parameters().id();
    let found = decoder::find(id).ok_or(AvError::DecoderNotFound)?;
    let mut context = codec::Context::from_parameters(stream.parameters())?;
    let mut threading = threading::Config::kind(threading::Type::Frame);
    threading.count = threads;
    context.set_threading(threading);
    let codec_log = CodecLog::attach(&mut context);
    let mut options = codec_options(limits);
    if concealment == Concealment::Noise {
        ffi::start_pictures_as_noise(&mut context);
        options.set("ec", "0");
        // The first decoder decides which pictures are intact, so this one returns all.
        options.set("flags", "+output_corrupt");
    }
    let mut codec = context.decoder();
    codec.set_packet_time_base(stream.time_base());
    // H.264 broadcasts release references from before the start. This is harmless, but an error in
    // strict mode. Without strict mode, libav marks the pictures that it conceals.
    codec.check(if id == Id::H264 { Check::CRC } else { Check::EXPLODE | Check::CRC });
    let codec = codec.open_as_with(found, options)?.video()?;
    Ok((codec, codec_log))
}

/// Returns whether the machine is short of threads or memory.
pub(super) fn is_shortage(error: AvError) -> bool {
    error == AvError::Other { errno: EAGAIN } || is_out_of_memory(error)
}

/// Returns whether the codec gives a picture for each packet that holds one.
///
/// Other codecs skip packets they do not understand, without an error.
pub(super) fn one_picture_per_packet(source: &Source) -> bool {
    [Id::H264, Id::HEVC, Id::AV1].contains(&source.stream().parameters().id())
}

/// Returns the kinds of packet loss detected by the codec of a file.
pub(super) fn loss_detection(source: &Source) -> LossDetection {
    match source.stream().parameters().id() {
        Id::H264 => LossDetection::All,
        id if DETECT_MISSING_PARTS.contains(&id) => LossDetection::Parts,
        _ => LossDetection::Nothing,
    }
}

/// Largest size of an H.264 or HEVC packet without a picture, such as an end of sequence.
const MAX_MARKER_BYTES: usize = 8;

/// Returns whether a packet holds a visible picture. VP8 also has packets with hidden reference
/// pictures.
pub(super) fn holds_picture(id: Id, packet: &Packet) -> bool {
    // Bit 4 of a VP8 frame header is `show_frame`.
    let show_frame = |first: &u8| first & 0x10 != 0;
    match id {
        Id::VP8 => packet.data().and_then(<[u8]>::first).is_none_or(show_frame),
        Id::H264 | Id::HEVC => packet.size() > MAX_MARKER_BYTES,
        _ => true,
    }
}

/// State that decides which packets can be decoded, given the key frames and losses so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Resume {
    /// No key frame was seen. All packets are decoded, because some containers mark none.
    Unmarked,
    /// Packets were lost. None is decoded before the next key frame.
    AtKeyFrame,
    /// One key frame was seen. Its leading pictures, which are shown before it, may reference
    /// missing pictures. After a loss they are skipped; at the start of a file the codec detects
    /// them.
    FirstGroup { key: Option<i64>, after_loss: bool },
    /// Two key frames were seen. All packets are decoded.
    Anywhere,
}

impl Resume {
    /// Advances to the next packet and returns whether it can be decoded.
    pub(super) fn accepts(&mut self, packet: &Packet) -> bool {
        if packet.is_key() {
            *self = match *self {
                Self::Unmarked => Self::FirstGroup { key: packet.pts(), after_loss: false },
                Self::AtKeyFrame => Self::FirstGroup { key: packet.pts(), after_loss: true },
                Self::FirstGroup { .. } | Self::Anywhere => Self::Anywhere,
            };
        }
        match *self {
            Self::FirstGroup { after_loss: true, .. } => !self.is_leading(packet.pts()),
            Self::Unmarked | Self::Anywhere | Self::FirstGroup { .. } => true,
            Self::AtKeyFrame => false,
        }
    }

    /// Returns whether a picture is shown before the key frame at which decoding started.
    pub(super) fn is_leading(&self, pts: Option<i64>) -> bool {
        matches!((self, pts), (Self::FirstGroup { key: Some(key), .. }, Some(pts)) if pts < *key)
    }

    /// Returns whether a missing reference is expected, so that it is no sign of damage.
    ///
    /// At the start of a file it is. After a loss it is too, unless a second decoder shows whether
    /// a picture uses the reference.
    pub(super) fn may_miss_references(&self, has_second_decoder: bool) -> bool {
        match self {
            Self::Unmarked | Self::FirstGroup { after_loss: false, .. } => true,
            Self::FirstGroup { after_loss: true, .. } => !has_second_decoder,
            Self::AtKeyFrame | Self::Anywhere => false,
        }
    }

    /// Records a loss of packets.
    pub(super) fn interrupt(&mut self) {
        if *self != Self::Unmarked {
            *self = Self::AtKeyFrame;
        }
    }
}

#[cfg(test)]
mod tests {
    use ffmpeg_next::packet::Flags;

    use super::*;

    /// Feeds packets such as `K3 2 4` and compares the accepted ones. `K` marks a key frame, `!` a
    /// loss before the packet, the number is the timestamp.
    fn check(packets: &str, expected: &str) {
        let mut resume = Resume::Unmarked;
        let accepted = packets.split(' ').filter(|word| {
            let mut packet = Packet::empty();
            packet.set_pts(word.trim_matches(['K', '!']).parse().ok());
            if word.starts_with('K') {
                packet.set_flags(Flags::KEY);
            }
            if word.starts_with('!') {
                resume.interrupt();
            }
            resume.accepts(&packet)
        });
        assert_eq!(accepted.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn decoding_resumes_at_a_key_frame_and_skips_its_leading_pictures() {
        check("K0 1 2 K3 4 5", "K0 1 2 K3 4 5");
        check("K0 1 !2 3 K6 4 5 7 K9 8", "K0 1 K6 7 K9 8");
        check("K2 0 1 3", "K2 0 1 3");
        check("0 1 K4 2 3 5 !6 K9 7 8 10 K13 11 12", "0 1 K4 2 3 5 K9 10 K13 11 12");
    }

    #[test]
    fn a_stream_without_marked_key_frames_is_decoded_completely() {
        check("0 1 !2 3", "0 1 !2 3");
    }
}

//! The codec of a file, and which packets it can use.
//!
//! In: an opened [`Source`]. Out: a codec that reports damage instead of hiding it, and a [`Resume`]
//! that knows where it can take up again. Start at [`open_codec`].
//!
//! Damage that happens to decode into something, nobody sees: VP9 can hardly fail at all.
//!
//! Where libav is wrong or silent:
//!
//! | codec, container | what libav does | what is done here |
//! |---|---|---|
//! | H.264 | an error where a stream cut in two releases references of before | not strict; marked pictures are dropped |
//! | H.264 | conceals damage, and marks no picture that is predicted from it | a second decoder shows which those are (`witness`) |
//! | HEVC | makes up a lost reference, and says so only in words | its words count as damage (`listen`) |
//! | FFV1, GIF | keeps a slice or picture whose checksum or code is wrong, in words | the same |
//! | MPEG-TS | marks a packet as damaged where only a length field is off | the codec gets it, and is believed |
//! | MP4 with alpha or depth | may prefer the auxiliary track | the first of the largest tracks |
//! | AVI, fragmented MP4, ASF | counts and durations that no picture stands for | a count or a duration alone is no fault |

use ffmpeg_next::codec::{self, Id, threading};
use ffmpeg_next::decoder::{self, Check};
use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::{Error as AvError, Packet};

use super::listen::Ear;
use super::source::{Source, codec_options, is_out_of_memory, out_of_memory};
use super::{Error, FaultClass, Limits, ffi};

/// The codecs that may run on several threads: heavy to decode, and orderly when they meet damage.
/// MPEG-4 is not: it aborts the process. Nor is VP8: it notices next to no damage, and fills the
/// damaged pictures with whatever the threads happen to have ready.
const THREADED: [Id; 4] = [Id::H264, Id::HEVC, Id::VP9, Id::AV1];

/// Codec threads above this cost memory and gain nothing: libav itself warns of more.
const MOST_THREADS: usize = 16;

/// Codecs that count the parts of a picture, so that they notice whatever is missing of a packet.
const NOTICE_MISSING_PARTS: [Id; 3] = [Id::MPEG1VIDEO, Id::MPEG2VIDEO, Id::MPEG4];

/// What a codec notices of packets that were lost on the way to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Notices {
    /// Next to nothing.
    Nothing,
    /// What is missing of a packet, not that one is missing.
    Parts,
    /// That too, where others lean on it: H.264 numbers them.
    All,
}

/// A codec that was opened.
pub(super) struct Opened {
    /// The codec.
    pub(super) codec: decoder::Video,
    /// What it says.
    pub(super) ear: Ear,
    /// Its threads: fewer than asked for, where the machine did not have more to give.
    pub(super) threads: usize,
}

/// Opens the codec of the video stream, and listens to it. Threads or memory that the machine does
/// not have are no fault of the file's: it is tried again with half as many threads, down to one.
pub(super) fn open_codec(
    source: &Source,
    limits: &Limits,
    threads: usize,
) -> Result<Opened, Error> {
    let id = source.stream().parameters().id();
    let mut threads = if THREADED.contains(&id) { threads.clamp(1, MOST_THREADS) } else { 1 };
    loop {
        match open_with(source, limits, threads) {
            Ok((codec, ear)) => return Ok(Opened { codec, ear, threads }),
            Err(error) if threads > 1 && is_shortage(error) => threads /= 2,
            Err(error) if is_out_of_memory(error) => return Err(out_of_memory(&source.path)),
            Err(error) => {
                let reason =
                    format!("its codec {} cannot be decoded here: {error}", name_of(source));
                return Err(source.refuse(FaultClass::Unsupported, reason));
            }
        }
    }
}

/// The codec's name; where libav has none for it, the four letters by which the container calls it.
fn name_of(source: &Source) -> String {
    let parameters = source.stream().parameters();
    match parameters.id() {
        Id::None => format!("`{}`", ffi::fourcc(&source.stream())),
        id => id.name().to_owned(),
    }
}

/// Whether the codec conceals damage in a picture instead of refusing the picture.
pub(super) fn conceals(source: &Source) -> bool {
    source.stream().parameters().id() == Id::H264
}

/// Opens a second decoder of the file, on one thread, that conceals nothing.
pub(super) fn open_second(
    source: &Source,
    limits: &Limits,
) -> Result<(decoder::Video, Ear), Error> {
    open_as(source, limits, 1, Concealing::No).map_err(|_| out_of_memory(&source.path))
}

fn open_with(
    source: &Source,
    limits: &Limits,
    threads: usize,
) -> Result<(decoder::Video, Ear), AvError> {
    open_as(source, limits, threads, Concealing::AsUsual)
}

/// What a codec shows in the damaged parts of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Concealing {
    /// A guess.
    AsUsual,
    /// Noise.
    No,
}

fn open_as(
    source: &Source,
    limits: &Limits,
    threads: usize,
    concealing: Concealing,
) -> Result<(decoder::Video, Ear), AvError> {
    let stream = source.stream();
    let id = stream.parameters().id();
    let found = decoder::find(id).ok_or(AvError::DecoderNotFound)?;
    let mut context = codec::Context::from_parameters(stream.parameters())?;
    let mut threading = threading::Config::kind(threading::Type::Frame);
    threading.count = threads;
    context.set_threading(threading);
    let ear = Ear::on(&mut context);
    let mut options = codec_options(limits);
    if concealing == Concealing::No {
        ffi::start_pictures_as_noise(&mut context);
        options.set("ec", "0");
        // The first decoder decides which pictures are whole.
        options.set("flags", "+output_corrupt");
    }
    let mut codec = context.decoder();
    codec.set_packet_time_base(stream.time_base());
    // H.264 broadcasts release references of before the start: an error to libav if it is strict, and
    // harmless. What it conceals when it is not strict, it marks.
    codec.check(if id == Id::H264 { Check::CRC } else { Check::EXPLODE | Check::CRC });
    let codec = codec.open_as_with(found, options)?.video()?;
    Ok((codec, ear))
}

/// Whether the machine had no thread or memory to give.
pub(super) fn is_shortage(error: AvError) -> bool {
    error == AvError::Other { errno: EAGAIN } || is_out_of_memory(error)
}

/// Whether the codec gives a picture for each packet that holds one: it passes over what it does not know in silence.
pub(super) fn swallows_none(source: &Source) -> bool {
    [Id::H264, Id::HEVC, Id::AV1].contains(&source.stream().parameters().id())
}

/// What the codec of a file notices of packets that were lost on the way to it.
pub(super) fn notices(source: &Source) -> Notices {
    match source.stream().parameters().id() {
        Id::H264 => Notices::All,
        id if NOTICE_MISSING_PARTS.contains(&id) => Notices::Parts,
        _ => Notices::Nothing,
    }
}

/// A packet of H.264 or HEVC with so few bytes may hold no picture but a mark, such as the end of a sequence.
const LARGEST_MARKER: usize = 8;

/// Whether a packet holds a picture that is shown: VP8 has packets that only prepare others.
pub(super) fn is_shown(id: Id, packet: &Packet) -> bool {
    let show_frame = |first: &u8| first & 0x10 != 0;
    match id {
        Id::VP8 => packet.data().and_then(<[u8]>::first).is_none_or(show_frame),
        Id::H264 | Id::HEVC => packet.size() > LARGEST_MARKER,
        _ => true,
    }
}

/// Which packets can be decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Resume {
    /// All, while no packet was a key frame: not every container marks them.
    Unmarked,
    /// None before the next key frame.
    AtKeyFrame,
    /// After the first key frame. Pictures shown before it may lean on pictures that are not there:
    /// at the start of a file the codec knows which, after a loss they are skipped.
    FirstGroup { key: Option<i64>, after_loss: bool },
    /// All, from the second key frame on.
    Anywhere,
}

impl Resume {
    /// Whether a packet can be decoded, given the ones before it.
    pub(super) fn admits(&mut self, packet: &Packet) -> bool {
        if packet.is_key() {
            *self = match *self {
                Self::Unmarked => Self::FirstGroup { key: packet.pts(), after_loss: false },
                Self::AtKeyFrame => Self::FirstGroup { key: packet.pts(), after_loss: true },
                Self::FirstGroup { .. } | Self::Anywhere => Self::Anywhere,
            };
        }
        match *self {
            Self::FirstGroup { after_loss: true, .. } => !self.leads(packet.pts()),
            Self::Unmarked | Self::Anywhere | Self::FirstGroup { .. } => true,
            Self::AtKeyFrame => false,
        }
    }

    /// Whether what is shown at this time comes before the key frame that decoding began with.
    pub(super) fn leads(&self, pts: Option<i64>) -> bool {
        matches!((self, pts), (Self::FirstGroup { key: Some(key), .. }, Some(pts)) if pts < *key)
    }

    /// Whether pictures may name references of before the start of the file, or of a loss unless a
    /// second decoder shows whether they use them.
    pub(super) fn may_miss_references(&self, has_witness: bool) -> bool {
        match self {
            Self::Unmarked | Self::FirstGroup { after_loss: false, .. } => true,
            Self::FirstGroup { after_loss: true, .. } => !has_witness,
            Self::AtKeyFrame | Self::Anywhere => false,
        }
    }

    /// Notes that packets were lost.
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

    /// Feeds packets such as `K3 2 4`, a K marking key frames and `!` a loss; spells the admitted ones.
    fn check(packets: &str, expected: &str) {
        let mut resume = Resume::Unmarked;
        let admitted = packets.split(' ').filter(|word| {
            let mut packet = Packet::empty();
            packet.set_pts(word.trim_matches(['K', '!']).parse().ok());
            if word.starts_with('K') {
                packet.set_flags(Flags::KEY);
            }
            if word.starts_with('!') {
                resume.interrupt();
            }
            resume.admits(&packet)
        });
        assert_eq!(admitted.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn decoding_resumes_at_a_key_frame_without_the_pictures_that_lean_on_lost_ones() {
        check("K0 1 2 K3 4 5", "K0 1 2 K3 4 5");
        check("K0 1 !2 3 K6 4 5 7 K9 8", "K0 1 K6 7 K9 8");
        check("K2 0 1 3", "K2 0 1 3");
        check("0 1 K4 2 3 5 !6 K9 7 8 10 K13 11 12", "0 1 K4 2 3 5 K9 10 K13 11 12");
    }

    #[test]
    fn a_stream_that_marks_no_key_frames_is_decoded_all_the_same() {
        check("0 1 !2 3", "0 1 !2 3");
    }
}

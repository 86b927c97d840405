//! The codec of a file, and which packets it can use.
//!
//! In: an opened [`Source`]. Out: a codec that reports damage instead of hiding it, and a [`Resume`]
//! that knows where it can take up again. Start at [`open_codec`].
//!
//! Damage that happens to decode into something, nobody sees: VP9 can hardly fail at all.

use ffmpeg_next::codec::{self, Id, threading};
use ffmpeg_next::decoder::{self, Check};
use ffmpeg_next::{Error as AvError, Packet};

use super::listen::Ear;
use super::source::{Source, codec_options, is_out_of_memory, out_of_memory};
use super::{Error, FaultClass, Limits};

/// The codecs that may run on several threads: heavy to decode, and orderly when they meet damage.
/// MPEG-4 is not: it aborts the process. Nor is VP8: it notices next to no damage, and fills the
/// damaged pictures with whatever the threads happen to have ready.
const THREADED: [Id; 4] = [Id::H264, Id::HEVC, Id::VP9, Id::AV1];

/// Opens the codec of the video stream, and listens to it.
pub(super) fn open_codec(source: &Source, limits: &Limits, threads: usize) -> Result<(decoder::Video, Ear), Error> {
    let stream = source.stream();
    let unsupported = |error: &AvError| {
        let name = stream.parameters().id().name();
        source.refuse(FaultClass::Unsupported, format!("its codec {name} cannot be decoded here: {error}"))
    };
    let found = decoder::find(stream.parameters().id()).ok_or_else(|| unsupported(&AvError::DecoderNotFound))?;
    let mut context = codec::Context::from_parameters(stream.parameters()).map_err(|error| unsupported(&error))?;
    let mut threading = threading::Config::kind(threading::Type::Frame);
    threading.count = if THREADED.contains(&stream.parameters().id()) { threads } else { 1 };
    context.set_threading(threading);
    let ear = Ear::on(&mut context);
    let mut codec = context.decoder();
    codec.set_packet_time_base(stream.time_base());
    codec.check(Check::EXPLODE | Check::CRC);
    let opened = codec.open_as_with(found, codec_options(limits)).and_then(|opened| opened.video());
    opened.map(|codec| (codec, ear)).map_err(|error| match is_out_of_memory(error) {
        true => out_of_memory(&source.path),
        false => unsupported(&error),
    })
}

/// Which packets can be decoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Resume {
    /// All, while no packet was a key frame: not every container marks them.
    Unmarked,
    /// None before the next key frame.
    AtKeyFrame,
    /// After the first key frame, those shown after it: the ones before lean on pictures not there.
    After(Option<i64>),
    /// All, from the second key frame on.
    Anywhere,
}

impl Resume {
    /// Whether a packet can be decoded, given the ones before it.
    pub(super) fn admits(&mut self, packet: &Packet) -> bool {
        if packet.is_key() {
            *self = match *self {
                Self::Unmarked | Self::AtKeyFrame => Self::After(packet.pts()),
                Self::After(_) | Self::Anywhere => Self::Anywhere,
            };
        }
        match *self {
            Self::Unmarked | Self::Anywhere | Self::After(None) => true,
            Self::After(Some(key)) => packet.pts().is_none_or(|pts| pts >= key),
            Self::AtKeyFrame => false,
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
        check("K2 0 1 3", "K2 3");
    }

    #[test]
    fn a_stream_that_marks_no_key_frames_is_decoded_all_the_same() {
        check("0 1 !2 3", "0 1 !2 3");
    }
}

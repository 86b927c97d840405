//! A second decoder of a damaged file, which measures how far the damage reaches.
//!
//! H.264 conceals the damaged parts of a picture. It marks the picture itself, but not the pictures
//! predicted from it. The second decoder conceals nothing: its pictures start as noise, and damaged
//! parts remain noise. If both decoders give the same pixels, the picture depends on no damaged
//! part. Start at [`SecondDecoder::confirms`].

use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};

use ffmpeg_next::{Error as AvError, Packet, decoder, frame};

use super::codec::open_second;
use super::ffi;
use super::libav_log::CodecLog;
use super::source::Source;
use super::{Error, Limits};

/// Largest number of pictures kept for the first decoder. It is never this far behind, because
/// H.264 reorders at most 16 pictures.
const MAX_AHEAD: usize = 40;

/// A second decoder of the same packets.
pub(super) struct SecondDecoder {
    codec: decoder::Video,
    /// Pictures not yet reached by the first decoder.
    ahead: VecDeque<frame::Video>,
    /// Timestamps of pictures known to be wrong in both decoders.
    rejected: BTreeSet<i64>,
    /// Separates its messages from the first decoder's.
    _codec_log: CodecLog,
}

impl SecondDecoder {
    /// Opens the second decoder of a file.
    pub(super) fn open(source: &Source, limits: &Limits) -> Result<Self, Error> {
        let (codec, codec_log) = open_second(source, limits)?;
        Ok(Self { codec, ahead: VecDeque::new(), rejected: BTreeSet::new(), _codec_log: codec_log })
    }

    /// Decodes a packet of the first decoder, which reports the errors.
    pub(super) fn send(&mut self, packet: &Packet) -> Result<(), AvError> {
        let _ = self.codec.send_packet(packet);
        self.take_all()
    }

    /// Follows the first decoder in ending its input.
    pub(super) fn end_input(&mut self) {
        let _ = self.codec.send_eof();
    }

    /// Follows the first decoder in dropping its pictures.
    pub(super) fn flush(&mut self) {
        self.codec.flush();
        self.ahead.clear();
    }

    /// Rejects the picture of a packet, because it is lost or wrong in both decoders.
    ///
    /// All references are dropped, so no picture predicted from earlier ones is confirmed.
    pub(super) fn reject(&mut self, packet: &Packet) -> Result<(), AvError> {
        self.rejected.extend(packet.pts());
        self.end_input();
        let taken = self.take_all();
        self.codec.flush();
        taken
    }

    /// Returns whether this decoder gives the same pixels as the first one's `picture`.
    pub(super) fn confirms(&mut self, picture: &frame::Video) -> Result<bool, AvError> {
        loop {
            let own = match self.ahead.pop_front() {
                Some(own) => own,
                None => match self.receive()? {
                    Some(own) => own,
                    None => return Ok(false),
                },
            };
            match own.pts().cmp(&picture.pts()) {
                Ordering::Equal => {
                    let is_rejected = picture.pts().is_some_and(|pts| self.rejected.remove(&pts));
                    return Ok(!is_rejected && ffi::have_same_pixels(picture, &own));
                }
                // This decoder gave no picture for the packet.
                Ordering::Greater => {
                    self.ahead.push_front(own);
                    return Ok(false);
                }
                Ordering::Less => {}
            }
        }
    }

    /// Takes all pictures out of the codec. It accepts no packets otherwise, because the first
    /// decoder withholds pictures that this one gives.
    fn take_all(&mut self) -> Result<(), AvError> {
        while let Some(own) = self.receive()? {
            self.ahead.push_back(own);
            if self.ahead.len() > MAX_AHEAD {
                self.ahead.pop_front();
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Option<frame::Video>, AvError> {
        let mut own = frame::Video::empty();
        match self.codec.receive_frame(&mut own) {
            Ok(()) => Ok(Some(own)),
            Err(AvError::Other { errno: ffmpeg_next::error::EAGAIN } | AvError::Eof) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

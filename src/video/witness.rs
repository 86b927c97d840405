//! A second decoder of a damaged file, which shows how far the damage reaches.
//!
//! In: the packets that the first decoder gets. Out: whether a picture depends on anything that was
//! damaged. Start at [`Witness::confirms`].
//!
//! H.264 conceals the damaged parts of a picture, and marks that picture but none of those predicted
//! from it. The second decoder conceals nothing: its pictures start as noise, and damaged parts
//! remain noise. Where both decoders give the same pixels, the picture depends on no damaged part.

use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};

use ffmpeg_next::{Error as AvError, Packet, decoder, frame};

use super::codec::open_second;
use super::ffi;
use super::listen::Ear;
use super::source::Source;
use super::{Error, Limits};

/// The first decoder is never so many pictures behind: H.264 reorders at most 16.
const MOST_AHEAD: usize = 40;

/// The second decoder.
pub(super) struct Witness {
    codec: decoder::Video,
    /// Pictures that the first decoder has not come to.
    ahead: VecDeque<frame::Video>,
    /// Timestamps of pictures that are not to be confirmed.
    denied: BTreeSet<i64>,
    /// Keeps its messages apart from those of the first decoder.
    _ear: Ear,
}

impl Witness {
    /// Opens the second decoder of a file.
    pub(super) fn open(source: &Source, limits: &Limits) -> Result<Self, Error> {
        let (codec, ear) = open_second(source, limits)?;
        Ok(Self { codec, ahead: VecDeque::new(), denied: BTreeSet::new(), _ear: ear })
    }

    /// Decodes a packet that the first decoder got, too. What is wrong with it, that one says.
    pub(super) fn send(&mut self, packet: &Packet) -> Result<(), AvError> {
        let _ = self.codec.send_packet(packet);
        self.take_all()
    }

    /// Notes that the first decoder was told to give what it holds.
    pub(super) fn end_input(&mut self) {
        let _ = self.codec.send_eof();
    }

    /// Notes that the first decoder was told to forget what it holds.
    pub(super) fn flush(&mut self) {
        self.codec.flush();
        self.ahead.clear();
    }

    /// Notes that the picture of this packet is lost or wrong in both decoders. The second one forgets
    /// all references, so that nothing predicted from before is confirmed.
    pub(super) fn deny(&mut self, packet: &Packet) -> Result<(), AvError> {
        self.denied.extend(packet.pts());
        self.end_input();
        let taken = self.take_all();
        self.codec.flush();
        taken
    }

    /// Returns whether this picture of the first decoder is the second one's, too, pixel by pixel.
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
                    let is_denied = picture.pts().is_some_and(|pts| self.denied.remove(&pts));
                    return Ok(!is_denied && ffi::have_same_pixels(picture, &own));
                }
                // Only one of the two may have given a picture that is damaged as a whole.
                Ordering::Greater => {
                    self.ahead.push_front(own);
                    return Ok(false);
                }
                Ordering::Less => {}
            }
        }
    }

    /// Takes all pictures out of the codec, which takes no packet otherwise: the first decoder withholds
    /// pictures that this one gives.
    fn take_all(&mut self) -> Result<(), AvError> {
        while let Some(own) = self.receive()? {
            self.ahead.push_back(own);
            if self.ahead.len() > MOST_AHEAD {
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

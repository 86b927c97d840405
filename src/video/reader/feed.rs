//! Reads packets and passes them to the codec, skips them, or records them as lost.
//!
//! Start at `Reader::feed`.

use ffmpeg_next::Packet;
use ffmpeg_next::codec::Id;

use super::{Phase, Reader};
use crate::video::codec::{LossDetection, Resume, holds_picture, loss_detection};
use crate::video::libav_log::{self, MISSING_REFERENCE};
use crate::video::position::PacketState;
use crate::video::source::is_out_of_memory;
use crate::video::{Error, ffi};

impl Reader {
    /// Reads one packet and passes it to the codec, if the codec can decode it.
    pub(super) fn feed(&mut self) -> Result<(), Error> {
        if let Some(packet) = self.pending_key_frame.take() {
            return self.send(&packet);
        }
        let Some(packet) = self.read()? else { return Ok(()) };
        if let Some(suspect) = self.suspect_packet.take() {
            // A key frame right after it means that the suspect packet ended a joined file intact.
            let is_restart = packet.is_key();
            self.peeked_packet = Some(packet);
            if is_restart {
                self.positions.check_intervals();
                return self.decode_or_skip(suspect);
            }
            return self.drop_as_lost(&suspect);
        }
        if self.source.is_broadcast() {
            return self.feed_from_broadcast(packet);
        }
        let errors = libav_log::demuxer_errors(&self.source.input).map_or(0, |(count, _)| count);
        let has_new_errors = std::mem::replace(&mut self.demuxer_errors, errors) < errors;
        if has_new_errors || libav_log::take_packet_loss(&self.source.input) {
            self.positions.check_intervals();
        }
        if packet.is_corrupt() {
            self.record(&packet, PacketState::Lost);
            return self.on_loss("the container marked a packet as damaged");
        }
        self.decode_or_skip(packet)
    }

    /// Reads the next packet of the video. Returns `None` at a packet of another stream and at the
    /// end.
    fn read(&mut self) -> Result<Option<Packet>, Error> {
        if let Some(packet) = self.peeked_packet.take() {
            return Ok(Some(packet));
        }
        let mut packet = Packet::empty();
        if let Err(error) = packet.read(&mut self.source.input) {
            match self.suspect_packet.take() {
                Some(last) => self.decode_or_skip(last)?,
                None => self.on_read_error(error)?,
            }
            return Ok(None);
        }
        self.read_failures = 0;
        self.clock.cover(&packet);
        if packet.stream() != self.source.stream_index || packet.size() == 0 {
            return Ok(None);
        }
        self.outcome.packets += 1;
        self.last_packet_is_corrupt = packet.is_corrupt();
        self.last_dts = packet.dts().or(self.last_dts);
        Ok(Some(packet))
    }

    /// Decides about a packet of a broadcast.
    ///
    /// Length fields and counters of transport streams are often wrong. So a mark alone means
    /// nothing if the codec detects losses itself. libav's parsers mark the picture without an end,
    /// or the one before it. At a key frame the state is reset, as in joined files.
    fn feed_from_broadcast(&mut self, packet: Packet) -> Result<(), Error> {
        let detection = loss_detection(&self.source);
        // H.264 does not report missing parts of a field, so the second decoder must check.
        if packet.is_corrupt() && self.needs_second_decoder() {
            return self.reopen(1);
        }
        if std::mem::take(&mut self.loss_suspected) {
            match detection {
                LossDetection::Nothing => return self.drop_as_lost(&packet),
                LossDetection::Parts if !packet.is_key() => {
                    self.suspect_packet = Some(packet);
                    return Ok(());
                }
                // Until the next key frame, the codec reports missing references.
                LossDetection::All => self.loss_suspected = !packet.is_key(),
                LossDetection::Parts => {}
            }
            self.positions.check_intervals();
        }
        if packet.is_corrupt() && libav_log::take_packet_loss(&self.source.input) {
            self.loss_suspected = true;
            if detection == LossDetection::Nothing {
                return self.drop_as_lost(&packet);
            }
        }
        self.decode_or_skip(packet)
    }

    /// Drops a packet next to a loss in transmission.
    fn drop_as_lost(&mut self, packet: &Packet) -> Result<(), Error> {
        self.positions.add_uncounted_loss();
        self.record(packet, PacketState::Lost);
        self.on_loss("packets were lost in transmission")
    }

    /// Passes a packet to the codec, or skips it if earlier losses make it undecodable.
    fn decode_or_skip(&mut self, packet: Packet) -> Result<(), Error> {
        let was_interrupted = self.resume == Resume::AtKeyFrame;
        let accepted = self.resume.accepts(&packet);
        self.record(&packet, if accepted { PacketState::Decoding } else { PacketState::Lost });
        if !accepted {
            self.outcome.skipped_packets += 1;
            return Ok(());
        }
        if was_interrupted {
            self.positions.restart();
            // The codec first returns the intact pictures from before the loss.
            if std::mem::take(&mut self.holds_intact) {
                self.pending_key_frame = Some(packet);
                return self.end_input(Phase::Draining);
            }
        }
        self.send(&packet)
    }

    /// Records a packet for the positions, unless it holds no visible picture.
    fn record(&mut self, packet: &Packet, state: PacketState) {
        let id: Id = self.source.stream().parameters().id();
        if holds_picture(id, packet) && !ffi::is_discarded(packet) {
            self.positions.add_packet(packet.pts(), packet.is_key(), state);
        }
    }

    /// Rejects the picture of a packet that is lost or wrong as a whole. The second decoder shows
    /// which other pictures depend on it.
    fn reject_picture(&mut self, packet: &Packet, reason: &str) -> Result<(), Error> {
        if !self.count_error(reason)? {
            return Ok(());
        }
        match self.second_decoder.as_mut().map_or(Ok(()), |second| second.reject(packet)) {
            Ok(()) => Ok(()),
            Err(error) => self.on_decode_error(error),
        }
    }

    /// Sends a packet to both decoders and handles the result.
    fn send(&mut self, packet: &Packet) -> Result<(), Error> {
        let sent = self.codec.send_packet(packet);
        if let Some(Err(error)) = self.second_decoder.as_mut().map(|second| second.send(packet))
            && is_out_of_memory(error)
        {
            return self.on_decode_error(error);
        }
        // The second field of a picture has no timestamp of its own.
        self.last_pts = packet.pts().or(self.last_pts);
        let is_leading = self.resume.is_leading(self.last_pts);
        let misses_a_reference =
            self.codec_log.take_missing_frame() && self.loss_suspected && !packet.is_key();
        let has_second = self.second_decoder.is_some();
        match (sent, self.codec_log.take_damage()) {
            (Ok(()), None) if misses_a_reference && !is_leading => {
                self.positions.add_uncounted_loss();
                self.on_damage("packets were lost in transmission")
            }
            (Ok(()), None) => Ok(()),
            // Leading pictures may reference pictures from before the first key frame.
            (Ok(()), Some(_)) if is_leading => Ok(()),
            (Ok(()), Some(message))
                if message == MISSING_REFERENCE && self.resume.may_miss_references(has_second) =>
            {
                Ok(())
            }
            // A part of the picture is damaged. The second decoder shows which others depend on it.
            (Ok(()), Some(message)) if message != MISSING_REFERENCE && has_second => {
                self.count_error(&message).map(drop)
            }
            // After a loss in transmission, two pictures may have merged into one that decodes
            // without an error.
            (Ok(()), Some(message)) if has_second && !self.loss_suspected => {
                self.reject_picture(packet, &message)
            }
            (Ok(()), Some(message)) => self.on_damage(&message),
            (Err(error), _) if is_leading && !is_out_of_memory(error) => {
                self.positions.withhold(packet.pts());
                Ok(())
            }
            (Err(error), message) if has_second && !is_out_of_memory(error) => {
                self.positions.withhold(packet.pts());
                self.reject_picture(packet, &message.unwrap_or_else(|| error.to_string()))
            }
            // The log message is better than the error code, which is often meaningless.
            (Err(error), Some(message)) if !is_out_of_memory(error) => self.on_damage(&message),
            (Err(error), _) => self.on_decode_error(error),
        }
    }
}

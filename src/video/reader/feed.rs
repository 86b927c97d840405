//! Packets on their way to the codec: which are read, which are given, and which are lost. Start at `Reader::feed`.

use ffmpeg_next::Packet;
use ffmpeg_next::codec::Id;

use super::{Reader, Stage};
use crate::video::codec::{Notices, Resume, is_shown, notices};
use crate::video::listen::{self, MISSING_REFERENCE};
use crate::video::position::Fate;
use crate::video::source::is_out_of_memory;
use crate::video::{Error, ffi};

impl Reader {
    /// Reads one packet and gives it to the codec, if the codec can make something of it.
    pub(super) fn feed(&mut self) -> Result<(), Error> {
        if let Some(packet) = self.waiting.take() {
            return self.send(&packet);
        }
        let Some(packet) = self.read()? else { return Ok(()) };
        if let Some(doubtful) = self.doubtful.take() {
            let begins_anew = packet.is_key();
            self.unread = Some(packet);
            if begins_anew {
                self.positions.watch();
                return self.take(doubtful);
            }
            return self.lose_on_the_way(&doubtful);
        }
        if self.source.is_broadcast() {
            return self.take_from_broadcast(packet);
        }
        let complaints = listen::complaints(&self.source.input).map_or(0, |(count, _)| count);
        let complained = std::mem::replace(&mut self.complaints, complaints) < complaints;
        if complained || listen::take_loss(&self.source.input) {
            self.positions.watch();
        }
        if packet.is_corrupt() {
            self.note(&packet, Fate::Lost);
            return self.lost("a packet is marked as damaged");
        }
        self.take(packet)
    }

    /// Reads the next packet of the video; `None` where there was another, or the end.
    fn read(&mut self) -> Result<Option<Packet>, Error> {
        if let Some(packet) = self.unread.take() {
            return Ok(Some(packet));
        }
        let mut packet = Packet::empty();
        if let Err(error) = packet.read(&mut self.source.input) {
            match self.doubtful.take() {
                Some(last) => self.take(last)?,
                None => self.unreadable(error)?,
            }
            return Ok(None);
        }
        self.read_failures = 0;
        self.clock.cover(&packet);
        if packet.stream() != self.source.stream_index || packet.size() == 0 {
            return Ok(None);
        }
        self.outcome.packets += 1;
        self.ends_broken = packet.is_corrupt();
        self.last_dts = packet.dts().or(self.last_dts);
        Ok(Some(packet))
    }

    /// A transport stream's length fields and counters are often off, so a mark alone says nothing, if the
    /// codec notices losses itself. libav's parsers mark the picture that lacks its end, or the one before
    /// it. At a key frame all begins anew, as in joined files.
    fn take_from_broadcast(&mut self, packet: Packet) -> Result<(), Error> {
        let notices = notices(&self.source);
        // H.264 says nothing of what is missing in a field.
        if packet.is_corrupt() && self.lacks_witness() {
            return self.open_again(1);
        }
        if std::mem::take(&mut self.in_doubt) {
            match notices {
                Notices::Nothing => return self.lose_on_the_way(&packet),
                Notices::Parts if !packet.is_key() => {
                    self.doubtful = Some(packet);
                    return Ok(());
                }
                // Until the next key frame, the codec says whether a picture that others lean on is missing.
                Notices::All => self.in_doubt = !packet.is_key(),
                Notices::Parts => {}
            }
            self.positions.watch();
        }
        if packet.is_corrupt() && listen::take_loss(&self.source.input) {
            self.in_doubt = true;
            if notices == Notices::Nothing {
                return self.lose_on_the_way(&packet);
            }
        }
        self.take(packet)
    }

    fn lose_on_the_way(&mut self, packet: &Packet) -> Result<(), Error> {
        self.positions.vanish();
        self.note(packet, Fate::Lost);
        self.lost("packets were lost on the way")
    }

    /// Gives a packet to the codec, if the ones before it allow.
    fn take(&mut self, packet: Packet) -> Result<(), Error> {
        let was_waiting = self.resume == Resume::AtKeyFrame;
        let admitted = self.resume.admits(&packet);
        self.note(&packet, if admitted { Fate::Decoding } else { Fate::Lost });
        if !admitted {
            self.outcome.skipped_packets += 1;
            return Ok(());
        }
        if was_waiting {
            self.positions.restart();
            if std::mem::take(&mut self.holds_intact) {
                self.waiting = Some(packet);
                return self.end_input(Stage::Emptying);
            }
        }
        self.send(&packet)
    }

    /// Takes down a packet, unless no picture is to come of it.
    fn note(&mut self, packet: &Packet, fate: Fate) {
        let id: Id = self.source.stream().parameters().id();
        if is_shown(id, packet) && !ffi::is_left_out(packet) {
            self.positions.read(packet.pts(), packet.is_key(), fate);
        }
    }

    /// The picture of a packet is lost or wrong as a whole; the second decoder shows which others depend on it.
    fn deny(&mut self, packet: &Packet, reason: &str) -> Result<(), Error> {
        if !self.count_error(reason)? {
            return Ok(());
        }
        match self.witness.as_mut().map_or(Ok(()), |witness| witness.deny(packet)) {
            Ok(()) => Ok(()),
            Err(error) => self.undecodable(error),
        }
    }

    fn send(&mut self, packet: &Packet) -> Result<(), Error> {
        let sent = self.codec.send_packet(packet);
        if let Some(Err(error)) = self.witness.as_mut().map(|witness| witness.send(packet))
            && is_out_of_memory(error)
        {
            return self.undecodable(error);
        }
        // The second field of a picture has no timestamp of its own.
        self.last_pts = packet.pts().or(self.last_pts);
        let leads = self.resume.leads(self.last_pts);
        let misses_a_reference = self.ear.take_gap() && self.in_doubt && !packet.is_key();
        match (sent, self.ear.take_damage()) {
            (Ok(()), None) if misses_a_reference && !leads => {
                self.positions.vanish();
                self.damaged("packets were lost on the way")
            }
            (Ok(()), None) => Ok(()),
            // Only what is shown before the first key frame may lean on what was never there.
            (Ok(()), Some(_)) if leads => Ok(()),
            (Ok(()), Some(words))
                if words == MISSING_REFERENCE
                    && self.resume.may_miss_references(self.witness.is_some()) =>
            {
                Ok(())
            }
            // A part of the picture is damaged: the second decoder shows which others depend on it.
            (Ok(()), Some(words)) if words != MISSING_REFERENCE && self.witness.is_some() => {
                self.count_error(&words).map(drop)
            }
            // After a loss on the way, two pictures may have become one that decodes without a word.
            (Ok(()), Some(words)) if self.witness.is_some() && !self.in_doubt => {
                self.deny(packet, &words)
            }
            (Ok(()), Some(words)) => self.damaged(&words),
            (Err(error), _) if leads && !is_out_of_memory(error) => {
                self.positions.withhold(packet.pts());
                Ok(())
            }
            (Err(error), words) if self.witness.is_some() && !is_out_of_memory(error) => {
                self.positions.withhold(packet.pts());
                self.deny(packet, &words.unwrap_or_else(|| error.to_string()))
            }
            // Where its words are known, libav's number is often none of its own.
            (Err(error), Some(words)) if !is_out_of_memory(error) => self.damaged(&words),
            (Err(error), _) => self.undecodable(error),
        }
    }
}

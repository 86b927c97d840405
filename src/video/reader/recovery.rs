//! Recovery from failed reads, lost packets and damage.
//!
//! Two cases differ. Packets lost before the codec leave its pictures intact. Damage inside the
//! codec may affect all of them.

use ffmpeg_next::Error as AvError;
use ffmpeg_next::codec::Id;

use super::{Phase, Reader};
use crate::video::codec::{Resume, conceals};
use crate::video::second_decoder::SecondDecoder;
use crate::video::source::{is_out_of_memory, out_of_memory};
use crate::video::{Error, Fault, FaultClass};

/// Number of consecutive failed reads that count as the end of the file. In a truncated MP4, every
/// packet beyond the end fails, because the index still lists it.
const READ_FAILURES_AT_THE_END: u32 = 16;

impl Reader {
    /// Handles a failed read: the end of the file, a disk error, or damage.
    pub(super) fn on_read_error(&mut self, error: AvError) -> Result<(), Error> {
        if let Some(error) = self.source.guard.disk_error(&self.source.path) {
            return Err(error);
        }
        self.read_failures += 1;
        if error == AvError::Eof || self.read_failures > READ_FAILURES_AT_THE_END {
            if self.is_cut() || self.source.is_broadcast() {
                self.positions.end(self.last_dts, self.is_cut());
            }
            return self.end_input(Phase::Ending);
        }
        self.positions.add_uncounted_loss();
        self.on_loss(&error.to_string())
    }

    /// Handles an error of the codec: a shortage of memory, or damage.
    pub(super) fn on_decode_error(&mut self, error: AvError) -> Result<(), Error> {
        if is_out_of_memory(error) || self.codec_log.ran_out_of_memory() {
            // Fewer threads need less memory.
            return match self.threads {
                1 => Err(out_of_memory(&self.source.path)),
                threads => self.reopen(threads / 2),
            };
        }
        self.on_damage(&error.to_string())
    }

    /// Handles a loss of packets before they reached the codec.
    ///
    /// The pictures held by the codec are intact. They are returned after all packets up to the
    /// next key frame were read, because these determine their positions.
    pub(super) fn on_loss(&mut self, reason: &str) -> Result<(), Error> {
        if !self.count_error(reason)? {
            return Ok(());
        }
        if self.resume == Resume::Unmarked {
            return self.end_input(Phase::Draining);
        }
        if !self.positions.has_timestamps() {
            self.drop_held();
            return Ok(());
        }
        self.holds_intact = self.holds_intact || self.resume != Resume::AtKeyFrame;
        self.resume.interrupt();
        Ok(())
    }

    /// Handles damage reported by the codec. The pictures it holds may depend on it.
    pub(super) fn on_damage(&mut self, reason: &str) -> Result<(), Error> {
        if !self.count_error(reason)? {
            return Ok(());
        }
        // Before its first key frame, H.264 itself withholds the pictures that it cannot decode.
        let id: Id = self.source.stream().parameters().id();
        if self.resume == Resume::Unmarked && id == Id::H264 {
            self.gap = true;
            return Ok(());
        }
        self.drop_held();
        Ok(())
    }

    /// Drops the pictures held by the codec.
    fn drop_held(&mut self) {
        self.positions.drop_held();
        self.holds_intact = false;
        self.on_drained();
    }

    /// Counts an error. Returns false if the file was reopened or decoding stopped instead.
    pub(super) fn count_error(&mut self, reason: &str) -> Result<bool, Error> {
        if self.threads > 1 || self.needs_second_decoder() {
            self.reopen(1)?;
            return Ok(false);
        }
        self.outcome.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(reason.to_owned());
            self.packets_before_error = self.outcome.packets.saturating_sub(1);
        }
        if self.outcome.errors <= self.limits.max_errors {
            return Ok(true);
        }
        let reason = format!(
            "decoding stopped after {} errors, expected at most {} (`max_errors`); the last: \
             {reason}",
            self.outcome.errors, self.limits.max_errors
        );
        self.give_up(Fault::new(FaultClass::CorruptPackets, reason));
        Ok(false)
    }

    /// Returns whether to open a second decoder, to find out how far damage reaches.
    ///
    /// Without timestamps it would not help: every dropped picture would shift all later ones.
    pub(super) fn needs_second_decoder(&self) -> bool {
        self.second_decoder.is_none()
            && conceals(&self.source)
            && (self.positions.has_timestamps() || self.source.is_broadcast())
    }

    /// Reopens the file with another number of threads and skips the pictures already returned.
    ///
    /// With one thread, a second decoder is opened as well, if the codec conceals damage.
    pub(super) fn reopen(&mut self, threads: usize) -> Result<(), Error> {
        let given_before = self.outcome.decoded.max(self.given_before);
        let source = self.source.reopen(&self.limits)?;
        let second_decoder = if threads == 1 && self.needs_second_decoder() {
            Some(SecondDecoder::open(&source, &self.limits)?)
        } else {
            None
        };
        *self = Self::open_with(source, &self.limits, threads, second_decoder)?;
        self.given_before = given_before;
        Ok(())
    }
}

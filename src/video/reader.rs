//! Decodes a container into intact pictures.
//!
//! [`Reader::next`] returns the pictures in display order, each with its [`PictureTime`], until the
//! file ends or decoding stops.
//!
//! **Damage.** A codec guesses the missing parts of a picture, and continues to guess in every
//! picture predicted from it. A policy would learn the smear as motion. So all signs of damage from
//! libav count: errors, flags and log messages. Everything up to the next key frame is skipped, and
//! the picture after it is marked with a gap. A few lost seconds cost less than wrong pictures.
//!
//! **Not damage.**
//!
//! - The end of a file: the codec returns the pictures it held back.
//! - The start of a file: pictures may reference others from before the file.
//! - A header whose count or duration does not match the pictures.
//! - A packet marked as damaged, if the codec reports no error.
//!
//! **Threads.** The pictures do not depend on the number of threads. In intact files they never do.
//! But threads meet damage at other moments, so at the first sign of damage the file is reopened
//! with one thread, and the pictures already returned are skipped. If memory is short, the file is
//! reopened in the same way with half as many threads.

mod feed;
mod recovery;
mod verdict;

use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::{Error as AvError, Packet, decoder, frame};

use super::clock::Clock;
use super::codec::{Opened, Resume, one_picture_per_packet, open_codec};
use super::libav_log::CodecLog;
use super::outcome::UNPLACED;
use super::position::Positions;
use super::resample::PictureTime;
use super::second_decoder::SecondDecoder;
use super::source::{Source, is_out_of_memory, out_of_memory};
use super::{Error, Fault, Limits, Outcome, ffi, probe};

/// Reader of one file.
pub(super) struct Reader {
    source: Source,
    codec: decoder::Video,
    codec_log: CodecLog,
    clock: Clock,
    positions: Positions,
    limits: Limits,
    threads: usize,
    phase: Phase,
    resume: Resume,
    /// Whether the next picture follows a gap.
    gap: bool,
    /// Whether the codec still holds intact pictures from before a loss.
    holds_intact: bool,
    /// Key frame to send after the codec has returned these pictures.
    pending_key_frame: Option<Packet>,
    /// The second decoder, in use after the codec has concealed damage.
    second_decoder: Option<SecondDecoder>,
    /// Number of pictures returned by an earlier pass with more threads.
    given_before: u64,
    /// Number of consecutive failed reads.
    read_failures: u32,
    /// Whether packets may have been lost in transmission since the last key frame.
    loss_suspected: bool,
    /// First packet after a suspected loss. The packet after it decides whether it can be decoded.
    suspect_packet: Option<Packet>,
    /// Packet read ahead.
    peeked_packet: Option<Packet>,
    /// Number of errors logged by the demuxer.
    demuxer_errors: u64,
    /// Whether the last packet read is incomplete.
    last_packet_is_corrupt: bool,
    last_dts: Option<i64>,
    last_pts: Option<i64>,
    /// Number of packets read before the first error.
    packets_before_error: u64,
    first_error: Option<String>,
    /// Summary so far. Its fault is set if decoding stopped early.
    pub(super) outcome: Outcome,
}

/// Phase of decoding.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// The codec takes packets.
    Reading,
    /// The codec returns its last pictures before a loss.
    Draining,
    /// The codec returns its last pictures before the end of the file.
    Ending,
    /// Decoding has ended.
    Ended,
}

impl Reader {
    /// Opens the codec of a file.
    pub(super) fn open(source: Source, limits: &Limits, threads: usize) -> Result<Self, Error> {
        Self::open_with(source, limits, threads, None)
    }

    fn open_with(
        mut source: Source,
        limits: &Limits,
        threads: usize,
        second_decoder: Option<SecondDecoder>,
    ) -> Result<Self, Error> {
        let Opened { codec, codec_log, threads } = open_codec(&source, limits, threads)?;
        let clock = Clock::new(&source);
        if !clock.needs_every_stream() {
            ffi::read_only(&mut source.input, source.stream_index);
        }
        let expected_frames = probe::describe(&source).expected_frames;
        let positions = Positions::new(one_picture_per_packet(&source));
        Ok(Self {
            source,
            codec,
            codec_log,
            clock,
            positions,
            limits: *limits,
            threads,
            phase: Phase::Reading,
            resume: Resume::Unmarked,
            gap: false,
            holds_intact: false,
            pending_key_frame: None,
            second_decoder,
            given_before: 0,
            read_failures: 0,
            loss_suspected: false,
            suspect_packet: None,
            peeked_packet: None,
            demuxer_errors: 0,
            last_packet_is_corrupt: false,
            last_dts: None,
            last_pts: None,
            packets_before_error: 0,
            first_error: None,
            outcome: Outcome { expected_frames, ..Outcome::default() },
        })
    }

    /// Returns the opened file.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// Returns the next intact picture, `None` at the end. An error is never the file's fault.
    pub(super) fn next(&mut self) -> Result<Option<(frame::Video, PictureTime)>, Error> {
        while self.phase != Phase::Ended {
            if self.source.guard.expired() {
                self.give_up(self.source.guard.deadline());
                break;
            }
            let mut picture = frame::Video::empty();
            match self.codec.receive_frame(&mut picture) {
                Ok(()) => {
                    if self.is_intact(&picture)? {
                        let time = self.place(&picture);
                        // An earlier pass with more threads has returned the first pictures.
                        if self.outcome.decoded > self.given_before {
                            return Ok(Some((picture, time)));
                        }
                    }
                }
                // The codec needs another packet.
                Err(AvError::Other { errno: EAGAIN }) => self.feed()?,
                Err(AvError::Eof) => self.on_drained(),
                Err(error) => self.on_decode_error(error)?,
            }
        }
        Ok(None)
    }

    /// Returns whether a picture is intact.
    ///
    /// A damaged picture is dropped. The pictures held by the codec are dropped too, if they may
    /// depend on it.
    fn is_intact(&mut self, picture: &frame::Video) -> Result<bool, Error> {
        if self.second_decoder.is_some() {
            return self.is_confirmed(picture);
        }
        if let Some(message) = self.reported_damage() {
            self.on_damage(&message)?;
            return Ok(false);
        }
        if !picture.is_corrupt() && !picture.has_decode_errors() {
            return Ok(true);
        }
        if self.resume.is_leading(picture.pts()) {
            self.positions.withhold(picture.pts());
        } else {
            self.on_damage("the codec marked a picture as damaged")?;
        }
        Ok(false)
    }

    /// Returns whether the second decoder gives the same picture.
    ///
    /// If not, only this picture is dropped, because every later one is compared as well.
    fn is_confirmed(&mut self, picture: &frame::Video) -> Result<bool, Error> {
        let Some(second) = &mut self.second_decoder else { return Ok(true) };
        let is_same = match second.confirms(picture) {
            Err(error) if is_out_of_memory(error) => return Err(out_of_memory(&self.source.path)),
            confirmed => confirmed.unwrap_or(false),
        };
        if let Some(message) = self.reported_damage() {
            self.count_error(&message)?;
        }
        let is_marked = picture.is_corrupt() || picture.has_decode_errors();
        // An earlier pass returned this picture before it met the damage.
        let is_before_damage = self.outcome.decoded < self.given_before;
        if !is_marked && (is_same || is_before_damage) {
            return Ok(true);
        }
        if !self.resume.is_leading(picture.pts()) && self.outcome.errors == 0 {
            self.count_error("the codec marked a picture as damaged")?;
        }
        self.positions.withhold(picture.pts());
        self.gap |= picture.pts().is_none();
        Ok(false)
    }

    /// Takes the damage logged by the codec. Damage in leading pictures is expected and ignored.
    fn reported_damage(&self) -> Option<String> {
        self.codec_log.take_damage().filter(|_| !self.resume.is_leading(self.last_pts))
    }

    /// Determines the time and the position of a picture.
    fn place(&mut self, picture: &frame::Video) -> PictureTime {
        if picture.is_interlaced() {
            self.positions.allow_field_pairs();
        }
        let restarted = std::mem::take(&mut self.gap);
        let position = self.positions.place(picture.pts(), picture.timestamp(), restarted);
        let time = self.clock.picture_time(picture, position);
        self.outcome.decoded += 1;
        // A broadcast can stop anywhere. Its last pictures may then follow some that were not sent,
        // which is not a fault.
        let is_end_of_broadcast =
            self.phase == Phase::Ending && self.source.is_broadcast() && !self.is_cut();
        self.outcome.holes += u64::from(position.lost_before && !is_end_of_broadcast);
        if position.index >= UNPLACED {
            self.outcome.unplaced_secs.get_or_insert(time.time_secs);
        }
        time
    }

    /// Stops decoding because of a fault.
    pub(super) fn give_up(&mut self, fault: Fault) {
        self.phase = Phase::Ended;
        self.outcome.fault.get_or_insert(fault);
    }

    /// Makes the codec return the pictures it holds.
    fn end_input(&mut self, phase: Phase) -> Result<(), Error> {
        self.phase = phase;
        if let Some(second) = &mut self.second_decoder {
            second.end_input();
        }
        match self.codec.send_eof() {
            Ok(()) | Err(AvError::Eof) => Ok(()),
            Err(error) => self.on_decode_error(error),
        }
    }

    /// Continues with the next packets, or ends, after the codec has returned all usable pictures.
    fn on_drained(&mut self) {
        if self.phase == Phase::Ending {
            self.phase = Phase::Ended;
            return;
        }
        self.phase = Phase::Reading;
        self.codec.flush();
        if let Some(second) = &mut self.second_decoder {
            second.flush();
        }
        self.gap = true;
        if self.pending_key_frame.is_none() {
            self.resume.interrupt();
        }
    }
}

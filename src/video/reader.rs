//! A container becomes intact pictures.
//!
//! In: a [`Source`]. Out: pictures in the order they are shown, each with its [`Moment`], until the
//! file ends or is given up. Start at [`Reader::next`].
//!
//! **What happens at damage.** A codec guesses the missing parts and goes on guessing in every
//! picture built on them, and a policy would learn the smear as motion. So all that libav tells of
//! damage is heeded, whether in errors, flags or words; everything up to the next key frame is
//! skipped, and the picture after it is marked: a few seconds of video are worth less than wrong ones.
//!
//! **What is no damage.** The end of a file, where the codec gives what it held back; the start, where
//! pictures may lean on others of before the file; a header whose count or duration no picture stands
//! for; a packet that is marked as damaged in a stream whose codec finds nothing wrong with it.
//!
//! **Why the pictures do not depend on the thread count.** On an intact file they never do. Threads
//! meet damage at other moments, so at the first sign of it the file is opened again with one
//! thread, and the pictures already given are skipped. The same is done, with half as many threads,
//! where there is no memory for so many.

mod feed;
mod verdict;

use ffmpeg_next::codec::Id;
use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::{Error as AvError, Packet, decoder, frame};

use super::clock::Clock;
use super::codec::{Opened, Resume, conceals, open_codec, swallows_none};
use super::listen::Ear;
use super::outcome::UNPLACED;
use super::position::Positions;
use super::resample::Moment;
use super::source::{Source, is_out_of_memory, out_of_memory};
use super::witness::Witness;
use super::{Error, Fault, FaultClass, Limits, Outcome, ffi, probe};

/// This many failed reads on end are the end of the file: an MP4 cut short fails at every packet
/// its index still names.
const READ_FAILURES_AT_THE_END: u32 = 16;

/// Reads one file.
pub(super) struct Reader {
    source: Source,
    codec: decoder::Video,
    ear: Ear,
    clock: Clock,
    positions: Positions,
    limits: Limits,
    threads: usize,
    stage: Stage,
    resume: Resume,
    gap: bool,
    /// Whether the codec still holds intact pictures from before a loss.
    holds_intact: bool,
    /// The key frame that waits until these are out.
    waiting: Option<Packet>,
    /// The second decoder, once damage was met that the codec conceals.
    witness: Option<Witness>,
    /// Pictures that an earlier pass with more threads has given already.
    given_before: u64,
    read_failures: u32,
    /// Whether packets may have been lost on the way since the last key frame.
    in_doubt: bool,
    /// The packet after such a mark: what follows tells whether it can be decoded.
    doubtful: Option<Packet>,
    /// A packet that was read already.
    unread: Option<Packet>,
    /// How often the demuxer has complained.
    complaints: u64,
    /// Whether the last packet read is not whole.
    ends_broken: bool,
    last_dts: Option<i64>,
    last_pts: Option<i64>,
    /// Packets read before the first error.
    sound_packets: u64,
    first_error: Option<String>,
    /// The account so far; its fault is set where the file was given up.
    pub(super) outcome: Outcome,
}

/// What the codec is doing.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// Taking packets.
    Reading,
    /// Giving its last pictures before the place where packets were lost.
    Emptying,
    /// Giving its last pictures.
    Ending,
    /// Done.
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
        witness: Option<Witness>,
    ) -> Result<Self, Error> {
        let Opened { codec, ear, threads } = open_codec(&source, limits, threads)?;
        let clock = Clock::new(&source);
        if !clock.needs_every_stream() {
            ffi::read_only(&mut source.input, source.stream_index);
        }
        let expected_frames = probe::describe(&source).expected_frames;
        let positions = Positions::new(swallows_none(&source));
        Ok(Self {
            source,
            codec,
            ear,
            clock,
            positions,
            limits: *limits,
            threads,
            stage: Stage::Reading,
            resume: Resume::Unmarked,
            gap: false,
            holds_intact: false,
            waiting: None,
            witness,
            given_before: 0,
            read_failures: 0,
            in_doubt: false,
            doubtful: None,
            unread: None,
            complaints: 0,
            ends_broken: false,
            last_dts: None,
            last_pts: None,
            sound_packets: 0,
            first_error: None,
            outcome: Outcome { expected_frames, ..Outcome::default() },
        })
    }

    /// The opened file.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// The next intact picture, `None` at the end. An error is never the file's fault.
    pub(super) fn next(&mut self) -> Result<Option<(frame::Video, Moment)>, Error> {
        while self.stage != Stage::Ended {
            if self.source.guard.expired() {
                self.give_up(self.source.guard.deadline());
                break;
            }
            let mut picture = frame::Video::empty();
            match self.codec.receive_frame(&mut picture) {
                Ok(()) => {
                    if self.is_intact(&picture)? {
                        let moment = self.place(&picture);
                        if self.outcome.decoded > self.given_before {
                            return Ok(Some((picture, moment)));
                        }
                    }
                }
                Err(AvError::Other { errno: EAGAIN }) => self.feed()?,
                Err(AvError::Eof) => self.emptied(),
                Err(error) => self.undecodable(error)?,
            }
        }
        Ok(None)
    }

    /// Whether a picture can be believed. If not, it is dropped, with what the codec holds besides where that may depend on it.
    fn is_intact(&mut self, picture: &frame::Video) -> Result<bool, Error> {
        if self.witness.is_some() {
            return self.is_confirmed(picture);
        }
        let damage = self.ear.take_damage().filter(|_| !self.resume.leads(self.last_pts));
        if let Some(words) = damage {
            self.damaged(&words)?;
            return Ok(false);
        }
        if !picture.is_corrupt() && !picture.has_decode_errors() {
            return Ok(true);
        }
        if self.resume.leads(picture.pts()) {
            self.positions.withhold(picture.pts());
        } else {
            self.damaged("a picture is marked as damaged")?;
        }
        Ok(false)
    }

    /// Whether the second decoder gives the same picture. If not, only this one is dropped: the same is asked of each that follows.
    fn is_confirmed(&mut self, picture: &frame::Video) -> Result<bool, Error> {
        let Some(witness) = &mut self.witness else { return Ok(true) };
        let is_same = match witness.confirms(picture) {
            Err(error) if is_out_of_memory(error) => return Err(out_of_memory(&self.source.path)),
            confirmed => confirmed.unwrap_or(false),
        };
        let damage = self.ear.take_damage().filter(|_| !self.resume.leads(self.last_pts));
        if let Some(words) = &damage {
            self.count_error(words)?;
        }
        let is_marked = picture.is_corrupt() || picture.has_decode_errors();
        // What an earlier pass has given, it gave before the damage.
        let is_before = self.outcome.decoded < self.given_before;
        if !is_marked && (is_same || is_before) {
            return Ok(true);
        }
        if !self.resume.leads(picture.pts()) && self.outcome.errors == 0 {
            self.count_error("a picture is marked as damaged")?;
        }
        self.positions.withhold(picture.pts());
        self.gap |= picture.pts().is_none();
        Ok(false)
    }

    /// Whether a second decoder would show how far damage reaches. Without timestamps, a picture that is left out would move all that follow.
    fn lacks_witness(&self) -> bool {
        self.witness.is_none()
            && conceals(&self.source)
            && (self.positions.are_timed() || self.source.is_broadcast())
    }

    /// Says when the picture is shown, and which one of the source it is.
    fn place(&mut self, picture: &frame::Video) -> Moment {
        if picture.is_interlaced() {
            self.positions.pair();
        }
        let position =
            self.positions.place(picture.pts(), picture.timestamp(), std::mem::take(&mut self.gap));
        let moment = self.clock.moment(picture, position);
        self.outcome.decoded += 1;
        // A broadcast may stop anywhere, and what it ends with follow pictures that were not sent yet.
        let is_end_of_broadcast =
            self.stage == Stage::Ending && self.source.is_broadcast() && !self.is_cut();
        self.outcome.holes += u64::from(position.lost_before && !is_end_of_broadcast);
        if position.index >= UNPLACED {
            self.outcome.unplaced_secs.get_or_insert(moment.time_secs);
        }
        moment
    }

    /// Stops reading, with the reason.
    pub(super) fn give_up(&mut self, fault: Fault) {
        self.stage = Stage::Ended;
        self.outcome.fault.get_or_insert(fault);
    }

    /// A read failed: the end, the time limit, the disk, or damage.
    fn unreadable(&mut self, error: AvError) -> Result<(), Error> {
        if let Some(error) = self.source.guard.disk_error(&self.source.path) {
            return Err(error);
        }
        self.read_failures += 1;
        if error == AvError::Eof || self.read_failures > READ_FAILURES_AT_THE_END {
            if self.is_cut() || self.source.is_broadcast() {
                self.positions.end(self.last_dts, self.is_cut());
            }
            return self.end_input(Stage::Ending);
        }
        self.positions.vanish();
        self.lost(&error.to_string())
    }

    fn undecodable(&mut self, error: AvError) -> Result<(), Error> {
        if is_out_of_memory(error) || self.ear.heard_of_no_memory() {
            return match self.threads {
                1 => Err(out_of_memory(&self.source.path)),
                threads => self.open_again(threads / 2),
            };
        }
        self.damaged(&error.to_string())
    }

    /// Packets were lost before they reached the codec: what it holds is intact, and comes out once all
    /// packets up to the next key frame were seen, which tells where it belongs.
    fn lost(&mut self, reason: &str) -> Result<(), Error> {
        if !self.count_error(reason)? {
            return Ok(());
        }
        if self.resume == Resume::Unmarked {
            return self.end_input(Stage::Emptying);
        }
        if !self.positions.are_timed() {
            self.forget_held();
            return Ok(());
        }
        self.holds_intact = self.holds_intact || self.resume != Resume::AtKeyFrame;
        self.resume.interrupt();
        Ok(())
    }

    /// The codec met damage: what it holds may lean on it.
    fn damaged(&mut self, reason: &str) -> Result<(), Error> {
        if !self.count_error(reason)? {
            return Ok(());
        }
        // Before its first key frame, H.264 itself withholds what it cannot know.
        let id: Id = self.source.stream().parameters().id();
        if self.resume == Resume::Unmarked && id == Id::H264 {
            self.gap = true;
            return Ok(());
        }
        self.forget_held();
        Ok(())
    }

    /// Drops what the codec holds.
    fn forget_held(&mut self) {
        self.positions.drop_held();
        self.holds_intact = false;
        self.emptied();
    }

    /// Counts an error; false where the file was opened again or given up instead.
    fn count_error(&mut self, reason: &str) -> Result<bool, Error> {
        if self.threads > 1 || self.lacks_witness() {
            self.open_again(1)?;
            return Ok(false);
        }
        self.outcome.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(reason.to_owned());
            self.sound_packets = self.outcome.packets.saturating_sub(1);
        }
        if self.outcome.errors <= self.limits.max_errors {
            return Ok(true);
        }
        let reason = format!(
            "given up after {} broken places, expected at most {}: {reason}",
            self.outcome.errors, self.limits.max_errors
        );
        self.give_up(Fault::new(FaultClass::CorruptPackets, reason));
        Ok(false)
    }

    /// Begins again with so many threads; the pictures that were given are not given again. On one thread, a second decoder
    /// shows how far damage reaches.
    fn open_again(&mut self, threads: usize) -> Result<(), Error> {
        let given_before = self.outcome.decoded.max(self.given_before);
        let source = self.source.again(&self.limits)?;
        let witness = if threads == 1 && self.lacks_witness() {
            Some(Witness::open(&source, &self.limits)?)
        } else {
            None
        };
        *self = Self::open_with(source, &self.limits, threads, witness)?;
        self.given_before = given_before;
        Ok(())
    }

    /// Tells the codec to give what it holds.
    fn end_input(&mut self, stage: Stage) -> Result<(), Error> {
        self.stage = stage;
        if let Some(witness) = &mut self.witness {
            witness.end_input();
        }
        match self.codec.send_eof() {
            Ok(()) | Err(AvError::Eof) => Ok(()),
            Err(error) => self.undecodable(error),
        }
    }

    /// The codec holds nothing more, or nothing trustworthy: on to the next key frame.
    fn emptied(&mut self) {
        if self.stage == Stage::Ending {
            self.stage = Stage::Ended;
            return;
        }
        self.stage = Stage::Reading;
        self.codec.flush();
        if let Some(witness) = &mut self.witness {
            witness.flush();
        }
        self.gap = true;
        if self.waiting.is_none() {
            self.resume.interrupt();
        }
    }
}

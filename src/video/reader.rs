//! A container becomes intact pictures.
//!
//! In: a [`Source`]. Out: pictures in the order they are shown, each with its [`Moment`], until the
//! file ends or is given up. Start at [`Reader::next`].
//!
//! **What happens at damage.** A codec would guess the missing parts and go on guessing in every
//! picture built on them, and a policy would learn the smear as motion. So the codec is told to
//! report damage instead of hiding it, everything up to the next key frame is skipped, and the
//! picture after it is marked: a few seconds of video are worth less than wrong ones.
//!
//! **Why the pictures do not depend on the thread count.** On an intact file they never do. Threads
//! meet damage at other moments, so at the first sign of it the file is opened again with one
//! thread, and the pictures already given are skipped. (The flags libav puts on damaged pictures
//! are no such sign: which pictures have them depends on the threads.)

use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::{Error as AvError, Packet, decoder, frame};

use super::clock::Clock;
use super::codec::{Resume, open_codec};
use super::listen::Ear;
use super::resample::Moment;
use super::source::{Source, is_out_of_memory, out_of_memory};
use super::{Error, Fault, FaultClass, Limits, Outcome, ffi, listen, probe};

/// This many failed reads on end are the end of the file: an MP4 cut short fails at every packet
/// its index still names.
const READ_FAILURES_AT_THE_END: u32 = 16;

/// Reads one file.
pub(super) struct Reader {
    source: Source,
    codec: decoder::Video,
    ear: Ear,
    clock: Clock,
    limits: Limits,
    threads: usize,
    stage: Stage,
    resume: Resume,
    gap: bool,
    /// Pictures that an earlier pass with more threads has given already.
    given_before: u64,
    /// How many packets the header counts, where that can be relied on.
    counted: Option<u64>,
    read_failures: u32,
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
    pub(super) fn open(mut source: Source, limits: &Limits, threads: usize) -> Result<Self, Error> {
        let (codec, ear) = open_codec(&source, limits, threads)?;
        let clock = Clock::new(&source);
        if !clock.needs_every_stream() {
            ffi::read_only(&mut source.input, source.stream_index);
        }
        let expected_frames = probe::describe(&source).expected_frames;
        // An edit list leaves pictures out that the count has; where the two agree there is none.
        let counted = u64::try_from(source.stream().frames()).ok().filter(|counted| Some(*counted) == expected_frames);
        Ok(Self {
            source,
            codec,
            ear,
            clock,
            limits: *limits,
            threads,
            stage: Stage::Reading,
            resume: Resume::Unmarked,
            gap: false,
            given_before: 0,
            counted,
            read_failures: 0,
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
                Ok(()) if picture.is_corrupt() => self.damaged("a picture is marked as damaged")?,
                Ok(()) => {
                    // What the codec gives last may lie behind pictures that it never got.
                    let mut moment = self.clock.moment(&picture, self.stage != Stage::Reading);
                    moment.gap_before |= std::mem::take(&mut self.gap);
                    self.outcome.decoded += 1;
                    if self.outcome.decoded > self.given_before {
                        return Ok(Some((picture, moment)));
                    }
                }
                Err(AvError::Other { errno: EAGAIN }) => self.feed()?,
                Err(AvError::Eof) => self.emptied(),
                Err(error) => self.undecodable(error)?,
            }
        }
        Ok(None)
    }

    /// Stops reading, with the reason.
    pub(super) fn give_up(&mut self, fault: Fault) {
        self.stage = Stage::Ended;
        self.outcome.fault.get_or_insert(fault);
    }

    /// Reads one packet and gives it to the codec, if the codec can make something of it.
    fn feed(&mut self) -> Result<(), Error> {
        let mut packet = Packet::empty();
        if let Err(error) = packet.read(&mut self.source.input) {
            return self.unreadable(error);
        }
        self.read_failures = 0;
        self.clock.cover(&packet);
        if packet.stream() != self.source.stream_index || packet.size() == 0 {
            return Ok(());
        }
        self.outcome.packets += 1;
        if packet.is_corrupt() {
            return self.lost("a packet is marked as damaged");
        }
        if !self.resume.admits(&packet) {
            self.outcome.skipped_packets += 1;
            return Ok(());
        }
        match self.codec.send_packet(&packet) {
            Ok(()) => Ok(()),
            Err(error) => self.undecodable(error),
        }
    }

    /// A read failed: the end, the time limit, the disk, or damage.
    fn unreadable(&mut self, error: AvError) -> Result<(), Error> {
        if let Some(error) = self.source.guard.disk_error(&self.source.path) {
            return Err(error);
        }
        self.read_failures += 1;
        if error == AvError::Eof || self.read_failures > READ_FAILURES_AT_THE_END {
            return self.end_input(Stage::Ending);
        }
        self.lost(&error.to_string())
    }

    fn undecodable(&mut self, error: AvError) -> Result<(), Error> {
        if is_out_of_memory(error) || self.ear.heard_of_no_memory() {
            return Err(out_of_memory(&self.source.path));
        }
        self.damaged(&error.to_string())
    }

    /// Packets were lost before they reached the codec: what it holds is intact, so it may give it.
    fn lost(&mut self, reason: &str) -> Result<(), Error> {
        if self.count_error(reason)? {
            self.end_input(Stage::Emptying)?;
        }
        Ok(())
    }

    /// The codec met damage: what it holds may lean on it.
    fn damaged(&mut self, reason: &str) -> Result<(), Error> {
        if self.count_error(reason)? {
            self.emptied();
        }
        Ok(())
    }

    /// Counts an error; false where the file was opened again or given up instead.
    fn count_error(&mut self, reason: &str) -> Result<bool, Error> {
        if self.threads > 1 {
            let given_before = self.outcome.decoded;
            *self = Self::open(self.source.again(&self.limits)?, &self.limits, 1)?;
            self.given_before = given_before;
            return Ok(false);
        }
        self.outcome.errors += 1;
        self.first_error.get_or_insert_with(|| reason.to_owned());
        if self.outcome.errors <= self.limits.max_errors {
            return Ok(true);
        }
        let reason = format!("given up after {} broken places, expected at most {}: {reason}", self.outcome.errors, self.limits.max_errors);
        self.give_up(Fault::new(FaultClass::CorruptPackets, reason));
        Ok(false)
    }

    /// Tells the codec to give what it holds.
    fn end_input(&mut self, stage: Stage) -> Result<(), Error> {
        self.stage = stage;
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
        self.gap = true;
        self.resume.interrupt();
    }

    /// The account, with what was wrong with the file.
    pub(super) fn finish(self) -> Outcome {
        let fault = self.outcome.fault.clone().or_else(|| self.verdict());
        Outcome { fault, ..self.outcome }
    }

    fn verdict(&self) -> Option<Fault> {
        let Outcome { packets, decoded, errors, skipped_packets, .. } = self.outcome;
        let ended = self.stage == Stage::Ended;
        let first = self.first_error.as_deref().unwrap_or("none");
        if ended && decoded == 0 {
            let reason = format!("no picture came out of its {packets} packets; errors: {errors}, the first: {first}");
            return Some(Fault::new(FaultClass::NoFrames, reason));
        }
        if let Some((covered, promised)) = self.clock.shortfall().filter(|_| ended) {
            let reason = format!("it ends after {covered:.2} s, expected {promised:.2} s");
            return Some(Fault::new(FaultClass::Truncated, reason));
        }
        if ended && self.source.ends_within_a_packet() {
            return Some(Fault::new(FaultClass::Truncated, "its last packet is cut off"));
        }
        let counted = self.counted.filter(|counted| ended && decoded < *counted);
        let reason = match (errors, counted, listen::complaints(&self.source.input)) {
            (0, None, None) => return None,
            (0, Some(counted), _) => format!("{decoded} pictures came out of {packets} packets, its header counts {counted}"),
            (0, None, Some((count, first))) => format!("its container is damaged, {count} times by libav's word; the first: {first}"),
            _ => format!("{errors} of {packets} packets are broken, {skipped_packets} after them were skipped; the first: {first}"),
        };
        Some(Fault::new(FaultClass::CorruptPackets, reason))
    }
}

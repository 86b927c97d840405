//! What was wrong with a file, once it was read. Start at [`Reader::finish`].

use super::{Reader, Stage};
use crate::video::outcome::UNPLACED;
use crate::video::recognise::Known;
use crate::video::{Fault, FaultClass, Outcome, listen};

impl Reader {
    /// The account, with what was wrong with the file.
    pub(in crate::video) fn finish(self) -> Outcome {
        let fault = self.outcome.fault.clone().or_else(|| self.verdict());
        Outcome { fault, ..self.outcome }
    }

    fn verdict(&self) -> Option<Fault> {
        let Outcome { packets, decoded, errors, skipped_packets, .. } = self.outcome;
        if self.stage != Stage::Ended {
            return self.damage();
        }
        if decoded == 0 && self.ear.heard_of_a_size() {
            let reason = format!(
                "its pictures are larger than {} pixels, the most that is allowed",
                self.limits.max_pixels
            );
            return Some(Fault::new(FaultClass::TooLarge, reason));
        }
        let known =
            if decoded == 0 || self.source.is_mp4() { self.source.recognised() } else { None };
        if decoded == 0 {
            if let Some(known) = known {
                return Some(known.fault());
            }
            let cause = self
                .first_error
                .as_ref()
                .map_or_else(String::new, |first| format!("; {errors} errors, the first: {first}"));
            let reason = format!(
                "no picture came out of its {packets} packets, of which {skipped_packets} were skipped{cause}"
            );
            return Some(Fault::new(FaultClass::NoFrames, reason));
        }
        let joined = known.filter(|known| matches!(known, Known::Joined(_))).map(Known::fault);
        joined.or_else(|| self.truncation()).or_else(|| self.damage())
    }

    /// Whether the file ends too soon. A header's duration alone says nothing: the last picture may be
    /// held, or the sound go on.
    fn truncation(&self) -> Option<Fault> {
        let truncated = |reason: String| Some(Fault::new(FaultClass::Truncated, reason));
        if self.source.ends_within_a_packet() {
            return truncated("its last packet is cut off".into());
        }
        let fails_at_the_end =
            self.outcome.errors == 1 && self.sound_packets + 1 == self.outcome.packets;
        match self.clock.shortfall() {
            Some((covered, promised))
                if self.is_cut() || self.source.states_every_duration(self.outcome.packets) =>
            {
                truncated(format!("it ends after {covered:.2} s, expected {promised:.2} s"))
            }
            _ if fails_at_the_end || (self.ends_broken && !self.source.is_broadcast()) => {
                truncated("its last packet is cut off".into())
            }
            _ => None,
        }
    }

    /// Whether the container ended before its own end.
    pub(super) fn is_cut(&self) -> bool {
        self.ends_broken
            || self.read_failures > 1
            || listen::complaints(&self.source.input).is_some()
    }

    fn damage(&self) -> Option<Fault> {
        let Outcome { packets, errors, skipped_packets, holes, unplaced_secs, .. } = self.outcome;
        let first = self.first_error.as_deref().unwrap_or("none");
        let mut reason = match (errors, listen::complaints(&self.source.input)) {
            (0, None) if holes == 0 && unplaced_secs.is_none() => return None,
            (0, None) => format!("pictures are missing in {holes} places"),
            (0, Some((count, first))) => format!(
                "its container is damaged, {count} times by libav's word; the first: {first}"
            ),
            _ => format!(
                "{errors} of {packets} packets are broken, {skipped_packets} after them were skipped; the first: {first}"
            ),
        };
        if let Some(secs) = unplaced_secs {
            reason += &format!(
                "; how many are lost is not known: from {secs:.3} s on, frames are numbered from {UNPLACED} and have no actions"
            );
        }
        Some(Fault::new(FaultClass::CorruptPackets, reason))
    }
}

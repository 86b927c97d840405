//! Determines the fault of a file after it was read. Start at [`Reader::finish`].

use super::{Phase, Reader};
use crate::video::file_kind::FileKind;
use crate::video::outcome::UNPLACED;
use crate::video::{Fault, FaultClass, Outcome, libav_log};

impl Reader {
    /// Returns the summary, with the fault of the file.
    pub(in crate::video) fn finish(self) -> Outcome {
        let fault = self.outcome.fault.clone().or_else(|| self.verdict());
        Outcome { fault, ..self.outcome }
    }

    fn verdict(&self) -> Option<Fault> {
        // The caller stopped before the end of the file.
        if self.phase != Phase::Ended {
            return self.damage();
        }
        let has_no_pictures = self.outcome.decoded == 0;
        if has_no_pictures && self.codec_log.refused_a_size() {
            let reason = format!(
                "its pictures have more than {} pixels, the limit set by `max_pixels`",
                self.limits.max_pixels
            );
            return Some(Fault::new(FaultClass::TooLarge, reason));
        }
        let kind =
            if has_no_pictures || self.source.is_mp4() { self.source.file_kind() } else { None };
        if has_no_pictures {
            return Some(kind.map_or_else(|| self.no_frames(), FileKind::fault));
        }
        let joined = kind.filter(|kind| matches!(kind, FileKind::Joined(_))).map(FileKind::fault);
        joined.or_else(|| self.truncation()).or_else(|| self.damage())
    }

    fn no_frames(&self) -> Fault {
        let Outcome { packets, errors, skipped_packets, .. } = self.outcome;
        let first_error = self
            .first_error
            .as_ref()
            .map_or_else(String::new, |first| format!("; {errors} errors, the first: {first}"));
        let reason = format!(
            "none of its {packets} packets gave a picture, {skipped_packets} were \
             skipped{first_error}"
        );
        Fault::new(FaultClass::NoFrames, reason)
    }

    /// Returns a fault if the file ends too early.
    ///
    /// A stated duration alone is no sign of it: the last picture may be shown for a while, or the
    /// sound may be longer.
    fn truncation(&self) -> Option<Fault> {
        let truncated = |reason: String| Some(Fault::new(FaultClass::Truncated, reason));
        if self.source.ends_within_a_packet() {
            return truncated("its last packet is cut off".into());
        }
        let fails_at_the_end =
            self.outcome.errors == 1 && self.packets_before_error + 1 == self.outcome.packets;
        match self.clock.shortfall() {
            Some((covered, stated))
                if self.is_cut() || self.source.states_every_duration(self.outcome.packets) =>
            {
                truncated(format!("it ends after {covered:.2} s, expected {stated:.2} s"))
            }
            _ if fails_at_the_end
                || (self.last_packet_is_corrupt && !self.source.is_broadcast()) =>
            {
                truncated("its last packet is cut off".into())
            }
            _ => None,
        }
    }

    /// Returns whether the container seems to be cut off.
    pub(super) fn is_cut(&self) -> bool {
        self.last_packet_is_corrupt
            || self.read_failures > 1
            || libav_log::demuxer_errors(&self.source.input).is_some()
    }

    /// Returns a fault if packets or pictures are damaged or missing.
    fn damage(&self) -> Option<Fault> {
        let Outcome { packets, errors, skipped_packets, holes, unplaced_secs, .. } = self.outcome;
        let first = self.first_error.as_deref().unwrap_or("none");
        let mut reason = match (errors, libav_log::demuxer_errors(&self.source.input)) {
            (0, None) if holes == 0 && unplaced_secs.is_none() => return None,
            (0, None) => format!("pictures are missing in {holes} places"),
            (0, Some((count, first))) => format!(
                "its container is damaged: libav reported {count} errors, the first: {first}"
            ),
            _ => format!(
                "{errors} of {packets} packets are broken and {skipped_packets} after them were \
                 skipped; the first error: {first}"
            ),
        };
        if let Some(secs) = unplaced_secs {
            reason += &format!(
                "; the number of lost pictures is unknown, so frames from {secs:.3} s on are \
                 numbered from {UNPLACED} and have no actions"
            );
        }
        Some(Fault::new(FaultClass::CorruptPackets, reason))
    }
}

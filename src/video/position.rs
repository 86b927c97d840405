//! Numbers the pictures of the source, also after some were lost.
//!
//! [`Positions`] takes the packets in file order, each decoded or lost, and the pictures in display
//! order. [`Positions::place`] returns the [`Position`] of each picture.
//!
//! On an intact file the position is the number of earlier pictures. After a loss there are two
//! ways to find it:
//!
//! - **By packets.** Packets displayed between the last picture and this one were lost.
//! - **By time.** At a constant rate, the interval between the two pictures gives the number of
//!   missing ones.
//!
//! If neither is reliable, all further positions are unknown. Such pictures are numbered from
//! [`UNPLACED`], so no data recorded for a position is ever matched to them.

mod intervals;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::intervals::Intervals;
use super::outcome::UNPLACED;

/// Upper limit of the packets held back by a codec. If more pictures are missing, a picture takes
/// several packets.
const MAX_HELD: u64 = 64;

/// State of a packet without a returned picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum PacketState {
    /// The codec has the packet.
    Decoding,
    /// The packet will give no picture.
    Lost,
}

/// A packet whose picture was not returned yet.
#[derive(Debug, Clone, Copy)]
struct PendingPacket {
    state: PacketState,
    /// Number of the packet in the file.
    number: u64,
    is_key: bool,
}

/// Position of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Position {
    /// Number in the source, or a value from [`UNPLACED`] on.
    pub(super) index: u64,
    /// Whether pictures are missing before this one.
    pub(super) lost_before: bool,
}

/// Packets and pictures of one file.
#[derive(Debug)]
pub(super) struct Positions {
    /// Packets whose pictures were not returned yet, by segment and timestamp.
    pending: BTreeMap<(u32, i64), PendingPacket>,
    /// Number of the current segment. Each of several joined files is a segment, in which the
    /// timestamps start again.
    segment: u32,
    /// Largest timestamp of the segment.
    newest: Option<i64>,
    /// Segment and timestamp of the last picture.
    last_shown: Option<(u32, i64)>,
    /// Number of packets read.
    packets: u64,
    /// Number of packets read before the key frame at which decoding restarted.
    packets_before_restart: u64,
    /// Number of lost packets without a timestamp since the last picture.
    lost_untimed: u64,
    /// Whether every packet so far had its own timestamp and gave one picture.
    one_to_one: bool,
    /// Whether the codec gives a picture for each packet. If so, a missing one was lost in it.
    one_picture_per_packet: bool,
    /// Whether an unknown number of packets was lost since decoding last restarted.
    uncounted_loss: bool,
    /// Whether every interval is checked, because packets may be missing without a sign.
    checks_intervals: bool,
    /// Decoding time of the last packet, if the file ended early: packets to be displayed after it
    /// may be missing.
    ends_at: Option<i64>,
    /// Whether the file is known to be cut off there.
    is_cut: bool,
    intervals: Intervals,
    last_timestamp: Option<i64>,
    /// Position of the next picture.
    next: u64,
    /// Number of pictures placed.
    placed: u64,
}

impl Default for Positions {
    fn default() -> Self {
        Self {
            pending: BTreeMap::new(),
            segment: 0,
            newest: None,
            last_shown: None,
            packets: 0,
            packets_before_restart: 0,
            lost_untimed: 0,
            one_to_one: true,
            one_picture_per_packet: false,
            uncounted_loss: false,
            checks_intervals: false,
            ends_at: None,
            is_cut: false,
            intervals: Intervals::default(),
            last_timestamp: None,
            next: 0,
            placed: 0,
        }
    }
}

impl Positions {
    /// Creates the positions of a file.
    pub(super) fn new(one_picture_per_packet: bool) -> Self {
        Self { one_picture_per_packet, ..Self::default() }
    }

    /// Allows pictures of two packets, one for each field.
    pub(super) fn allow_field_pairs(&mut self) {
        self.one_picture_per_packet = false;
    }

    /// Adds a packet with a picture.
    pub(super) fn add_packet(&mut self, pts: Option<i64>, is_key: bool, state: PacketState) {
        self.packets += 1;
        let Some(pts) = pts else {
            self.lost_untimed += u64::from(state == PacketState::Lost);
            return;
        };
        // A key frame is displayed after all packets before it. One with an earlier timestamp
        // starts another file.
        let is_new_segment = is_key && self.newest.is_some_and(|newest| pts <= newest);
        self.segment += u32::from(is_new_segment);
        self.newest = if is_new_segment { Some(pts) } else { self.newest.max(Some(pts)) };
        let packet = PendingPacket { state, number: self.packets, is_key };
        if self.pending.insert((self.segment, pts), packet).is_some() {
            self.one_to_one = false;
        }
    }

    /// Marks the picture with this timestamp as lost.
    pub(super) fn withhold(&mut self, pts: Option<i64>) {
        for ((_, timestamp), packet) in &mut self.pending {
            if Some(*timestamp) == pts {
                packet.state = PacketState::Lost;
            }
        }
    }

    /// Marks all packets held by the codec as lost.
    pub(super) fn drop_held(&mut self) {
        for packet in self.pending.values_mut() {
            packet.state = PacketState::Lost;
        }
        if self.packets > self.next + MAX_HELD && !self.has_timestamps() {
            self.one_to_one = false;
        }
    }

    /// Records a restart of decoding at the last packet read.
    pub(super) fn restart(&mut self) {
        self.packets_before_restart = self.packets.saturating_sub(1);
    }

    /// Returns whether packets have timestamps, which place the pictures after a loss.
    pub(super) fn has_timestamps(&self) -> bool {
        self.last_shown.is_some() || !self.pending.is_empty()
    }

    /// Records a loss of an unknown number of packets by the container.
    pub(super) fn add_uncounted_loss(&mut self) {
        self.uncounted_loss = true;
    }

    /// Starts checking every interval, because packets may be missing without a sign.
    pub(super) fn check_intervals(&mut self) {
        self.checks_intervals = true;
    }

    /// Records the end of the file after the packet decoded at `last_dts`, perhaps too early.
    pub(super) fn end(&mut self, last_dts: Option<i64>, is_cut: bool) {
        self.ends_at = last_dts;
        self.is_cut = is_cut;
    }

    /// Returns the position of the next picture.
    ///
    /// `pts` is the timestamp of its packet, `timestamp` its own time in ticks. `restarted` states
    /// whether the codec was restarted before it.
    pub(super) fn place(
        &mut self,
        pts: Option<i64>,
        timestamp: Option<i64>,
        restarted: bool,
    ) -> Position {
        let lost = self.count_lost_before(pts, restarted);
        let interval = self.last_timestamp.zip(timestamp).map(|(last, next)| next - last);
        let by_time = interval.and_then(|interval| self.intervals.pictures_in(interval));
        // Pictures that the codec held at a loss, or at the end, may follow pictures that never
        // arrived.
        let is_held = self.uncounted_loss && !restarted;
        let is_after_end = self.ends_at.zip(timestamp).is_some_and(|(end, next)| next > end);
        let is_unsure = is_held || is_after_end;
        let skips = (self.checks_intervals || is_unsure) && by_time.is_some_and(|it| it > 1);
        let may_skip = is_unsure && (is_held || self.is_cut) && by_time.is_none();
        let lost_before = restarted || lost > 0 || skips || may_skip;
        let all_were_read = !self.uncounted_loss && !self.checks_intervals && !is_unsure;
        let by_packets = (self.one_to_one && all_were_read).then_some(lost + 1);
        // At a variable rate, intervals show no loss.
        let is_unknown = self.checks_intervals && self.intervals.vary();
        let advance = match (by_packets, by_time) {
            _ if self.next > UNPLACED || (!lost_before && !is_unknown) => Some(1),
            (Some(by_packets), _) if pts.is_some() => Some(by_packets),
            // Without timestamps, pictures that reference lost ones disappear uncounted, so both
            // ways must agree.
            (Some(by_packets), by_time) => by_time.filter(|by_time| *by_time == by_packets),
            (None, by_time) => by_time,
        };
        if !lost_before {
            self.intervals.add(interval);
        }
        self.uncounted_loss = is_held;
        self.last_timestamp = timestamp.or(self.last_timestamp);
        self.next = advance.map_or(UNPLACED + 1, |advance| self.next + advance);
        self.placed += 1;
        Position { index: self.next - 1, lost_before: lost_before && self.placed > 1 }
    }

    /// Removes the packets displayed before this picture, and returns how many gave no picture.
    fn count_lost_before(&mut self, pts: Option<i64>, restarted: bool) -> u64 {
        let untimed = std::mem::take(&mut self.lost_untimed);
        let Some(pts) = pts else {
            return if restarted {
                self.packets_before_restart.saturating_sub(self.next).max(untimed)
            } else {
                untimed
            };
        };
        let first_segment = self.last_shown.map_or(0, |(segment, _)| segment);
        let own_key = (first_segment..=self.segment)
            .map(|segment| (segment, pts))
            .find(|key| self.pending.contains_key(key))
            .unwrap_or((first_segment, pts));
        let later = self.pending.split_off(&own_key);
        let earlier = std::mem::replace(&mut self.pending, later);
        let own = self.pending.remove(&own_key);
        let lost =
            earlier.values().filter(|packet| packet.state == PacketState::Lost).count() as u64;
        // Where streams were joined, no decoder shows the leading pictures of a key frame, which
        // reference pictures before it. They are not counted.
        let is_leading = |packet: &PendingPacket| {
            own.is_some_and(|own| own.is_key && packet.number > own.number) && !restarted
        };
        let without_picture = earlier
            .values()
            .filter(|packet| packet.state == PacketState::Decoding && !is_leading(packet))
            .count() as u64;
        let are_lost_in_codec =
            restarted || (self.one_picture_per_packet && self.last_shown.is_some());
        if without_picture > 0 && self.last_shown.is_some() && !are_lost_in_codec {
            self.one_to_one = false;
        }
        self.last_shown = Some(own_key);
        untimed + if are_lost_in_codec { lost + without_picture } else { lost }
    }
}

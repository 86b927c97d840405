//! The position of every picture in the source, also after others were lost.
//!
//! In: the packets in the order they are read, each decoded or lost; then the pictures in the order
//! they are shown. Out: a [`Position`] for each picture. Start at [`Positions::place`].
//!
//! On an intact file the position is the count of the pictures before. After a loss it is found in
//! two ways. **By packets**: those that are shown between the last picture and this one were lost.
//! **By time**: where the pictures so far came at a constant rate, the distance tells how many are
//! missing. Where neither is reliable, the position is unknown from there on: such a picture is
//! numbered from [`UNPLACED`], so that nothing recorded for a position is ever taken for its own.

use std::collections::BTreeMap;

use super::outcome::UNPLACED;

/// A codec holds back fewer packets than this: if more are missing, a picture takes several packets.
const MOST_HELD: u64 = 64;

/// What became of a packet whose picture was not shown yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fate {
    /// The codec has it.
    Decoding,
    /// No picture will come of it.
    Lost,
}

/// A packet whose picture was not shown yet.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    fate: Fate,
    /// Its number among the packets.
    packet: u64,
    key: bool,
}

/// Where a picture belongs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Position {
    /// Its number in the source, or above [`UNPLACED`].
    pub(super) index: u64,
    /// Whether pictures are missing before it.
    pub(super) lost_before: bool,
}

/// The packets and pictures of one file.
#[derive(Debug)]
pub(super) struct Positions {
    /// Packets whose pictures were not shown yet, by stretch and timestamp.
    waiting: BTreeMap<(u32, i64), Waiting>,
    /// The stretch being read: joined files begin a new one, where timestamps start again.
    stretch: u32,
    newest: Option<i64>,
    shown: Option<(u32, i64)>,
    /// Packets read, and those read before the key frame at which decoding restarted.
    packets: u64,
    before_restart: u64,
    /// Packets lost that have no timestamp.
    lost_untimed: u64,
    /// Whether each packet so far has a timestamp of its own and gave one picture.
    one_to_one: bool,
    /// Whether the codec gives a picture for each packet, so that one without was lost in it.
    swallows_none: bool,
    /// Whether an unknown number of packets was lost since decoding last restarted.
    vanished: bool,
    /// Whether packets may be missing anywhere, so that every distance is looked at.
    watched: bool,
    /// The file ended after the packet decoded at this time: packets that would be shown later than it
    /// may be missing.
    ends_at: Option<i64>,
    /// Whether it is known that the file was cut off there.
    is_cut: bool,
    steps: Steps,
    last_stamp: Option<i64>,
    next: u64,
    /// Pictures placed.
    placed: u64,
}

impl Default for Positions {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            stretch: 0,
            newest: None,
            shown: None,
            packets: 0,
            before_restart: 0,
            lost_untimed: 0,
            one_to_one: true,
            swallows_none: false,
            vanished: false,
            watched: false,
            ends_at: None,
            is_cut: false,
            steps: Steps::default(),
            last_stamp: None,
            next: 0,
            placed: 0,
        }
    }
}

impl Positions {
    /// Of a codec that gives a picture for each packet, or of one that may not.
    pub(super) fn new(swallows_none: bool) -> Self {
        Self { swallows_none, ..Self::default() }
    }

    /// Notes that a picture may come of two packets, one for each field.
    pub(super) fn pair(&mut self) {
        self.swallows_none = false;
    }

    /// Notes a packet that holds a picture.
    pub(super) fn read(&mut self, pts: Option<i64>, key: bool, fate: Fate) {
        self.packets += 1;
        let Some(pts) = pts else {
            self.lost_untimed += u64::from(fate == Fate::Lost);
            return;
        };
        // A key frame is shown after all that was read before it.
        let begins_anew = key && self.newest.is_some_and(|newest| pts <= newest);
        self.stretch += u32::from(begins_anew);
        self.newest = if begins_anew { Some(pts) } else { self.newest.max(Some(pts)) };
        let waiting = Waiting { fate, packet: self.packets, key };
        if self.waiting.insert((self.stretch, pts), waiting).is_some() {
            self.one_to_one = false;
        }
    }

    /// Notes that the picture of this timestamp is withheld.
    pub(super) fn withhold(&mut self, pts: Option<i64>) {
        let fates = self.waiting.iter_mut().filter(|((_, at), _)| Some(*at) == pts);
        fates.for_each(|(_, waiting)| waiting.fate = Fate::Lost);
    }

    /// Notes that the codec was told to forget all it holds.
    pub(super) fn drop_held(&mut self) {
        self.waiting.values_mut().for_each(|waiting| waiting.fate = Fate::Lost);
        if self.packets > self.next + MOST_HELD && !self.are_timed() {
            self.one_to_one = false;
        }
    }

    /// Notes that decoding restarts at the packet read last.
    pub(super) fn restart(&mut self) {
        self.before_restart = self.packets.saturating_sub(1);
    }

    /// Whether packets have timestamps, which tell where a picture belongs that comes out after a loss.
    pub(super) fn are_timed(&self) -> bool {
        self.shown.is_some() || !self.waiting.is_empty()
    }

    /// Notes that the container lost packets, and nobody knows how many.
    pub(super) fn vanish(&mut self) {
        self.vanished = true;
    }

    /// Notes that packets may be missing in this stream without a sign of their own.
    pub(super) fn watch(&mut self) {
        self.watched = true;
    }

    /// Notes that the file ended after the packet decoded at this time, and maybe before its end.
    pub(super) fn end(&mut self, last_dts: Option<i64>, is_cut: bool) {
        self.ends_at = last_dts;
        self.is_cut = is_cut;
    }

    /// Places the next picture: the timestamp of its packet, its time in ticks, and whether the codec
    /// was restarted before it.
    pub(super) fn place(
        &mut self,
        pts: Option<i64>,
        stamp: Option<i64>,
        restarted: bool,
    ) -> Position {
        let lost = self.lost_before(pts, restarted);
        let step = self.last_stamp.zip(stamp).map(|(last, stamp)| stamp - last);
        let timed = step.and_then(|step| self.steps.pictures_in(step));
        // What the codec held at a loss or at the end may follow pictures that never arrived.
        let is_held = self.vanished && !restarted;
        let is_unsure = is_held || self.ends_at.zip(stamp).is_some_and(|(end, stamp)| stamp > end);
        let skips = (self.watched || is_unsure) && timed.is_some_and(|pictures| pictures > 1);
        let may_skip = is_unsure && (is_held || self.is_cut) && timed.is_none();
        let lost_before = restarted || lost > 0 || skips || may_skip;
        let all_were_read = !self.vanished && !self.watched && !is_unsure;
        let counted = (self.one_to_one && all_were_read).then_some(lost + 1);
        // A rate that varies cannot be watched.
        let is_unknown = self.watched && self.steps.varied();
        let ahead = match (counted, timed) {
            _ if self.next > UNPLACED || (!lost_before && !is_unknown) => Some(1),
            (Some(counted), _) if pts.is_some() => Some(counted),
            // Without timestamps, pictures that lean on lost ones vanish uncounted.
            (Some(counted), timed) => timed.filter(|timed| *timed == counted),
            (None, timed) => timed,
        };
        if !lost_before {
            self.steps.note(step);
        }
        self.vanished = is_held;
        self.last_stamp = stamp.or(self.last_stamp);
        self.next = ahead.map_or(UNPLACED + 1, |ahead| self.next + ahead);
        self.placed += 1;
        Position { index: self.next - 1, lost_before: lost_before && self.placed > 1 }
    }

    /// Packets without a picture that are shown before this one.
    fn lost_before(&mut self, pts: Option<i64>, restarted: bool) -> u64 {
        let untimed = std::mem::take(&mut self.lost_untimed);
        let Some(pts) = pts else {
            return if restarted {
                self.before_restart.saturating_sub(self.next).max(untimed)
            } else {
                untimed
            };
        };
        let from = self.shown.map_or(0, |(stretch, _)| stretch);
        let at = (from..=self.stretch)
            .map(|stretch| (stretch, pts))
            .find(|at| self.waiting.contains_key(at));
        let at = at.unwrap_or((from, pts));
        let later = self.waiting.split_off(&at);
        let passed = std::mem::replace(&mut self.waiting, later);
        let own = self.waiting.remove(&at);
        let lost = passed.values().filter(|passed| passed.fate == Fate::Lost).count() as u64;
        // Pictures that lead a key frame, and lean on those before it, are left out where streams were joined: no decoder shows them.
        let leads = |passed: &Waiting| {
            own.is_some_and(|own| own.key && passed.packet > own.packet) && !restarted
        };
        let unseen = passed
            .values()
            .filter(|passed| passed.fate == Fate::Decoding && !leads(passed))
            .count() as u64;
        let is_swallowed = restarted || (self.swallows_none && self.shown.is_some());
        if unseen > 0 && self.shown.is_some() && !is_swallowed {
            self.one_to_one = false;
        }
        self.shown = Some(at);
        untimed + if is_swallowed { lost + unseen } else { lost }
    }
}

/// The distances between pictures that follow each other, in ticks.
#[derive(Debug, Default)]
struct Steps {
    least: i64,
    most: i64,
    sum: i64,
    count: i64,
}

impl Steps {
    fn note(&mut self, step: Option<i64>) {
        let Some(step) = step.filter(|step| *step > 0) else { return };
        self.least = if self.count == 0 { step } else { self.least.min(step) };
        self.most = self.most.max(step);
        self.sum += step;
        self.count += 1;
    }

    fn mean(&self) -> f64 {
        self.sum as f64 / self.count.max(1) as f64
    }

    /// Whether the distances differ by more than their rounding to ticks.
    fn varied(&self) -> bool {
        let spread = (self.most - self.least) as f64;
        spread > 0.1 * self.mean() && !(spread <= 1.0 && self.mean() >= 8.0)
    }

    /// How many pictures a distance is long, where the rate is constant and known well enough.
    fn pictures_in(&self, step: i64) -> Option<u64> {
        let pictures = step as f64 / self.mean();
        let near =
            (pictures - pictures.round()).abs() < 0.25 && pictures < 16.0 * self.count as f64;
        (self.count >= 2 && !self.varied() && near && pictures.round() >= 1.0)
            .then(|| pictures.round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a story such as `r0 r1 s0 x2 !s5`: r reads a packet of that time, x loses one, s shows a
    /// picture, `!` after a restart, `h` hides the packets from timestamps, `?` lets packets vanish,
    /// `~` watches, `-` drops what the codec holds, `cut` and `end` end the file after that time. Returns the positions, `|` marking a loss.
    fn positions(story: &str) -> String {
        let (mut all, mut seen) = (Positions::default(), Vec::new());
        for word in story.split(' ') {
            if word == "one" {
                all = Positions::new(true);
                continue;
            }
            let number = word
                .trim_start_matches(|letter: char| !letter.is_ascii_digit())
                .parse::<i64>()
                .ok();
            match word.trim_end_matches(|letter: char| letter.is_ascii_digit()) {
                "r" => all.read(number, false, Fate::Decoding),
                "k" => all.read(number, true, Fate::Decoding),
                "x" => all.read(number, false, Fate::Lost),
                "?" => all.vanish(),
                "~" => all.watch(),
                "-" => all.drop_held(),
                "cut" => all.end(number, true),
                "end" => all.end(number, false),
                shows => {
                    let Position { index, lost_before } = all.place(number, number, shows == "!s");
                    let index = if index >= UNPLACED {
                        format!("?{}", index - UNPLACED)
                    } else {
                        index.to_string()
                    };
                    seen.push(if lost_before { format!("|{index}") } else { index });
                }
            }
        }
        seen.join(" ")
    }

    #[test]
    fn lost_packets_advance_the_position_of_what_follows() {
        assert_eq!(positions("k0 r10 r20 s0 s10 s20"), "0 1 2");
        assert_eq!(positions("k0 r10 x20 x30 k40 s0 s10 !s40"), "0 1 |4");
        assert_eq!(
            positions("k0 r20 r10 - x25 k40 x30 r60 !s40 s60"),
            "5 6",
            "all before the first picture were lost"
        );
        assert_eq!(
            positions("k0 r40 x10 x20 r30 s0 s30 s40"),
            "0 |3 4",
            "what the codec held before a loss"
        );
        assert_eq!(
            positions("k0 r10 s0 s10 r20 r30 - x35 k50 !s50"),
            "0 1 |5",
            "at a rate that varies"
        );
    }

    #[test]
    fn packets_without_a_picture_of_their_own_are_no_positions() {
        assert_eq!(positions("k0 r1 r10 r11 s0 s10 r20 s20"), "0 1 2");
        assert_eq!(
            positions("k0 r1 r10 r11 r20 r21 s0 s10 s20 x30 x31 k40 !s40"),
            "0 1 2 |4",
            "by time"
        );
        assert_eq!(
            positions("one k0 r10 r20 r30 s0 s10 s30"),
            "0 1 |3",
            "where each packet has one, it was lost in the codec"
        );
        assert_eq!(
            positions("one k0 r10 k40 r20 r30 r50 s0 s10 s40 s50"),
            "0 1 2 3",
            "but those that lead a key frame"
        );
    }

    #[test]
    fn packets_that_vanished_are_counted_by_time_or_not_at_all() {
        assert_eq!(positions("k0 r10 r20 s0 s10 s20 ? k70 !s70"), "0 1 2 |7");
        assert_eq!(positions("k0 r10 r25 s0 s10 s25 ? k70 r80 !s70 s80"), "0 1 2 |?0 ?1");
        assert_eq!(
            positions("k0 r10 r20 r30 s0 s10 s20 ? s30 k70 !s70"),
            "0 1 2 3 |7",
            "what the codec held comes first"
        );
        assert_eq!(positions("k0 r10 r20 s0 s10 s20 ~ r50 r60 s50 s60"), "0 1 2 |5 6");
    }

    #[test]
    fn what_a_cut_file_ends_with_may_follow_pictures_that_are_not_there() {
        assert_eq!(
            positions("k0 r10 r20 s0 s10 r60 r40 r30 s20 s30 cut30 s40 s60"),
            "0 1 2 3 4 |6"
        );
        assert_eq!(positions("k0 r10 r20 s0 s10 r50 r40 r30 s20 s30 cut30 s40 s50"), "0 1 2 3 4 5");
        assert_eq!(
            positions("k0 r50 r25 r10 s0 s10 cut10 s25 s50"),
            "0 1 |?0 |?1",
            "at a rate that varies"
        );
        assert_eq!(positions("k0 r50 r25 r10 s0 s10 end10 s25 s50"), "0 1 2 3", "it was not cut");
        assert_eq!(
            positions("k0 r10 r20 s0 s10 r60 r40 r30 s20 s30 end30 s40 s60"),
            "0 1 2 3 4 |6",
            "a broadcast does not say where it ends"
        );
    }

    #[test]
    fn joined_files_are_counted_on() {
        assert_eq!(positions("k0 r10 r20 k0 r10 s0 s10 s20 s0 s10"), "0 1 2 3 4");
        assert_eq!(
            positions("one k0 r10 r20 s0 s10 k5 r15 s20 s5 s15"),
            "0 1 2 3 4",
            "wherever the other one begins"
        );
    }
}

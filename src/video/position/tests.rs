//! Positions after losses, restarts, cuts and joins, as sequences of events.

use super::*;

/// Runs events such as `k0 r1 s0 x2 !s5` and returns the positions, where `|` marks a loss before
/// the picture and `?` an unknown position. The number of an event is its timestamp.
///
/// - `one` (first event): the codec gives a picture for each packet
/// - `r`, `k`, `x`: a packet, a key frame, a lost packet
/// - `s`, `!s`: a picture, a picture after a restart
/// - `?`: an uncounted loss
/// - `~`: intervals are checked from here on
/// - `-`: the codec drops the packets it holds
/// - `cut`, `end`: the file ends after this packet, cut off or perhaps complete
fn positions(events: &str) -> String {
    let mut all = Positions::default();
    let mut seen = Vec::new();
    for word in events.split(' ') {
        if word == "one" {
            all = Positions::new(true);
            continue;
        }
        let number =
            word.trim_start_matches(|letter: char| !letter.is_ascii_digit()).parse::<i64>().ok();
        match word.trim_end_matches(|letter: char| letter.is_ascii_digit()) {
            "r" => all.add_packet(number, false, PacketState::Decoding),
            "k" => all.add_packet(number, true, PacketState::Decoding),
            "x" => all.add_packet(number, false, PacketState::Lost),
            "?" => all.add_uncounted_loss(),
            "~" => all.check_intervals(),
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
fn lost_packets_advance_the_positions_after_them() {
    assert_eq!(positions("k0 r10 r20 s0 s10 s20"), "0 1 2");
    assert_eq!(positions("k0 r10 x20 x30 k40 s0 s10 !s40"), "0 1 |4");
    assert_eq!(
        positions("k0 r20 r10 - x25 k40 x30 r60 !s40 s60"),
        "5 6",
        "all pictures before the first one were lost"
    );
    assert_eq!(
        positions("k0 r40 x10 x20 r30 s0 s30 s40"),
        "0 |3 4",
        "the codec held pictures from before the loss"
    );
    assert_eq!(positions("k0 r10 s0 s10 r20 r30 - x35 k50 !s50"), "0 1 |5", "at a variable rate");
}

#[test]
fn packets_without_their_own_picture_take_no_position() {
    assert_eq!(positions("k0 r1 r10 r11 s0 s10 r20 s20"), "0 1 2");
    assert_eq!(
        positions("k0 r1 r10 r11 r20 r21 s0 s10 s20 x30 x31 k40 !s40"),
        "0 1 2 |4",
        "by time"
    );
    assert_eq!(
        positions("one k0 r10 r20 r30 s0 s10 s30"),
        "0 1 |3",
        "if each packet has a picture, it was lost in the codec"
    );
    assert_eq!(
        positions("one k0 r10 k40 r20 r30 r50 s0 s10 s40 s50"),
        "0 1 2 3",
        "leading pictures of a key frame do not count"
    );
}

#[test]
fn an_uncounted_loss_is_measured_by_time_or_stays_unknown() {
    assert_eq!(positions("k0 r10 r20 s0 s10 s20 ? k70 !s70"), "0 1 2 |7");
    assert_eq!(positions("k0 r10 r25 s0 s10 s25 ? k70 r80 !s70 s80"), "0 1 2 |?0 ?1");
    assert_eq!(
        positions("k0 r10 r20 r30 s0 s10 s20 ? s30 k70 !s70"),
        "0 1 2 3 |7",
        "pictures that the codec held come first"
    );
    assert_eq!(positions("k0 r10 r20 s0 s10 s20 ~ r50 r60 s50 s60"), "0 1 2 |5 6");
}

#[test]
fn the_last_pictures_of_a_cut_file_may_follow_missing_ones() {
    assert_eq!(positions("k0 r10 r20 s0 s10 r60 r40 r30 s20 s30 cut30 s40 s60"), "0 1 2 3 4 |6");
    assert_eq!(positions("k0 r10 r20 s0 s10 r50 r40 r30 s20 s30 cut30 s40 s50"), "0 1 2 3 4 5");
    assert_eq!(
        positions("k0 r50 r25 r10 s0 s10 cut10 s25 s50"),
        "0 1 |?0 |?1",
        "at a variable rate"
    );
    assert_eq!(positions("k0 r50 r25 r10 s0 s10 end10 s25 s50"), "0 1 2 3", "the file was not cut");
    assert_eq!(
        positions("k0 r10 r20 s0 s10 r60 r40 r30 s20 s30 end30 s40 s60"),
        "0 1 2 3 4 |6",
        "a broadcast does not state where it ends"
    );
}

#[test]
fn positions_continue_across_joined_files() {
    assert_eq!(positions("k0 r10 r20 k0 r10 s0 s10 s20 s0 s10"), "0 1 2 3 4");
    assert_eq!(
        positions("one k0 r10 r20 s0 s10 k5 r15 s20 s5 s15"),
        "0 1 2 3 4",
        "whatever the first timestamp of the second file"
    );
}

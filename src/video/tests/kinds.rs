//! Intact files that look damaged, and damaged files that look intact.

use super::*;
use crate::video::UNPLACED;

const H264: &str = "-c:v libx264 -preset veryfast -g 12 -bf 2 -pix_fmt yuv420p";

/// Returns the number of frames of ffmpeg's `fps` filter.
fn frames_at(media: &Media, path: &Path, fps: f64) -> usize {
    media.reference(path, &format!("fps={fps},scale=64:64"), (64, 64)).len()
}

#[test]
fn the_end_of_a_video_is_not_a_gap_at_any_rate_in_any_container() {
    let Some(media) = Media::new() else { return };
    // Name, display time of frame n in seconds, number of gaps without `fps`, and two rates.
    let rates = [
        ("constant", "N/30", 0, [5.0, 30.0]),
        ("varied", "(N+floor(N/3)*2)/30", 0, [5.0, 30.0]),
        ("time_lapse", "N*100", 0, [0.01, 0.1]),
        ("standstill", "(N+if(gt(N\\,20)\\,2100\\,0))/30", 1, [1.0, 5.0]),
    ];
    for (rate, seconds, gaps, [slow, fast]) in rates {
        for name in ["mp4", "mkv", "mov", "flv"].map(|ending| format!("{rate}.{ending}")) {
            let filter = format!("settb=1/1000,setpts='({seconds})/TB'");
            let source = format!("-f lavfi -i \"testsrc2=size=64x48:rate=30:duration=1,{filter}\"");
            let path = media.make(&name, &format!("{source} -vsync passthrough {H264}"));
            for fps in [None, Some(slow), Some(fast)] {
                let frames = fps.map_or(30, |fps| frames_at(&media, &path, fps));
                for codec_threads in [1, 2, 8, 24] {
                    let options =
                        DecodeOptions { fps, codec_threads, ..DecodeOptions::new(64, 64) };
                    let seen = decode(&path, &options).unwrap();
                    let at = format!("{name}, fps {fps:?}, {codec_threads} threads");
                    assert_eq!((seen.frames.len(), &seen.outcome.fault), (frames, &None), "{at}");
                    let marked = seen.frames.iter().filter(|frame| frame.gap_before).count();
                    assert_eq!(marked, if fps.is_none() { gaps } else { 0 }, "{at}");
                    assert!(
                        seen.frames.iter().enumerate().all(|(at, frame)| frame.index == at as u64),
                        "{at}"
                    );
                }
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_frames() {
    let Some(media) = Media::new() else { return };
    let path = media.clip("video.mp4", H264);
    let one = decoded(&path);
    for codec_threads in [40, 96, 1024] {
        let many =
            decode(&path, &DecodeOptions { codec_threads, ..DecodeOptions::new(64, 64) }).unwrap();
        assert!(many.frames == one.frames && many.pixels == one.pixels, "{codec_threads} threads");
    }
}

/// Decrements every stated length of the video's PES packets in a transport stream.
fn shorten_stated_lengths(bytes: &mut [u8]) -> usize {
    let mut changed = 0;
    for packet in
        bytes.chunks_mut(188).filter(|packet| packet.len() == 188 && packet[1] & 0x40 != 0)
    {
        let at = 4 + if packet[3] & 0x20 == 0 { 0 } else { 1 + usize::from(packet[4]) };
        if let Some([0, 0, 1, 0xe0, high, low]) = packet.get_mut(at..at + 6) {
            let length = u16::from_be_bytes([*high, *low]);
            if length > 0 {
                [*high, *low] = (length - 1).to_be_bytes();
                changed += 1;
            }
        }
    }
    changed
}

#[test]
fn a_wrong_length_field_costs_no_frame() {
    let Some(media) = Media::new() else { return };
    let whole = media.clip("whole.ts", &format!("{H264} -omit_video_pes_length 0"));
    let mut bytes = std::fs::read(&whole).unwrap();
    assert!(shorten_stated_lengths(&mut bytes) > 50);
    let (seen, expected) = (decoded(&media.write("off.ts", &bytes)), decoded(&whole));
    assert_eq!((seen.frames.len(), seen.outcome.fault), (60, None));
    // A missing last byte is padding, or changes almost nothing.
    assert_eq!(seen.frames, expected.frames);
}

#[test]
fn joined_broadcasts_give_the_frames_of_all_parts() {
    let Some(media) = Media::new() else { return };
    let one = media.clip("one.ts", H264);
    let bytes = std::fs::read(&one).unwrap();
    let seen = decoded(&media.write("joined.ts", &[bytes.clone(), bytes].concat()));
    let part = decoded(&one);
    assert_eq!((seen.frames.len(), seen.outcome.fault), (120, None));
    assert!(seen.pixels[..60] == part.pixels && seen.pixels[60..] == part.pixels);
    assert!(seen.frames.iter().enumerate().all(|(at, frame)| frame.index == at as u64));
    assert_eq!(
        seen.frames.iter().filter(|frame| frame.gap_before).count(),
        1,
        "the clock goes back at the joint"
    );
}

#[test]
fn frames_after_lost_packets_keep_their_position() {
    let Some(media) = Media::new() else { return };
    for (name, codec) in
        [("h264.ts", H264), ("mpeg2.ts", "-c:v mpeg2video -g 12 -bf 2 -q:v 2"), ("hevc.ts", HEVC)]
    {
        let path = media.clip(name, codec);
        let whole = decoded(&path);
        let bytes = std::fs::read(&path).unwrap();
        let packets: Vec<&[u8]> = bytes.chunks(188).collect();
        for share in [0.3, 0.45, 0.6] {
            let from = (packets.len() as f64 * share) as usize;
            for lost in [1, 7, 40] {
                let kept = [&packets[..from], &packets[from + lost..]].concat().concat();
                let seen = decoded(&media.write("lost.ts", &kept));
                let at = format!("{name}: {lost} packets from {from} on: {:?}", seen.outcome);
                assert!(
                    seen.outcome.fault.is_some() || seen.frames.len() == whole.frames.len(),
                    "{at}"
                );
                for (frame, pixels) in
                    seen.frames.iter().zip(&seen.pixels).filter(|(frame, _)| frame.index < UNPLACED)
                {
                    let expected = &whole.pixels[frame.index as usize];
                    let differs =
                        pixels.iter().zip(expected).filter(|(a, b)| a.abs_diff(**b) > 12).count();
                    assert!(differs < 300, "{at}: {frame:?} differs at {differs} places");
                }
            }
        }
    }
}

const HEVC: &str = "-c:v libx265 -preset ultrafast \
                    -x265-params log-level=none:bframes=2:open-gop=0 -g 12 -pix_fmt yuv420p";

#[test]
fn the_first_of_several_equal_tracks_is_decoded() {
    let Some(media) = Media::new() else { return };
    let second = "-f lavfi -i color=red:size=160x120:rate=30:duration=2";
    let both = "-map 0 -map 1 -c:v libx264 -b:v:0 20k -b:v:1 900k \
                -disposition:v:0 default -disposition:v:1 default";
    let path = media.make(
        "two.mp4",
        &format!("-f lavfi -i testsrc2=size=160x120:rate=30:duration=2 {second} {both}"),
    );
    let pixels = decoded(&path).pixels.swap_remove(30);
    assert!(pixels.chunks(3).any(|pixel| pixel[1] > 150), "the second track is red throughout");
}

#[test]
fn stated_counts_and_durations_without_pictures_are_not_faults() {
    let Some(media) = Media::new() else { return };
    let source = media.clip("in.mp4", "-c:v libx264 -preset veryfast -bf 3 -pix_fmt yuv420p");
    // AVI counts time slots; an empty slot repeats the picture before.
    let copied = media.make("copied.avi", &format!("-i {} -c copy", source.display()));
    assert_eq!((decoded(&copied).frames.len(), decoded(&copied).outcome.fault), (60, None));
    let sound = "-f lavfi -i sine=duration=4 -c:a libvorbis";
    let held = media.make("held.mkv", &format!("-i {} {sound} -c:v copy", source.display()));
    assert_eq!((decoded(&held).frames.len(), decoded(&held).outcome.fault), (60, None));
}

#[test]
fn damage_reported_only_by_a_message_or_a_flag_drops_the_pictures_after_it() {
    let Some(media) = Media::new() else { return };
    let drop = "-bsf:v noise=drop='eq(n\\,17)'";
    for (name, encoding) in [
        ("hevc.mp4", HEVC.replace("bframes=2", "bframes=0:keyint=30:min-keyint=30")),
        ("ffv1.mkv", "-c:v ffv1 -level 3 -slicecrc 1".into()),
    ] {
        let whole = media.clip(name, &encoding);
        let path = if name == "ffv1.mkv" {
            let mut bytes = std::fs::read(&whole).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x55;
            media.write("damaged.mkv", &bytes)
        } else {
            media.make("dropped.mp4", &format!("-i {} -c copy {drop}", whole.display()))
        };
        let (seen, whole) = (decoded(&path), decoded(&whole));
        assert_eq!(
            seen.outcome.fault.as_ref().map(|fault| fault.class),
            Some(FaultClass::CorruptPackets),
            "{name}: {:?}",
            seen.outcome
        );
        for (frame, pixels) in seen.frames.iter().zip(&seen.pixels) {
            let true_index = whole
                .frames
                .iter()
                .position(|whole| (whole.time_secs - frame.time_secs).abs() < 0.001)
                .unwrap();
            assert!(*pixels == whole.pixels[true_index], "{name}: {frame:?}");
        }
    }
}

#[test]
fn files_of_a_known_kind_get_a_specific_fault() {
    let Some(media) = Media::new() else { return };
    let whole = std::fs::read(media.clip("whole.mp4", H264)).unwrap();
    let key = "00112233445566778899aabbccddeeff";
    let encrypt =
        format!("-encryption_scheme cenc-aes-ctr -encryption_key {key} -encryption_kid {key}");
    let fragments = media.clip(
        "fragments.mp4",
        &format!("{H264} -movflags +frag_keyframe+empty_moov+default_base_moof"),
    );
    let fragments = std::fs::read(fragments).unwrap();
    let first = fragments.windows(4).position(|window| window == b"moof").unwrap() - 4;
    let pointer =
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n".repeat(2);
    for (path, class, words) in [
        (media.write("pointer.mp4", &pointer), FaultClass::UnknownFormat, "git lfs pull"),
        (
            media.write("segment.m4s", &fragments[first..]),
            FaultClass::IncompleteHeader,
            "initialisation segment",
        ),
        (
            media.clip("encrypted.mp4", &format!("{H264} {encrypt}")),
            FaultClass::Unsupported,
            "it is encrypted",
        ),
        (
            media.write("joined.mp4", &[whole.clone(), whole.clone()].concat()),
            FaultClass::Joined,
            "another MP4 begins at byte",
        ),
    ] {
        let fault = match decode(&path, &DecodeOptions::new(64, 64)) {
            Ok(decoded) => decoded.outcome.fault.unwrap(),
            Err(Error::Refused { fault, .. }) => fault,
            Err(error) => panic!("{error}"),
        };
        assert!(
            fault.class == class && fault.reason.contains(words),
            "{}: {}: {fault}",
            path.display(),
            fault.class
        );
    }
}

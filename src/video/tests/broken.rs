//! Everything that is not a good video: the right word for each, whatever can be kept of it, and
//! never a crash or an endless wait.

use super::*;
use crate::video::Limits;

const H264: &str = "-c:v libx264 -g 12 -crf 5 -pix_fmt yuv420p";
const VP9: &str = "-c:v libvpx-vp9 -g 12 -cpu-used 8 -deadline realtime -pix_fmt yuv420p";

#[test]
fn what_is_no_video_is_refused_with_its_own_word() {
    let Some(media) = Media::new() else { return };
    let tone = "-f lavfi -i sine=duration=1";
    std::fs::create_dir(media.path("folder.mp4")).unwrap();
    let video = media.clip("video.mp4", H264);
    let whole = video.display();
    for (path, expected) in [
        (media.path("missing.mp4"), FaultClass::Unreadable),
        (media.path("folder.mp4"), FaultClass::NotAFile),
        (media.write("empty.mp4", b""), FaultClass::EmptyFile),
        (
            media.write(
                "text.mp4",
                "not a video, but long enough to look at ".repeat(99).as_bytes(),
            ),
            FaultClass::UnknownFormat,
        ),
        (media.write("zeros.mp4", &[0; 100_000]), FaultClass::UnknownFormat),
        (media.cut(&video, 0.5, "no_moov.mp4"), FaultClass::IncompleteHeader),
        (media.make("sound.wav", tone), FaultClass::NoVideoStream),
        (media.make("sound.mp4", &format!("{tone} -c:a aac")), FaultClass::NoVideoStream),
    ] {
        assert_eq!(fault(&path), Some(expected), "{}", path.display());
    }
    for name in ["cover.mp3", "cover.m4a"] {
        media.clip("cover.jpg", "-frames:v 1");
        let picture = "-i cover.jpg -map 0 -map 1 -c:v copy -disposition:v:0 attached_pic";
        let path = media.make(name, &format!("{tone} {picture}"));
        assert_eq!(fault(&path), Some(FaultClass::NoVideoStream), "{name}");
    }
    for (name, text) in [
        ("list.m3u8", format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{whole}\n#EXT-X-ENDLIST\n")),
        ("list.mp4", format!("ffconcat version 1.0\nfile '{whole}'\n")),
        ("call.mp4", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n".into()),
    ] {
        assert_eq!(fault(&media.write(name, text.as_bytes())), Some(FaultClass::ForbiddenFormat), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_that_nobody_writes_to_is_refused_at_once() {
    let Some(media) = Media::new() else { return };
    let path = media.path("pipe.mp4");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert_eq!(fault(&path), Some(FaultClass::NotAFile));
}

#[test]
fn a_name_with_a_pattern_a_protocol_or_odd_bytes_is_only_a_name() {
    let Some(media) = Media::new() else { return };
    let bytes = std::fs::read(media.clip("video.mp4", H264)).unwrap();
    for name in ["frame%03d.png", "concat:a|b.mp4", "*.jpg", "-i.mp4", "no_ending"] {
        assert_eq!(fault(&media.write(name, &bytes)), None, "{name}");
    }
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::ffi::OsStrExt;
        let path = media.folder.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9.mp4"));
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(fault(&path), None);
    }
}

/// Every frame given is the whole file's frame at that time, and what is missing is marked.
///
/// `unseen` frames may differ: damage that still decodes into something, nobody can see.
fn assert_kept(name: &str, seen: &Decoded, whole: &Decoded, unseen: usize) {
    let index_of = |frame: &Frame| (frame.time_secs * 30.0).round() as usize;
    for pair in seen.frames.windows(2) {
        let follows = index_of(&pair[1]) == index_of(&pair[0]) + 1;
        assert!(follows || pair[1].gap_before, "{name}: {pair:?}");
    }
    let differs = |(frame, pixels): &(&Frame, &Vec<u8>)| whole.pixels[index_of(frame)] != **pixels;
    let different: Vec<_> =
        seen.frames.iter().zip(&seen.pixels).filter(differs).map(|(frame, _)| frame).collect();
    assert!(different.len() <= unseen, "{name}: {different:?}");
}

#[test]
fn a_file_cut_short_keeps_its_frames_and_is_called_truncated() {
    let Some(media) = Media::new() else { return };
    let truncated = FaultClass::Truncated;
    for (name, encoding, expected) in [
        ("start.mp4", format!("{H264} -movflags +faststart"), truncated),
        ("h264.mkv", H264.into(), truncated),
        ("vp9.webm", format!("{VP9} -b:v 2M"), truncated),
        ("flash.flv", "-c:v flv1 -q:v 1".into(), truncated),
        // libav corrects an AVI's length by its size: only the packet cut in two tells.
        ("mpeg4.avi", "-c:v mpeg4 -g 12 -q:v 1".into(), truncated),
    ] {
        let whole = media.clip(name, &encoding);
        let seen = decoded(&media.cut(&whole, 0.5, &format!("cut_{name}")));
        let class = seen.outcome.fault.as_ref().map(|fault| fault.class);
        assert_eq!(class, Some(expected), "{name}: {:?}", seen.outcome);
        assert!((15..45).contains(&seen.frames.len()), "{name}: {}", seen.frames.len());
        assert_kept(name, &seen, &decoded(&whole), 0);
    }
}

#[test]
fn damage_costs_frames_up_to_the_next_key_frame_and_leaves_a_gap() {
    let Some(media) = Media::new() else { return };
    for (name, encoding) in [
        ("h264.mp4", H264),
        ("h264.ts", H264),
        ("hevc.mp4", "-c:v libx265 -x265-params log-level=none -g 12 -crf 5 -pix_fmt yuv420p"),
        ("mpeg4.mp4", "-c:v mpeg4 -g 12 -q:v 1"),
        ("mpeg2.ts", "-c:v mpeg2video -g 12 -q:v 1"),
        ("mjpeg.mov", "-c:v mjpeg -q:v 3"),
    ] {
        let whole = media.clip(name, encoding);
        let seen = decoded(&media.blot(&whole, &format!("damaged_{name}")));
        let class = seen.outcome.fault.as_ref().map(|fault| fault.class);
        assert_eq!(class, Some(FaultClass::CorruptPackets), "{name}: {:?}", seen.outcome);
        assert!((30..60).contains(&seen.frames.len()), "{name}: {:?}", seen.outcome);
        assert_kept(name, &seen, &decoded(&whole), 1);
    }
}

/// H.264 says which picture is damaged, and nothing of those predicted from it.
#[test]
fn of_h264_just_the_frames_that_depend_on_the_damage_are_lost() {
    let Some(media) = Media::new() else { return };
    let whole = media.clip("whole.mkv", "-c:v libx264 -g 60 -bf 3 -crf 5 -pix_fmt yuv420p");
    let (expected, packets, bytes) =
        (decoded(&whole), media.packets(&whole), std::fs::read(&whole).unwrap());
    let (mut lost, mut unseen) = (Vec::new(), 0);
    for (packet, &(position, size)) in packets.iter().enumerate().take(40).skip(10) {
        let mut bytes = bytes.clone();
        bytes[position + size / 2..position + size].iter_mut().for_each(|byte| *byte ^= 0x55);
        let seen = decoded(&media.write(&format!("damaged_{packet}.mkv"), &bytes));
        if seen.outcome.fault.is_some() {
            assert_kept(&format!("packet {packet}"), &seen, &expected, 0);
            lost.push(60 - seen.frames.len());
        } else {
            unseen += 1;
        }
    }
    assert!(unseen <= 3, "{unseen} damaged packets decoded into something without a sign");
    let few = lost.iter().filter(|lost| **lost <= 3).count();
    assert!(few >= 8, "{lost:?} frames lost: that of a B picture costs itself alone");
    assert!(
        lost.iter().any(|lost| *lost > 10),
        "{lost:?} frames lost: that of a P picture costs all that follow"
    );
}

#[test]
fn a_picture_larger_than_the_limit_is_never_decoded() {
    let Some(media) = Media::new() else { return };
    let limits = Limits { max_pixels: 160 * 120 - 1, ..Limits::default() };
    let options = DecodeOptions { limits, ..DecodeOptions::new(64, 64) };
    for name in ["large.mp4", "large.mkv"] {
        let path = media.clip(name, H264);
        let error = decode(&path, &options).err().unwrap();
        assert_eq!(error.class(), Some(FaultClass::TooLarge), "{name}: {error}");
    }
    // Here only the pictures themselves tell their size: the codec refuses each.
    for name in ["large.png", "large.gif"] {
        let path = media.clip(name, "-vf fps=2 -update 1");
        let outcome = decode(&path, &options).unwrap().outcome;
        assert_eq!(
            (outcome.decoded, outcome.fault.unwrap().class),
            (0, FaultClass::TooLarge),
            "{name}"
        );
    }
}

#[test]
fn a_file_that_takes_too_long_is_given_up() {
    let Some(media) = Media::new() else { return };
    let path = media.clip("video.mp4", H264);
    let limits = Limits { deadline_secs: 1e-9, ..Limits::default() };
    let options = DecodeOptions { limits, ..DecodeOptions::new(64, 64) };
    let error = decode(&path, &options).err().unwrap();
    assert_eq!(error.class(), Some(FaultClass::Deadline));
    assert!(!error.is_transient());
}

#[test]
fn a_file_with_too_many_broken_places_is_given_up() {
    let Some(media) = Media::new() else { return };
    let path = media.sprinkle(&media.clip("video.ts", H264), "damaged.ts");
    let limits = Limits { max_errors: 0, ..Limits::default() };
    let options = DecodeOptions { limits, ..DecodeOptions::new(64, 64) };
    let outcome = decode(&path, &options).unwrap().outcome;
    let fault = outcome.fault.unwrap();
    assert_eq!(fault.class, FaultClass::CorruptPackets);
    assert!(fault.reason.contains("decoding stopped after 1 errors"), "{fault}");
}

#[test]
fn messages_name_the_file_what_was_seen_and_what_was_expected() {
    let error = decode(Path::new("/"), &DecodeOptions::new(64, 64)).err().unwrap();
    assert_eq!(error.to_string(), "/: it is a directory, pipe or device; expected a file");
    assert_eq!(error.hint(), Some("list the video files themselves, as in `videos/*.mp4`"));
    let missing = decode(Path::new("/no/such.mp4"), &DecodeOptions::new(64, 64)).err().unwrap();
    assert!(missing.to_string().starts_with("/no/such.mp4: cannot be read: "), "{missing}");
}

#[test]
fn a_buffer_of_another_size_is_the_callers_mistake() {
    let Some(media) = Media::new() else { return };
    let path = media.clip("video.mp4", H264);
    let mut decoder = Decoder::open(&path, &DecodeOptions::new(64, 64)).unwrap();
    let error = decoder.next_frame(&mut [0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "the buffer for a frame has 3 bytes, expected 12288");
    assert_eq!(error.class(), None);
}

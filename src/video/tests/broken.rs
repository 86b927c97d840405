//! Broken files, and files of other kinds: each gets the right fault class and keeps its intact
//! frames, without a crash or an endless wait.

use super::*;
use crate::video::Limits;

const H264: &str = "-c:v libx264 -g 12 -crf 5 -pix_fmt yuv420p";
const VP9: &str = "-c:v libvpx-vp9 -g 12 -cpu-used 8 -deadline realtime -pix_fmt yuv420p";

#[test]
fn files_that_are_not_videos_are_refused_with_their_own_class() {
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
        (
            "list.m3u8",
            format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{whole}\n#EXT-X-ENDLIST\n"),
        ),
        ("list.mp4", format!("ffconcat version 1.0\nfile '{whole}'\n")),
        (
            "call.mp4",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n\
             m=video 5004 RTP/AVP 96\n"
                .into(),
        ),
    ] {
        let path = media.write(name, text.as_bytes());
        assert_eq!(fault(&path), Some(FaultClass::ForbiddenFormat), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_without_a_writer_is_refused_at_once() {
    let Some(media) = Media::new() else { return };
    let path = media.path("pipe.mp4");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert_eq!(fault(&path), Some(FaultClass::NotAFile));
}

#[test]
fn patterns_protocols_and_invalid_utf8_in_a_name_have_no_meaning() {
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

/// Asserts that every frame equals the intact file's frame at its time, and that gaps are marked.
///
/// `undetected` frames may differ, because some damage decodes without an error.
fn assert_kept(name: &str, seen: &Decoded, whole: &Decoded, undetected: usize) {
    let index_of = |frame: &Frame| (frame.time_secs * 30.0).round() as usize;
    for pair in seen.frames.windows(2) {
        let follows = index_of(&pair[1]) == index_of(&pair[0]) + 1;
        assert!(follows || pair[1].gap_before, "{name}: {pair:?}");
    }
    let differs = |(frame, pixels): &(&Frame, &Vec<u8>)| whole.pixels[index_of(frame)] != **pixels;
    let different: Vec<_> =
        seen.frames.iter().zip(&seen.pixels).filter(differs).map(|(frame, _)| frame).collect();
    assert!(different.len() <= undetected, "{name}: {different:?}");
}

#[test]
fn a_truncated_file_keeps_its_frames_and_is_reported_as_truncated() {
    let Some(media) = Media::new() else { return };
    let truncated = FaultClass::Truncated;
    for (name, encoding, expected) in [
        ("start.mp4", format!("{H264} -movflags +faststart"), truncated),
        ("h264.mkv", H264.into(), truncated),
        ("vp9.webm", format!("{VP9} -b:v 2M"), truncated),
        ("flash.flv", "-c:v flv1 -q:v 1".into(), truncated),
        // libav corrects an AVI's length by its size, so the incomplete packet is the only sign.
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
fn damage_drops_frames_up_to_the_next_key_frame_and_marks_a_gap() {
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

/// H.264 marks the damaged picture, but not the pictures predicted from it.
#[test]
fn h264_loses_only_the_frames_that_depend_on_the_damage() {
    let Some(media) = Media::new() else { return };
    let whole = media.clip("whole.mkv", "-c:v libx264 -g 60 -bf 3 -crf 5 -pix_fmt yuv420p");
    let expected = decoded(&whole);
    let packets = media.packets(&whole);
    let bytes = std::fs::read(&whole).unwrap();
    let mut lost = Vec::new();
    let mut undetected = 0;
    for (packet, &(position, size)) in packets.iter().enumerate().take(40).skip(10) {
        let mut bytes = bytes.clone();
        for byte in &mut bytes[position + size / 2..position + size] {
            *byte ^= 0x55;
        }
        let seen = decoded(&media.write(&format!("damaged_{packet}.mkv"), &bytes));
        if seen.outcome.fault.is_some() {
            assert_kept(&format!("packet {packet}"), &seen, &expected, 0);
            lost.push(60 - seen.frames.len());
        } else {
            undetected += 1;
        }
    }
    assert!(undetected <= 3, "{undetected} damaged packets decoded without an error");
    let few = lost.iter().filter(|lost| **lost <= 3).count();
    assert!(few >= 8, "{lost:?} frames lost: a damaged B picture should cost only itself");
    assert!(
        lost.iter().any(|lost| *lost > 10),
        "{lost:?} frames lost: a damaged P picture should cost all that follow"
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
    // Here the header states no size, so the codec refuses each picture.
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
fn decoding_stops_at_the_time_limit() {
    let Some(media) = Media::new() else { return };
    let path = media.clip("video.mp4", H264);
    let limits = Limits { deadline_secs: 1e-9, ..Limits::default() };
    let options = DecodeOptions { limits, ..DecodeOptions::new(64, 64) };
    let error = decode(&path, &options).err().unwrap();
    assert_eq!(error.class(), Some(FaultClass::Deadline));
    assert!(!error.is_transient());
}

#[test]
fn decoding_stops_after_too_many_errors() {
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
fn messages_name_the_file_the_value_seen_and_the_value_expected() {
    let error = decode(Path::new("/"), &DecodeOptions::new(64, 64)).err().unwrap();
    assert_eq!(error.to_string(), "/: it is a directory, pipe or device; expected a file");
    assert_eq!(error.hint(), Some("list the video files themselves, as in `videos/*.mp4`"));
    let missing = decode(Path::new("/no/such.mp4"), &DecodeOptions::new(64, 64)).err().unwrap();
    assert!(missing.to_string().starts_with("/no/such.mp4: cannot be read: "), "{missing}");
}

#[test]
fn a_buffer_of_the_wrong_size_is_an_error_of_the_caller() {
    let Some(media) = Media::new() else { return };
    let path = media.clip("video.mp4", H264);
    let mut decoder = Decoder::open(&path, &DecodeOptions::new(64, 64)).unwrap();
    let error = decoder.next_frame(&mut [0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "the buffer for a frame has 3 bytes, expected 12288");
    assert_eq!(error.class(), None);
}

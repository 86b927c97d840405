//! Every pixel and every frame equals ffmpeg's own output for the same file.

use super::*;
use crate::video::{Fit, Limits, probe};

const SCALED: &str = "scale=64:64:flags=area+accurate_rnd+full_chroma_int+full_chroma_inp";

/// Returns the largest difference between two bytes of corresponding frames.
fn largest_difference(seen: &[Vec<u8>], expected: &[Vec<u8>]) -> u8 {
    assert_eq!(seen.len(), expected.len(), "number of frames");
    let differences = |(a, b): (&Vec<u8>, &Vec<u8>)| -> u8 {
        a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    };
    seen.iter().zip(expected).map(differences).max().unwrap()
}

#[test]
fn every_frame_of_every_codec_equals_ffmpeg_byte_for_byte() {
    let Some(media) = Media::new() else { return };
    for (name, encoding) in [
        ("h264.mp4", "-c:v libx264 -bf 3 -pix_fmt yuv420p"),
        ("faststart.mp4", "-c:v libx264 -movflags +faststart -pix_fmt yuv420p"),
        (
            "fragments.mp4",
            "-c:v libx264 -movflags +frag_keyframe+empty_moov -g 10 -pix_fmt yuv420p",
        ),
        ("tenbit.mp4", "-c:v libx264 -pix_fmt yuv420p10le"),
        ("bt709.mkv", "-c:v libx264 -pix_fmt yuv422p -colorspace bt709"),
        ("full.mp4", "-c:v libx264 -pix_fmt yuvj420p"),
        ("hevc.mkv", "-c:v libx265 -x265-params log-level=none -pix_fmt yuv420p"),
        ("vp9.webm", "-c:v libvpx-vp9 -cpu-used 8 -deadline realtime -pix_fmt yuv420p"),
        ("vp8.webm", "-c:v libvpx -cpu-used 8 -deadline realtime -pix_fmt yuv420p"),
        ("mpeg4.avi", "-c:v mpeg4 -bf 2"),
        ("mpeg2.ts", "-c:v mpeg2video -bf 2"),
        ("mjpeg.mov", "-c:v mjpeg -pix_fmt yuvj444p"),
        ("flv.flv", "-c:v flv1"),
        ("theora.ogv", "-c:v libtheora"),
        ("lossless.mkv", "-c:v ffv1 -pix_fmt bgr0"),
        ("loop.gif", "-vf fps=10"),
    ] {
        let path = media.clip(name, encoding);
        let seen = decoded(&path);
        let expected = media.reference(&path, SCALED, (64, 64));
        assert_eq!(largest_difference(&seen.pixels, &expected), 0, "{name}");
        assert_eq!(seen.outcome.fault, None, "{name}");
        assert!(seen.frames.iter().all(|frame| !frame.gap_before), "{name}");
        let frames = if name == "loop.gif" { 20 } else { 60 };
        assert_eq!((seen.frames.len(), seen.outcome.frames), (frames, frames as u64), "{name}");
        let last = if name == "loop.gif" { 1.9 } else { 59.0 / 30.0 };
        let span = seen.frames[frames - 1].time_secs - seen.frames[0].time_secs;
        assert!((span - last).abs() < 0.002, "{name}: {span}");
    }
}

#[test]
fn the_number_of_threads_changes_neither_pixels_nor_outcome() {
    let Some(media) = Media::new() else { return };
    for (name, encoding) in [
        ("h264.mp4", "-c:v libx264 -g 12 -bf 3 -pix_fmt yuv420p -crf 5"),
        ("hevc.mkv", "-c:v libx265 -x265-params log-level=none -g 12 -crf 5 -pix_fmt yuv420p"),
        (
            "vp9.webm",
            "-c:v libvpx-vp9 -g 12 -cpu-used 8 -deadline realtime -b:v 2M -pix_fmt yuv420p",
        ),
        ("mpeg4.avi", "-c:v mpeg4 -g 12 -q:v 1"),
    ] {
        let intact = media.clip(name, encoding);
        let damaged = media.blot(&intact, &format!("damaged_{name}"));
        for path in [&intact, &damaged] {
            let one = decoded(path);
            for codec_threads in [2, 5] {
                let options = DecodeOptions { codec_threads, ..DecodeOptions::new(64, 64) };
                let many = decode(path, &options).unwrap();
                assert_eq!(one.outcome, many.outcome, "{}", path.display());
                assert_eq!(one.frames, many.frames, "{}", path.display());
                assert!(one.pixels == many.pixels, "{}: pixels differ", path.display());
            }
        }
    }
}

#[test]
fn a_frame_rate_selects_the_same_frames_as_the_fps_filter() {
    let Some(media) = Media::new() else { return };
    let path = media.clip("in.mp4", "-c:v libx264 -pix_fmt yuv420p");
    for fps in [7.0, 10.0, 15.0, 30.0, 50.0] {
        let options = DecodeOptions { fps: Some(fps), ..DecodeOptions::new(64, 64) };
        let seen = decode(&path, &options).unwrap();
        let expected = media.reference(&path, &format!("fps={fps},{SCALED}"), (64, 64));
        assert_eq!(largest_difference(&seen.pixels, &expected), 0, "{fps} frames/s");
        assert!((seen.frames[3].time_secs - 3.0 / fps).abs() < 1e-9);
        assert_eq!((seen.outcome.decoded, seen.outcome.frames), (60, seen.frames.len() as u64));
    }
}

#[test]
fn crop_and_pad_equal_ffmpegs_filters() {
    let Some(media) = Media::new() else { return };
    let path = media.clip("in.mp4", "-c:v libx264 -pix_fmt yuv420p");
    for (fit, filter) in [
        (Fit::Crop, format!("crop=120:120,{SCALED}")),
        (
            Fit::Pad,
            "scale=64:48:flags=area+accurate_rnd+full_chroma_int+full_chroma_inp,format=rgb24,\
             pad=64:64:0:8:black"
                .into(),
        ),
    ] {
        let options = DecodeOptions { fit, ..DecodeOptions::new(64, 64) };
        let seen = decode(&path, &options).unwrap();
        let expected = media.reference(&path, &filter, (64, 64));
        assert_eq!(largest_difference(&seen.pixels, &expected), 0, "{fit:?}");
    }
}

#[test]
fn padding_uses_the_displayed_proportions() {
    let Some(media) = Media::new() else { return };
    // The pixels are twice as high as wide, so the picture is displayed as 80 x 120.
    let path = media.clip("in.mp4", "-vf setsar=1/2 -c:v libx264 -pix_fmt yuv420p");
    let options = DecodeOptions { fit: Fit::Pad, ..DecodeOptions::new(60, 60) };
    let row = &decode(&path, &options).unwrap().pixels[0][..180];
    assert!(row[..30].iter().chain(&row[150..]).all(|byte| *byte == 0));
    assert!(row[30..150].iter().any(|byte| *byte != 0));
}

#[test]
fn rotated_recordings_are_decoded_upright() {
    let Some(media) = Media::new() else { return };
    let flat = media.clip("flat.mp4", "-c:v libx264 -pix_fmt yuv420p");
    for degrees in [90, 180, 270] {
        let name = format!("turned{degrees}.mp4");
        let flat = flat.to_str().unwrap();
        let path =
            media.make(&name, &format!("-i {flat} -c copy -metadata:s:v:0 rotate={degrees}"));
        let seen = probe(&path, &Limits::default()).unwrap().rotation_degrees;
        // libav 5 and 6 disagree on the direction of this tag.
        assert!(seen == degrees || seen == 360 - degrees, "{seen}");
        let expected = media.reference(&path, SCALED, (64, 64));
        // ffmpeg rotates before it scales, so one more pass is rounded.
        let difference = largest_difference(&decoded(&path).pixels, &expected);
        assert!(difference <= 4, "{degrees} degrees: {difference}");
    }
}

#[test]
fn an_edit_list_removes_the_same_frames_as_in_ffmpeg() {
    let Some(media) = Media::new() else { return };
    let whole = media.clip("whole.mp4", "-c:v libx264 -g 30 -pix_fmt yuv420p");
    let path = media.make("part.mp4", &format!("-ss 0.5 -i {} -c copy", whole.display()));
    let seen = decoded(&path);
    assert_eq!(largest_difference(&seen.pixels, &media.reference(&path, SCALED, (64, 64))), 0);
    assert_eq!((seen.frames.len(), seen.outcome.fault), (45, None));
    assert_eq!(seen.frames[0].time_secs, 0.0);
}

#[test]
fn frames_of_a_raw_stream_are_timed_by_its_frame_rate() {
    let Some(media) = Media::new() else { return };
    let path = media.clip("raw.h264", "-c:v libx264 -bf 3 -pix_fmt yuv420p -f h264");
    let seen = decoded(&path);
    assert_eq!(largest_difference(&seen.pixels, &media.reference(&path, SCALED, (64, 64))), 0);
    assert_eq!((seen.frames.len(), seen.outcome.fault), (60, None));
    let steps = seen.frames.windows(2).map(|pair| pair[1].time_secs - pair[0].time_secs);
    let fps = probe(&path, &Limits::default()).unwrap().fps;
    assert!(
        steps.into_iter().all(|step| (step - 1.0 / fps).abs() < 1e-6),
        "{:?}",
        &seen.frames[..9]
    );
}

#[test]
fn a_change_of_picture_size_is_handled_and_counted() {
    let Some(media) = Media::new() else { return };
    media.clip("small.h264", "-c:v libx264 -pix_fmt yuv420p");
    media.make(
        "large.h264",
        "-f lavfi -i testsrc2=size=320x200:rate=30:duration=1 -c:v libx264 -pix_fmt yuv444p",
    );
    let both = [media.path("small.h264"), media.path("large.h264")]
        .map(|path| std::fs::read(path).unwrap());
    let path = media.write("both.h264", &both.concat());
    let seen = decoded(&path);
    assert_eq!((seen.frames.len(), seen.outcome.resizes, seen.outcome.fault), (90, 1, None));
    assert_eq!(seen.pixels[60..], decoded(&media.path("large.h264")).pixels);
}

#[test]
fn a_single_picture_is_a_video() {
    let Some(media) = Media::new() else { return };
    for name in ["one.mp4", "one.png", "one.jpg", "one.bmp", "one.webp"] {
        let path = media.clip(name, "-frames:v 1");
        let seen = decoded(&path);
        assert_eq!(
            largest_difference(&seen.pixels, &media.reference(&path, SCALED, (64, 64))),
            0,
            "{name}"
        );
        assert_eq!((seen.frames.len(), seen.outcome.fault), (1, None), "{name}");
    }
}

#[test]
fn a_probe_returns_the_properties_of_the_file() {
    let Some(media) = Media::new() else { return };
    let seen =
        probe(&media.clip("in.mp4", "-c:v libx264 -pix_fmt yuv420p"), &Limits::default()).unwrap();
    assert_eq!((seen.codec.as_str(), seen.width, seen.height), ("h264", 160, 120));
    assert_eq!((seen.fps, seen.duration_secs, seen.expected_frames), (30.0, Some(2.0), Some(60)));
    assert!(seen.container.contains("mp4"), "{}", seen.container);
}

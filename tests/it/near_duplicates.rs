//! Near-duplicate videos are found, and left out of stages with `without`.

use std::fs;
use std::path::Path;

use crate::broken_videos::ffmpeg;
use crate::project::Project;

const PIPELINE: &str = "
name: test
workspace: ws
holdout: 3
stages:
  frames: { decode: { videos: ['videos/*'], size: 64, videos_per_shard: 3 } }
  copies: { deduplicate: { frames: frames } }
  model: { train_dynamics: { frames: frames, without: copies, steps: 2, batch: 4 } }
  labels: { label: { frames: frames, dynamics: model, without: copies } }
";

/// Creates a project with five clips of one game and near-duplicates of three of them: one with
/// another size, rate and codec, one cut and in another container, and one identical file. Returns
/// `None` without the ffmpeg command line.
fn with_duplicates() -> Option<Project> {
    let project = Project::new(0);
    fs::write(project.path("pipeline.yaml"), PIPELINE).unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/coinrun");
    let clip = |game: usize| data.join(format!("coinrun_3_{game:03}.mp4"));
    for game in 0..5 {
        fs::copy(clip(game), project.path(&format!("videos/clip_{game}.mp4"))).unwrap();
    }
    fs::copy(clip(4), project.path("videos/same.mp4")).unwrap();
    let made = [
        ("-vf scale=128:128 -r 12 -c:v mpeg4 -q:v 4", 1, "videos/again.avi"),
        ("-ss 1 -c:v libx264 -crf 28", 2, "videos/piece.mkv"),
    ]
    .map(|(how, game, name)| {
        ffmpeg(&format!("-i '{}' {how}", clip(game).display()), &project.path(name))
    });
    if made != [true; 2] {
        println!("skipped: no ffmpeg command line");
        return None;
    }
    Some(project)
}

#[test]
fn near_duplicates_are_rejected_and_left_out_of_training_and_labels() {
    let Some(project) = with_duplicates() else { return };
    let run = project.run(&[]).success();
    assert!(run.stderr.contains("copies: 1 tasks done, 0 re-used, 3 rejects"), "{run:#?}");
    let rejects = project.query("SELECT stage, video, class, reason FROM rejects ORDER BY video");
    let reasons: Vec<(&str, &str)> = rejects
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["video"].as_str().unwrap(), r["reason"].as_str().unwrap()))
        .collect();
    // The duplicate of a pair is the later one by name.
    for ((video, reason), (copy, of)) in reasons.iter().zip([
        ("clip_1.mp4", "again.avi"),
        ("piece.mkv", "clip_2.mp4"),
        ("same.mp4", "clip_4.mp4"),
    ]) {
        assert!(
            video.ends_with(copy) && reason.contains(&format!("those of videos/{of} by 0.00")),
            "{rejects}"
        );
    }
    assert_eq!((reasons.len(), &rejects[0]["class"]), (3, &"near_duplicate".into()));
    let nearest = project.query("SELECT video, distance FROM copies ORDER BY distance");
    assert_eq!(
        (&nearest[0]["video"], nearest[0]["distance"].as_f64()),
        // Identical files have the distance 0.
        (&"videos/same.mp4".into(), Some(0.0)),
        "{nearest}"
    );

    let labelled = project.query("SELECT DISTINCT video FROM labels ORDER BY video");
    let videos: Vec<&str> =
        labelled.as_array().unwrap().iter().map(|row| row["video"].as_str().unwrap()).collect();
    assert_eq!(
        videos,
        [
            "videos/again.avi",
            "videos/clip_0.mp4",
            "videos/clip_2.mp4",
            "videos/clip_3.mp4",
            "videos/clip_4.mp4"
        ]
    );
    project.run_changes_nothing(&[]);

    // Labels without `without`: only the two shards with duplicates are labelled again. Training
    // without it is a changed setting, so a new model is trained.
    fs::write(
        project.path("pipeline.yaml"),
        PIPELINE.replace("dynamics: model, without: copies", "dynamics: model"),
    )
    .unwrap();
    assert_eq!(project.planned(&[])["labels"], (2, 1));
    fs::write(project.path("pipeline.yaml"), PIPELINE.replace(", without: copies", "")).unwrap();
    assert_eq!(project.planned(&[])["model"], (1, 0));
}

#[test]
fn a_new_video_is_the_duplicate_of_an_older_one_whatever_its_name() {
    let Some(project) = with_duplicates() else { return };
    project.run(&[]).success();
    let how = format!(
        "-i '{}' -vf scale=96:96 -c:v libx264 -crf 23",
        project.path("videos/clip_0.mp4").display()
    );
    assert!(ffmpeg(&how, &project.path("videos/a_first_by_name.mp4")));
    let run = project.run(&[]).success();
    // Three tasks: one shard, its near-duplicates, its labels. The model is kept.
    assert!(run.stdout.starts_with("3 tasks: 9 videos (1 new)"), "{run:#?}");
    let late =
        project.query("SELECT reason FROM rejects WHERE video = 'videos/a_first_by_name.mp4'");
    assert!(late[0]["reason"].as_str().unwrap().contains("those of videos/clip_0.mp4"), "{late}");
}

#[test]
fn without_must_name_near_duplicates_of_the_same_frames() {
    let project = Project::new(1);
    let other = "  others: { decode: { videos: ['videos/*'], size: 32 } }\n  \
                 copies: { deduplicate: { frames: others, distance: 2 } }\n";
    fs::write(
        project.path("pipeline.yaml"),
        PIPELINE.replace("  copies: { deduplicate: { frames: frames } }\n", other),
    )
    .unwrap();
    let output = project.run(&[]);
    assert!(
        output.stderr.contains("`copies` belongs to the frames of `others`, not to `frames`"),
        "{output:#?}"
    );
    assert!(output.stderr.contains("stages.copies.deduplicate.distance: is 2"), "{output:#?}");
}

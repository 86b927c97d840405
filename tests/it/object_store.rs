//! Workspaces and videos in an object store: runs against a real S3 server.

use std::fs;
use std::path::Path;
use std::process::Command;

use lapo::dataset::Store;

use crate::project::{CommandOutput, PIPELINE, Project};
use crate::s3_server::{SECRETS, Server, project_in_bucket, server, upload_videos};

/// Parses the output of `lapo query --format json`.
fn rows(output: CommandOutput) -> serde_json::Value {
    serde_json::from_str(&output.success().stdout).unwrap()
}

#[test]
fn a_pipeline_in_a_bucket_gives_the_labels_of_one_in_a_folder() {
    let Some(server) = server() else { return };
    let (project, store) = project_in_bucket(server, "whole", 6);
    let run = |more: &[&str]| server.lapo(&project, &[&["run", "pipeline.yaml"], more].concat());
    let first = run(&["--metrics-file", "lapo.prom", "--log-format", "json"]).success();
    assert!(first.stdout.contains("6 videos (6 new)"), "{first:#?}");
    let again = run(&[]).success();
    assert!(again.stdout.starts_with("0 tasks"), "{again:#?}");

    let local = Project::new(6);
    local.run(&[]).success();
    let workspace = Store::open_with("s3://lapo/whole/ws", store.access()).unwrap();
    let sql = "SELECT frame_index, latent_code, fdm_error FROM labels ORDER BY video, frame_index";
    let query = ["query", sql, "--workspace", "s3://lapo/whole/ws", "--format", "json"];
    assert_eq!(rows(server.lapo(&project, &query)), local.query(sql));

    // One more good video and a broken one.
    project.add(6..7);
    fs::write(project.path("videos/text.mp4"), "this is no video\n".repeat(40)).unwrap();
    upload_videos(&project, &store);
    let more = run(&[]).success();
    assert!(
        more.stdout.contains("8 videos (2 new)") && more.stdout.contains("1 rejects"),
        "{more:#?}"
    );
    let gc = rows(server.lapo(
        &project,
        &["gc", "--workspace", "s3://lapo/whole/ws", "--older-than", "0s", "--format", "json"],
    ));
    assert_eq!(gc["garbage"], serde_json::json!([]), "the runs left garbage");
    assert_no_secret_in(&project, &workspace, &[first, again, more]);
}

/// Searches the output of the runs, the project's files and the bucket for secrets.
fn assert_no_secret_in(project: &Project, store: &Store, runs: &[CommandOutput]) {
    let secret_in = |bytes: &[u8]| {
        SECRETS
            .iter()
            .find(|(_, secret)| bytes.windows(secret.len()).any(|at| at == secret.as_bytes()))
    };
    for output in runs {
        assert_eq!(secret_in(format!("{output:?}").as_bytes()), None, "{output:#?}");
    }
    let mut folders = vec![project.folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                assert_eq!(secret_in(&fs::read(&entry).unwrap()), None, "{}", entry.display());
            }
        }
    }
    for path in store.list("").unwrap() {
        assert_eq!(secret_in(&store.require(&path).unwrap()), None, "{path}");
    }
}

#[test]
fn listed_videos_and_archives_in_a_bucket_are_decoded_in_place() {
    let Some(server) = server() else { return };
    let (project, store) = project_in_bucket(server, "sources", 6);
    assert!(
        Command::new("tar")
            .args(["cf", "clips.tar", "videos"])
            .current_dir(project.folder.path())
            .status()
            .unwrap()
            .success()
    );
    store.create("clips.tar", &fs::read(project.path("clips.tar")).unwrap()).unwrap();
    let listed = store.files("videos").unwrap().into_iter().take(3);
    // In CSV, the quotes of an etag are doubled.
    let rows: String = listed
        .map(|file| {
            format!("s3://lapo/sources/{},{},{:?}\n", file.path, file.bytes, file.etag.unwrap())
        })
        .collect();
    store
        .create("clips.csv", format!("uri,bytes,etag\n{}", rows.replace("\\\"", "\"\"")).as_bytes())
        .unwrap();
    let source = "videos: ['s3://lapo/sources/*.tar'], \
                  lists: ['s3://lapo/sources/clips.csv'], identity: etag";
    fs::write(project.path("pipeline.yaml"), PIPELINE.replace("videos: ['videos/*']", source))
        .unwrap();
    let output = server.lapo(&project, &["run", "pipeline.yaml"]).success();
    assert!(
        output.stdout.contains("9 videos (9 new)") && output.stdout.contains(", 0 rejects"),
        "{output:#?}"
    );
    assert!(
        server.lapo(&project, &["run", "pipeline.yaml"]).success().stdout.starts_with("0 tasks")
    );
    let sql = "SELECT video, count(*) AS n FROM frames GROUP BY video ORDER BY video";
    let counts = row_list(
        &server.lapo(&project, &["query", sql, "--workspace", "ws", "--format", "json"]).success(),
    );
    let count = |name: &str| {
        counts
            .iter()
            .find(|row| row["video"] == *format!("s3://lapo/sources/{name}"))
            .map(|row| row["n"].clone())
    };
    assert_eq!(
        count("clips.tar/videos/maze_1_001.mp4"),
        count("videos/maze_1_001.mp4"),
        "{counts:?}"
    );
    // Three listed videos and six in the archive.
    assert_eq!(counts.len(), 9);
}

/// Parses the output of `lapo query --format json` into rows.
fn row_list(output: &CommandOutput) -> Vec<serde_json::Value> {
    serde_json::from_str(&output.stdout).unwrap()
}

#[test]
fn errors_about_an_address_have_a_hint_and_no_secret() {
    let Some(server) = server() else { return };
    let project = Project::new(1);
    for (workspace, expect) in [
        ("s3://no-such-bucket/ws", "the bucket must exist"),
        ("ftp://host/ws", "`ftp` is not the scheme"),
        ("s3://me:secret-nobody-knows@lapo/ws", "it holds a password"),
    ] {
        let output = server.lapo(&project, &["run", "pipeline.yaml", "--workspace", workspace]);
        assert!(
            output.code == 1
                && output.stderr.contains(expect)
                && !output.stderr.contains("nobody-knows"),
            "{output:#?}"
        );
    }
    let doctor = server.lapo(&project, &["doctor", "--workspace", "s3://lapo/doctor"]);
    assert!(
        doctor.stdout.contains("s3://lapo/doctor can be written, and creates each file once"),
        "{doctor:#?}"
    );
}

/// Creates a bucket with unusable keys, and more other objects than one page of a listing holds.
const ODD_KEYS: &str = "
import sys, boto3
url, video = sys.argv[1:]
s3 = boto3.client('s3', endpoint_url=url, aws_access_key_id='x',
                  aws_secret_access_key='y', region_name='us-east-1')
s3.create_bucket(Bucket='odd')
data = open(video, 'rb').read()
for key in ['v/good.mp4', 'v//odd.mp4', 'v/./odd.mp4', 'v/o\\tdd.mp4',
            'v/.hidden.mp4', 'v/clip [abc].mp4', 'v/zz.mp4', 'w//odd.mp4']:
    s3.put_object(Bucket='odd', Key=key, Body=data)
for key in ['v/marker.mp4/', 'v/empty.mp4'] + ['v/n%04d.txt' % number for number in range(1100)]:
    s3.put_object(Bucket='odd', Key=key, Body=b'')
";

/// Creates the bucket `odd`. Its videos are copies of `video`.
fn create_odd_bucket(server: &Server, video: &Path) {
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let put = Command::new(std::env::var("LAPO_PYTHON").unwrap())
        .args(["-c", ODD_KEYS, &endpoint])
        .arg(video)
        .output()
        .unwrap();
    assert!(put.status.success(), "{put:?}");
}

#[test]
fn an_object_with_an_odd_key_is_rejected_and_all_others_are_decoded() {
    let Some(server) = server() else { return };
    let project = Project::new(1);
    create_odd_bucket(server, &project.path("videos/maze_1_000.mp4"));
    let run = |pattern: &str| {
        let yaml = format!(
            "name: odd\nworkspace: ws\nstages:\n  \
             frames: {{ decode: {{ videos: ['{pattern}'], size: 16, max_dropped: 1 }} }}\n"
        );
        fs::write(project.path("pipeline.yaml"), yaml).unwrap();
        server.lapo(&project, &["run", "pipeline.yaml"])
    };
    let column_by_video = |table: &str, column: &str| {
        let sql = format!("SELECT video, {column} AS it FROM {table} ORDER BY video");
        let rows = project.query(&sql);
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| format!("{} {}", row["video"].as_str().unwrap(), row["it"]))
            .collect::<Vec<_>>()
    };
    run("s3://odd/v/*.mp4").success();
    let rejects = [
        "s3://odd/v/./odd.mp4 \"odd_key\"",
        "s3://odd/v//odd.mp4 \"odd_key\"",
        "s3://odd/v/empty.mp4 \"empty_file\"",
        "s3://odd/v/o\tdd.mp4 \"odd_key\"",
    ];
    assert_eq!(column_by_video("rejects", "class"), rejects);
    // The hidden object and the folder marker match no pattern, so they have no row.
    let good: Vec<String> = column_by_video("videos", "frames > 0")
        .into_iter()
        .filter(|row| row.ends_with("true"))
        .collect();
    assert_eq!(
        good,
        ["s3://odd/v/clip [abc].mp4 true", "s3://odd/v/good.mp4 true", "s3://odd/v/zz.mp4 true"]
    );
    // Brackets are literal if an object has this very key, else a set of characters.
    for (pattern, count) in
        [("s3://odd/v/good.mp4", 1), ("s3://odd/v/clip [abc].mp4", 1), ("s3://odd/**/[gz]*.mp4", 2)]
    {
        run(pattern).success();
        assert_eq!(column_by_video("videos", "frames").len(), count, "{pattern}");
    }
    let missing = run("s3://nobody-has-this/v/*.mp4");
    assert!(
        missing.code == 1
            && missing.stderr.contains("there is no such bucket")
            && !missing.stderr.contains("<Error>"),
        "{missing:#?}"
    );
}

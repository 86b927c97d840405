//! Queries over a small workspace.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::dataset;
use crate::dataset::{
    Commit, Compression, FORMAT, FileInfo, FrameSize, LabelRows, LabelShape, LabelWriter, Receipt,
    Reject, ShardLayout, ShardWriter, VideoName, commit, file_receipt, write_table,
};

mod damage;
mod formats;
mod statements;
mod versions;

/// Makes the store a workspace.
fn claim(store: &Store) {
    let claim = dataset::workspace::Claim {
        pipeline: "p",
        shares_with: &[],
        stages: &[],
        take_over: false,
    };
    dataset::workspace::claim(store, &claim, "id", 0).unwrap();
}

/// Files a task's receipt and commits it as a version.
fn add(store: &Store, stage: &str, kind: &str, files: Vec<FileInfo>, rejects: Vec<Reject>) {
    let receipt = Receipt {
        format: FORMAT,
        key: "key".into(),
        stage: kind.into(),
        attempt: "a".into(),
        fields: dataset::Fields::default(),
        files,
        inputs: vec![],
        videos: vec![],
        rejects,
        stats: std::collections::BTreeMap::new(),
        made: dataset::Provenance::default(),
    };
    file_receipt(store, stage, &receipt).unwrap();
    let settings = serde_json::Map::new();
    let by = Commit {
        stage,
        kind,
        run: "00000001",
        pipeline: "p",
        take_over: false,
        why: "a test",
        settings: &settings,
        since: 0,
        now_unix_ms: 0,
        file_bytes: 1 << 20,
    };
    commit(store, &by, &["key".to_owned()], &Default::default()).unwrap();
}

/// Adds a stage with one shard of ten frames, and one reject.
fn add_frames(store: &Store, stage: &str) {
    claim(store);
    let videos = vec![VideoName { uri: "maze/a.mp4".into(), digest: "d".into() }];
    let layout = ShardLayout {
        size: FrameSize { height: 2, width: 2 },
        compression: Compression::None,
        videos,
    };
    let mut writer =
        ShardWriter::create(store, &format!("{stage}/data/key/a/shard.arrow"), &layout).unwrap();
    writer.begin_video(0).unwrap();
    for frame in 0..10 {
        writer.push(frame / 5, frame, f64::from(frame) / 2.0, &[0; 12]).unwrap();
    }
    let reject = Reject {
        video: "bad.mp4".into(),
        digest: "b".into(),
        class: "truncated".into(),
        reason: "ends early".into(),
        frames_kept: 3,
    };
    add(store, stage, "decode", vec![writer.finish().unwrap()], vec![reject]);
}

/// Adds a stage with three labels.
fn add_labels(store: &Store, stage: &str) {
    claim(store);
    let shape = LabelShape { latent_dim: 4, codes: 2 };
    let path = format!("{stage}/data/key/a/labels.parquet");
    let mut writer = LabelWriter::create(store, &path, shape, &[]).unwrap();
    let labels = LabelRows {
        video: &["maze/a.mp4"; 3],
        video_digest: &["d"; 3],
        episode: &[0; 3],
        frame_index: &[1, 2, 3],
        time_s: &[0.5, 1.0, 1.5],
        horizon: &[1; 3],
        latent_action: &[0.5, -1.0, 0.0, 1e-7, 0.1, 0.2, 0.3, 0.4, 1.0, 2.0, 3.0, 4.0],
        latent_code: &[1, 2, 3, 4, 63, 0],
        fdm_error: Some(&[0.1, 0.2, 0.3]),
        motion: &[0.0, 0.5, 1.0],
        true_action: &[Some(4), None, Some(7)],
        shard: "frames/data/key/a/shard.arrow",
        row: &[1, 2, 3],
    };
    writer.push(&labels).unwrap();
    add(store, stage, "label", vec![writer.finish().unwrap()], vec![]);
}

/// Creates a workspace with frames, labels and metrics.
fn workspace() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    add_frames(&store, "clips");
    add_labels(&store, "order");
    let columns = [
        ("step", dataset::Column::U64(vec![1, 2])),
        ("loss", dataset::Column::F64(vec![Some(0.5), Some(f64::NAN)])),
    ];
    let metrics = write_table(&store, "dynamics/data/key/a/metrics.parquet", &columns).unwrap();
    add(&store, "dynamics", "train_dynamics", vec![metrics], vec![]);
    (folder, store)
}

/// Runs a query and compares its output.
fn check(store: &Store, sql: &str, format: Format, expected: &str) {
    let mut out = Vec::new();
    write(&query(store, sql).unwrap(), format, &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), expected, "{sql}");
}

#[test]
fn every_stage_and_every_short_name_is_a_table() {
    let (_folder, store) = workspace();
    let names: Vec<String> = tables(&store).unwrap().into_iter().map(|table| table.name).collect();
    assert_eq!(names, ["clips", "dynamics", "order", "frames", "labels", "rejects", "videos"]);
    for (sql, rows) in [
        ("SELECT * FROM clips", 10),
        ("SELECT * FROM frames WHERE episode = 1", 5),
        ("SELECT * FROM \"order\"", 3),
        ("SELECT * FROM labels WHERE video LIKE 'maze/%' AND motion > 0.2", 2),
        ("SELECT * FROM dynamics", 2),
        ("SELECT * FROM rejects WHERE class = 'truncated'", 1),
        ("SHOW TABLES", 7),
        ("WITH slow AS (SELECT * FROM labels WHERE motion < 0.2) SELECT * FROM slow", 1),
    ] {
        assert_eq!(query(&store, sql).unwrap().len(), rows, "{sql}");
    }
    // Pixels are too large for SQL.
    assert!(!query(&store, "SELECT * FROM frames").unwrap().columns().contains(&"pixels"));
}

#[test]
fn labels_join_their_frames() {
    let (_folder, store) = workspace();
    let sql = "SELECT l.frame_index, f.time_s, l.true_action FROM labels l \
               JOIN frames f ON l.video = f.video AND l.frame_index = f.frame_index \
               ORDER BY l.frame_index";
    check(&store, sql, Format::Csv, "frame_index,time_s,true_action\n1,0.5,4\n2,1.0,\n3,1.5,7\n");
    let sql = "SELECT video, COUNT(*) AS n, AVG(fdm_error) AS error FROM labels GROUP BY video";
    check(&store, sql, Format::Table, "video       n  error\nmaze/a.mp4  3    0.2\n");
}

#[test]
fn rows_are_counted_without_opening_a_file() {
    let (folder, store) = workspace();
    for file in store
        .list("")
        .unwrap()
        .iter()
        .filter(|path| path.ends_with(".parquet") || path.ends_with(".arrow"))
    {
        // A query that opens a file fails from now on.
        std::fs::remove_file(folder.path().join(file)).unwrap();
    }
    for (sql, expected) in [
        ("SELECT count(*) FROM labels", "count(*)\n3\n"),
        ("SELECT COUNT(*) AS n FROM order@1 AS l", "n\n3\n"),
        ("select count( * ) as n from \"clips\"", "n\n10\n"),
        ("SELECT count(*) AS n FROM frames", "n\n10\n"),
    ] {
        check(&store, sql, Format::Csv, expected);
    }
    for sql in [
        "SELECT count(*) FROM labels WHERE motion > 0",
        "SELECT count(motion) FROM labels",
        "SELECT count(*) FROM labels GROUP BY video",
        "SELECT DISTINCT count(*) FROM labels",
        "SELECT count(*) FROM labels LIMIT 0",
        "SELECT count(*) FROM labels, clips",
        "SELECT count(*) + 1 FROM labels",
        "SELECT count(DISTINCT video) FROM labels",
        "SELECT count(*) OVER () FROM labels",
    ] {
        assert!(query(&store, sql).is_err(), "{sql} must have read the files");
    }
}

#[test]
fn an_ambiguous_short_name_is_an_error() {
    let (_folder, store) = workspace();
    add_labels(&store, "more");
    let error = query(&store, "SELECT * FROM labels").unwrap_err();
    assert_eq!(error.to_string(), "table `labels` could be any of `more`, `order`");
    assert_eq!(query(&store, "SELECT * FROM more").unwrap().len(), 3);
}

#[test]
fn an_empty_workspace_has_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("none").to_str().unwrap()).unwrap();
    assert!(query(&store, "SELECT 1").unwrap_err().hint().unwrap().contains("lapo run"));
    assert!(datasets(&store).unwrap_err().to_string().contains("no lapo.json"));
}

#[test]
fn datasets_have_the_totals_of_their_receipts() {
    let (_folder, store) = workspace();
    let all = datasets(&store).unwrap();
    let shown: Vec<_> =
        all.iter().map(|d| (&d.stage[..], &d.kind[..], d.version, d.rows, d.rejects)).collect();
    assert_eq!(
        shown,
        [
            ("clips", "decode", 1, 10, 1),
            ("dynamics", "train_dynamics", 1, 2, 0),
            ("order", "label", 1, 3, 0)
        ]
    );
}

#[test]
fn many_files_of_an_object_store_are_read_in_batches() {
    let (_folder, store) = workspace();
    let files: Vec<String> = vec!["order/data/key/a/labels.parquet".to_owned(); 5];
    let rows = |most: usize| {
        catalog::scan_copies(&store, &files, most).unwrap().and_then(LazyFrame::collect).unwrap()
    };
    let whole = rows(5);
    assert_eq!(whole.height(), 15);
    for most in [1, 2, 4, 100] {
        assert!(rows(most).equals_missing(&whole), "{most} at a time");
    }
}

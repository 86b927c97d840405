//! Queries over a small workspace, as people and programs ask them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
use super::*;
use crate::dataset;
use crate::dataset::{
    Commit, Compression, FORMAT, FileInfo, FrameSize, LabelRows, LabelShape, LabelWriter, Receipt,
    Reject, ShardLayout, ShardWriter, VideoName, commit, file_receipt, write_table,
};

mod damage;
mod statements;

fn claim(store: &Store) {
    let claim = dataset::workspace::Claim {
        pipeline: "p",
        shares_with: &[],
        stages: &[],
        take_over: false,
    };
    dataset::workspace::claim(store, &claim, "id", 0).unwrap();
}

/// Files a task's receipt and commits it.
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
        made: dataset::Made::default(),
    };
    file_receipt(store, stage, &receipt).unwrap();
    let settings = serde_json::Map::new();
    let (run, pipeline, why) = ("00000001", "p", "a test");
    let by = Commit {
        stage,
        kind,
        run,
        pipeline,
        take_over: false,
        why,
        settings: &settings,
        since: 0,
        now_unix_ms: 0,
        file_bytes: 1 << 20,
    };
    commit(store, &by, &["key".to_owned()], &Default::default()).unwrap();
}

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

fn add_labels(store: &Store, stage: &str) {
    claim(store);
    let shape = LabelShape { latent_dim: 4, codes: 2 };
    let path = format!("{stage}/data/key/a/labels.parquet");
    let mut writer = LabelWriter::create(store, &path, shape, &[]).unwrap();
    let labels = LabelRows {
        video: &["maze/a.mp4"; 3],
        episode: &[0; 3],
        frame_index: &[1, 2, 3],
        time_s: &[0.5, 1.0, 1.5],
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

/// A workspace with frames, labels and metrics.
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

fn check(store: &Store, sql: &str, format: Format, expected: &str) {
    let mut out = Vec::new();
    write(&query(store, sql).unwrap(), format, &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), expected, "{sql}");
}

#[test]
fn every_stage_is_a_table_and_so_are_the_short_names() {
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
    assert!(!query(&store, "SELECT * FROM frames").unwrap().columns().contains(&"pixels"));
}

#[test]
fn labels_join_the_frames_they_are_of() {
    let (_folder, store) = workspace();
    let sql = "SELECT l.frame_index, f.time_s, l.true_action FROM labels l \
               JOIN frames f ON l.video = f.video AND l.frame_index = f.frame_index ORDER BY l.frame_index";
    check(&store, sql, Format::Csv, "frame_index,time_s,true_action\n1,0.5,4\n2,1.0,\n3,1.5,7\n");
    let sql = "SELECT video, COUNT(*) AS n, AVG(fdm_error) AS error FROM labels GROUP BY video";
    check(&store, sql, Format::Table, "video       n  error\nmaze/a.mp4  3    0.2\n");
}

#[test]
fn rows_are_written_for_people_and_for_programs() {
    let (_folder, store) = workspace();
    let sql = "SELECT frame_index, latent_action, latent_code, true_action FROM labels LIMIT 2";
    check(
        &store,
        sql,
        Format::Table,
        "frame_index  latent_action        latent_code  true_action\n\
         \x20         1  [0.5, -1, 0, +1]     [1, 2]                 4\n\
         \x20         2  [0.1, 0.2, 0.3, +1]  [3, 4]                 -\n",
    );
    check(
        &store,
        sql,
        Format::Csv,
        "frame_index,latent_action,latent_code,true_action\n1,\"[0.5,-1.0,0.0,1e-7]\",\"[1,2]\",4\n2,\"[0.1,0.2,0.3,0.4]\",\"[3,4]\",\n",
    );
    check(
        &store,
        sql,
        Format::Json,
        "[{\"frame_index\":1,\"latent_action\":[0.5,-1.0,0.0,1e-7],\"latent_code\":[1,2],\"true_action\":4},{\"frame_index\":2,\"latent_action\":[0.1,0.2,0.3,0.4],\"latent_code\":[3,4],\"true_action\":null}]\n",
    );
    let sql =
        "SELECT video, frame_index > 1 AS later, frame_index / 0.0 AS endless FROM labels LIMIT 1";
    check(
        &store,
        sql,
        Format::Json,
        "[{\"video\":\"maze/a.mp4\",\"later\":false,\"endless\":null}]\n",
    );
    check(&store, "SELECT video FROM labels WHERE frame_index > 9", Format::Json, "[]\n");
    let mut parquet = Vec::new();
    write(&query(&store, "SELECT * FROM labels").unwrap(), Format::Parquet, &mut parquet).unwrap();
    assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"));
    check(
        &store,
        "SELECT * FROM dynamics",
        Format::Json,
        "[{\"step\":1,\"loss\":0.5},{\"step\":2,\"loss\":null}]\n",
    );
}

#[test]
fn a_version_can_be_named_in_the_query_and_for_the_whole_of_it() {
    let (_folder, store) = workspace();
    let at = |sql: &str, versions: &Versions| {
        answer(&store, sql, versions).and_then(Answer::collect).map(|rows| rows.len())
    };
    let newest = Versions::default();
    for sql in [
        "SELECT * FROM labels@1",
        "SELECT * FROM \"labels@1\"",
        "SELECT labels@1.video FROM labels@1",
        "SELECT l.video FROM Labels@1 AS l WHERE l.motion >= 0",
        "WITH x AS (SELECT * FROM order@1) SELECT x.video FROM x",
        "SELECT a.video FROM labels@1 AS a JOIN labels AS b ON a.frame_index = b.frame_index",
    ] {
        assert_eq!(at(sql, &newest).unwrap(), 3, "{sql}");
    }
    for (sql, versions) in [
        ("SELECT * FROM labels@7", newest.clone()),
        ("SELECT count(*) FROM labels@7", newest.clone()),
        ("DESCRIBE order@7", newest.clone()),
        ("SELECT * FROM labels WHERE motion > (SELECT avg(motion) FROM labels@7)", newest.clone()),
        ("SELECT * FROM labels", newest.clone().at("order", 7)),
    ] {
        let error = at(sql, &versions).unwrap_err();
        assert!(
            matches!(&error, Error::NoVersion { stage, version: 7, .. } if stage == "order"),
            "{sql}: {error}"
        );
        assert_eq!(error.hint().unwrap(), "versions here: 1");
    }
    assert_eq!(
        at("SELECT * FROM labels@1", &newest.clone().at("order", 7)).unwrap(),
        3,
        "the query's own word wins"
    );
    assert!(matches!(at("SELECT * FROM videos@1", &newest), Err(Error::Unversioned(_))));
    assert!(
        matches!(at("SELECT 1", &newest.at("labels", 1)), Err(Error::NoStage { .. })),
        "a short name is no stage"
    );
}

#[test]
fn a_run_is_a_snapshot() {
    let (_folder, store) = workspace();
    let record = |version: u64| {
        format!(
            "{{\"id\":\"r\",\"stages\":[{{\"stage\":\"order\",\"version\":{version},\"new\":1}}]}}"
        )
    };
    store.create("runs/100-a.json", record(1).as_bytes()).unwrap();
    store.create("runs/200-b.json", record(9).as_bytes()).unwrap();
    let rows = |run: &str, sql: &str| {
        answer(&store, sql, &Versions::of_run(&store, run)?).and_then(Answer::collect)
    };
    assert_eq!(rows("100-a", "SELECT * FROM labels").unwrap().len(), 3);
    assert!(matches!(
        rows("200-b", "SELECT * FROM labels"),
        Err(Error::NoVersion { version: 9, .. })
    ));
    assert!(matches!(rows("100-a", "SELECT * FROM clips"), Err(Error::NotInRun { .. })));
    let error = rows("300-c", "SELECT * FROM labels").unwrap_err();
    assert_eq!(error.hint().unwrap(), "newest runs here: `200-b`, `100-a`");
    assert!(rows("../100-a", "SELECT 1").is_err());
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
fn rows_beyond_a_limit_are_left_out_and_counted() {
    let (_folder, store) = workspace();
    for format in [Format::Table, Format::Csv, Format::Json, Format::JsonLines, Format::Parquet] {
        let written = |limit: Option<u64>, sql: &str| {
            let mut out = Vec::new();
            let left_out = answer(&store, sql, &Versions::default())
                .unwrap()
                .write(format, limit, &mut out)
                .unwrap();
            (left_out, out)
        };
        let all = "SELECT frame_index FROM frames ORDER BY frame_index";
        assert_eq!(written(Some(4), all).0, 6);
        assert_eq!(written(Some(10), all).0, 0);
        let whole = written(None, all);
        assert_eq!(whole, (0, written(Some(99), all).1));
        let mut collected = Vec::new();
        write(&query(&store, all).unwrap(), format, &mut collected).unwrap();
        assert_eq!(whole.1.len(), collected.len(), "streamed or collected, {format:?}");
        let four = "SELECT frame_index FROM frames ORDER BY frame_index LIMIT 4";
        assert_eq!(written(Some(4), all).1.len(), written(None, four).1.len());
        assert!(
            format == Format::JsonLines || !written(Some(0), all).1.is_empty(),
            "{format:?} has a header, or an end"
        );
    }
}

#[test]
fn json_lines_are_one_object_each() {
    let (_folder, store) = workspace();
    let mut out = Vec::new();
    let rows = answer(
        &store,
        "SELECT frame_index, latent_code, true_action FROM labels",
        &Versions::default(),
    )
    .unwrap();
    rows.write(Format::JsonLines, Some(2), &mut out).unwrap();
    let expected = "{\"frame_index\":1,\"latent_code\":[1,2],\"true_action\":4}\n{\"frame_index\":2,\"latent_code\":[3,4],\"true_action\":null}\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn a_reader_who_leaves_ends_the_query() {
    struct Leaves(usize);
    impl std::io::Write for Leaves {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (_folder, store) = workspace();
    for format in [Format::Table, Format::Csv, Format::Json, Format::JsonLines, Format::Parquet] {
        for bytes in [0, 20, 100] {
            let answer = answer(
                &store,
                "SELECT f.*, l.motion FROM frames f CROSS JOIN labels l",
                &Versions::default(),
            );
            let error = answer
                .and_then(|answer| answer.write(format, None, &mut Leaves(bytes)))
                .unwrap_err();
            assert!(
                matches!(&error, Error::Write(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe),
                "{format:?}: {error}"
            );
        }
    }
}

#[test]
fn a_short_name_of_two_stages_is_refused_with_both() {
    let (_folder, store) = workspace();
    add_labels(&store, "more");
    let error = query(&store, "SELECT * FROM labels").unwrap_err();
    assert_eq!(error.to_string(), "table `labels` could be any of `more`, `order`");
    assert_eq!(query(&store, "SELECT * FROM more").unwrap().len(), 3);
}

#[test]
fn an_empty_workspace_says_how_to_fill_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("none").to_str().unwrap()).unwrap();
    assert!(query(&store, "SELECT 1").unwrap_err().hint().unwrap().contains("lapo run"));
    assert!(datasets(&store).unwrap_err().to_string().contains("no lapo.json"));
}

#[test]
fn datasets_are_counted_from_their_receipts() {
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
fn many_files_of_an_object_store_are_read_some_at_a_time() {
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

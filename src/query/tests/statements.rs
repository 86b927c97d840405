//! Supported and refused statements, and how names are resolved.

use super::*;

#[test]
fn a_wrong_query_names_the_error_and_the_existing_names() {
    let (_folder, store) = workspace();
    for (sql, message, hint) in [
        (
            "SELECT * FROM lables",
            "no table is called `lables`",
            "did you mean `labels`? tables here: `clips`",
        ),
        (
            "SELECT * FROM information_schema.tables",
            "`information_schema.tables`",
            "tables here: `clips`",
        ),
        (
            "SELECT motoin FROM labels",
            "no column is called `motoin`",
            "did you mean `motion`? columns of `labels`: `video`, ",
        ),
        (
            "SELECT l.motoin FROM labels AS l",
            "no column is called `motoin`",
            "did you mean `motion`?",
        ),
        ("SELECT video FROM labels WHERE FDM_EROR > 1", "`FDM_EROR`", "did you mean `fdm_error`?"),
        ("SELECT speed FROM labels", "`speed`", "columns of `labels`: `video`"),
        (
            "SELECT lossy FROM clips c JOIN dynamics f ON c.episode = f.step",
            "`lossy`",
            "did you mean `loss`? columns of `clips`",
        ),
        ("SELEKT 1", "SELEKT", "SELECT"),
        ("SELECT * FROM labels WHERE", "xpected", "SELECT"),
        ("", "an empty query", "SELECT"),
        ("SELECT 1; SELECT 2", "several statements", "SELECT"),
    ] {
        let error = query(&store, sql).unwrap_err();
        assert!(error.to_string().contains(message), "{sql}: {error}");
        assert!(error.hint().unwrap().contains(hint), "{sql}: {:?}", error.hint());
    }
    let far = query(&store, "SELECT speed FROM labels").unwrap_err().hint().unwrap();
    // A name without a similar one gets no suggestion.
    assert!(!far.contains("did you mean"), "{far}");
}

#[test]
fn statements_that_write_or_read_other_files_are_refused() {
    let (_folder, store) = workspace();
    for sql in [
        "DROP TABLE labels",
        "DROP TABLE IF EXISTS nothing",
        "CREATE TABLE x AS SELECT * FROM labels",
        "DELETE FROM labels",
        "INSERT INTO labels VALUES (1)",
        "UPDATE labels SET motion = 1",
        "TRUNCATE TABLE labels",
        "TRUNCATE TABLE IF EXISTS nothing",
        "EXPLAIN SELECT * FROM labels",
        "EXPLAIN labels",
        "DESCRIBE SELECT * FROM labels",
        "ALTER TABLE labels ADD COLUMN x INT",
        "SELECT * INTO x FROM labels",
        "WITH x AS (DELETE FROM labels) SELECT * FROM x",
        "SELECT * FROM read_parquet('/etc/passwd')",
        "SELECT * FROM READ_CSV('/etc/passwd')",
        "SELECT * FROM \"read_csv\"('/etc/passwd')",
        "SELECT * FROM read_json('x.json') AS x",
        "SELECT * FROM read_ipc('x.arrow')",
        "SELECT * FROM anything_new('x')",
        "WITH x AS (SELECT * FROM read_csv('/etc/passwd')) SELECT * FROM x",
        "SELECT * FROM (SELECT * FROM read_csv('/etc/passwd')) AS x",
        "SELECT * FROM labels JOIN read_csv('/etc/passwd') AS x ON labels.video = x.a",
        "SELECT * FROM labels WHERE video IN (SELECT a FROM read_csv('/etc/passwd'))",
        "SELECT * FROM labels UNION ALL SELECT * FROM read_csv('/etc/passwd')",
        "SELECT (SELECT max(a) FROM read_csv('/etc/passwd')) FROM labels",
        "SELECT * FROM TABLE(read_csv('/etc/passwd'))",
        "SELECT * FROM LATERAL read_csv('/etc/passwd')",
        "SHOW COLUMNS FROM labels LIKE 'v%'",
    ] {
        let error = query(&store, sql).unwrap_err();
        assert!(matches!(error, Error::Refused { .. } | Error::Syntax { .. }), "{sql}: {error}");
        assert!(!error.hint().unwrap().is_empty());
    }
    let error = query(&store, "DROP TABLE labels").unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot run the query: found `DROP`, expected a statement that only reads, because \
         datasets are read-only"
    );
    for sql in [
        // The engine would read a file with such a name.
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM \"/etc/passwd\"",
        "SELECT * FROM labels.parquet",
    ] {
        assert!(matches!(query(&store, sql), Err(Error::NoTable { .. })), "{sql}");
    }
}

#[test]
fn describe_lists_the_columns_of_a_table() {
    let (_folder, store) = workspace();
    let expected = "column_name,column_type\nstep,i64\nloss,f64\n";
    for sql in [
        "DESCRIBE dynamics",
        "DESC dynamics",
        "DESCRIBE Dynamics",
        "SHOW COLUMNS FROM dynamics",
        "SHOW COLUMNS IN dynamics@1",
    ] {
        check(&store, sql, Format::Csv, expected);
    }
    assert!(matches!(query(&store, "DESCRIBE dynamic"), Err(Error::NoTable { .. })));
}

#[test]
fn tables_of_a_query_are_listed_without_its_own_names() {
    let asked = |sql: &str| {
        let all = table_names(sql).unwrap().into_iter();
        all.map(|one| {
            one.version.map_or(one.name.clone(), |version| format!("{}#{version}", one.name))
        })
        .collect::<Vec<_>>()
    };
    for (sql, tables) in [
        ("SELECT 1", vec![]),
        ("SHOW TABLES", vec![]),
        ("DESCRIBE labels@3", vec!["labels#3"]),
        (
            "SELECT * FROM labels@3 JOIN labels ON 1 = 1 JOIN \"labels@3\" AS b ON 1 = 1",
            vec!["labels#3", "labels"],
        ),
        ("SELECT * FROM \"my-stage@12\"", vec!["my-stage#12"]),
        ("SELECT * FROM \"a@b\"", vec!["a@b"]),
        ("SELECT * FROM labels UNION ALL TABLE frames", vec!["labels", "frames"]),
        (
            "WITH a AS (SELECT * FROM x), b AS (SELECT * FROM A JOIN b ON 1 = 1) SELECT * FROM a, \
             b, c",
            vec!["x", "b", "c"],
        ),
        (
            "WITH x AS (WITH y AS (SELECT * FROM p) SELECT * FROM y) SELECT * FROM x, y",
            vec!["p", "y"],
        ),
        (
            "SELECT * FROM t WHERE v IN (WITH w AS (SELECT * FROM u) SELECT v FROM w) AND v IN \
             (SELECT v FROM w)",
            vec!["t", "u", "w"],
        ),
    ] {
        assert_eq!(asked(sql), tables, "{sql}");
    }
}

#[test]
fn a_name_that_a_query_defines_hides_a_table() {
    let (_folder, store) = workspace();
    for (sql, expected) in [
        (
            "WITH labels AS (SELECT * FROM labels WHERE motion > 0.2) SELECT count(*) AS n FROM \
             labels",
            "n\n2\n",
        ),
        ("WITH frames AS (SELECT 1 AS x) SELECT frames.x FROM frames", "x\n1\n"),
        (
            "WITH Few AS (SELECT * FROM labels LIMIT 1) SELECT few.frame_index FROM FEW AS few",
            "frame_index\n1\n",
        ),
        (
            "SELECT labels.frame_index FROM (SELECT * FROM labels WHERE motion = 1) AS labels",
            "frame_index\n3\n",
        ),
        (
            "WITH x AS (SELECT 1 AS a) SELECT count(*) AS n FROM x WHERE a IN (SELECT frame_index \
             FROM labels)",
            "n\n1\n",
        ),
    ] {
        check(&store, sql, Format::Csv, expected);
    }
}

#[test]
fn latent_actions_are_indexed_from_one() {
    let (_folder, store) = workspace();
    for (sql, expected) in [
        ("SELECT latent_code[1] AS a, latent_code[2] AS b FROM labels LIMIT 1", "a,b\n1,2\n"),
        ("SELECT frame_index FROM labels WHERE latent_code[1] = 63", "frame_index\n3\n"),
        (
            "SELECT array_get(latent_code, 2) AS a, latent_code[9] AS none FROM labels LIMIT 1",
            "a,none\n2,\n",
        ),
        ("SELECT latent_action[4] AS a FROM labels ORDER BY a LIMIT 1", "a\n1e-7\n"),
        (
            "SELECT latent_code[1], count(*) AS n FROM labels GROUP BY latent_code[1] ORDER BY n \
             DESC, 1 LIMIT 1",
            "latent_code[1],n\n1,1\n",
        ),
        (
            "SELECT array_length(latent_action) AS n, array_sum(latent_code) AS s FROM labels \
             LIMIT 1",
            "n,s\n4,3\n",
        ),
        ("SELECT array_to_string(latent_code, '-') AS codes FROM labels LIMIT 1", "codes\n1-2\n"),
        (
            "SELECT l.latent_code[2] AS b FROM labels AS l WHERE l.latent_code[2] > 2 ORDER BY \
             frame_index",
            "b\n4\n",
        ),
    ] {
        check(&store, sql, Format::Csv, expected);
    }
}

#[test]
fn unnamed_results_are_named_after_their_text() {
    let (_folder, store) = workspace();
    for (sql, expected) in [
        ("SELECT count(*) FROM labels", "count(*)\n3\n"),
        (
            "SELECT median(motion), quantile_cont(motion, 0.5), max(motion) FROM labels",
            "median(motion),\"quantile_cont(motion, 0.5)\",max(motion)\n0.5,0.5,1.0\n",
        ),
        ("SELECT corr(motion, time_s) FROM labels", "\"corr(motion, time_s)\"\n1.0\n"),
        ("SELECT max(motion), max(motion) FROM labels", "max(motion),max(motion)_1\n1.0,1.0\n"),
        (
            "SELECT video, video, video AS video_1 FROM labels LIMIT 1",
            "video,video_2,video_1\nmaze/a.mp4,maze/a.mp4,maze/a.mp4\n",
        ),
        (
            "SELECT episode + 1, count(*) FROM labels GROUP BY episode + 1",
            "episode + 1,count(*)\n1,3\n",
        ),
        (
            "SELECT episode, count(*) FROM labels GROUP BY 1 ORDER BY count(*) DESC",
            "episode,count(*)\n0,3\n",
        ),
        ("SELECT count(*) AS motion FROM labels WHERE motion > 0", "motion\n2\n"),
        (
            "SELECT 1, 'it''s', 'a''''b', \"motion\" FROM labels LIMIT 1",
            "1,'it''s','a''''b',motion\n1,it's,a''b,0.0\n",
        ),
        (
            "SELECT a.frame_index, b.frame_index FROM labels a JOIN clips b ON a.frame_index = \
             b.frame_index ORDER BY 1 LIMIT 1",
            "frame_index,frame_index:b\n1,1\n",
        ),
    ] {
        check(&store, sql, Format::Csv, expected);
    }
}

#[test]
fn grouped_rows_are_ordered_by_their_results() {
    let (_folder, store) = workspace();
    for (sql, expected) in [
        (
            "SELECT episode, count(*) FROM clips WHERE frame_index < 8 GROUP BY episode ORDER BY \
             count(*)",
            "episode,count(*)\n1,3\n0,5\n",
        ),
        (
            "SELECT episode, COUNT(*) AS n FROM clips WHERE frame_index < 8 GROUP BY episode \
             ORDER BY count(*)",
            "episode,n\n1,3\n0,5\n",
        ),
        (
            "SELECT episode, avg(time_s) FROM clips GROUP BY episode ORDER BY avg(time_s) DESC \
             LIMIT 1",
            "episode,avg(time_s)\n1,3.5\n",
        ),
        (
            "SELECT frame_index % 3 FROM clips ORDER BY frame_index % 3 DESC LIMIT 1",
            "frame_index % 3\n2\n",
        ),
        (
            "SELECT * FROM (SELECT episode, max(time_s) FROM clips GROUP BY episode ORDER BY \
             max(time_s) DESC LIMIT 1) AS x",
            "episode,max(time_s)\n1,4.5\n",
        ),
    ] {
        check(&store, sql, Format::Csv, expected);
    }
    let error = query(&store, "SELECT episode FROM clips GROUP BY episode ORDER BY count(*) DESC")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("found `ORDER BY count(*)`, expected one of the results: add it to SELECT"),
        "{error}"
    );
}

#[test]
fn names_ignore_case() {
    let (_folder, store) = workspace();
    for (sql, expected) in [
        (
            "select VIDEO, Motion from LABELS where FRAME_INDEX = 3",
            "video,motion\nmaze/a.mp4,1.0\n",
        ),
        ("SELECT L.Motion FROM Labels AS l WHERE L.frame_index = 3", "motion\n1.0\n"),
        (
            "SELECT Labels.MOTION AS m FROM labels WHERE labels.frame_index = 3 ORDER BY M",
            "m\n1.0\n",
        ),
        ("SELECT count(*) AS N FROM LABELS", "N\n3\n"),
        ("SELECT motion AS Video FROM labels WHERE video = 'maze/a.mp4' LIMIT 1", "Video\n0.0\n"),
    ] {
        check(&store, sql, Format::Csv, expected);
    }
}

//! Versions of tables: named in the query, selected for the whole query, or taken from a run.

use super::*;

#[test]
fn versions_are_selected_per_table_or_for_the_whole_query() {
    let (_folder, store) = workspace();
    let at = |sql: &str, versions: &Versions| {
        answer(&store, sql, versions).and_then(QueryResult::collect).map(|rows| rows.len())
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
        // Counting needs no rows, but the version must exist.
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
        "a version in the query takes precedence"
    );
    assert!(matches!(at("SELECT * FROM videos@1", &newest), Err(Error::Unversioned(_))));
    assert!(
        matches!(at("SELECT 1", &newest.at("labels", 1)), Err(Error::NoStage { .. })),
        "a short name is no stage"
    );
}

#[test]
fn a_run_selects_the_versions_at_its_end() {
    let (_folder, store) = workspace();
    let record = |version: u64| {
        format!(
            "{{\"id\":\"r\",\"stages\":[{{\"stage\":\"order\",\"version\":{version},\"new\":1}}]}}"
        )
    };
    store.create("runs/100-a.json", record(1).as_bytes()).unwrap();
    store.create("runs/200-b.json", record(9).as_bytes()).unwrap();
    let rows = |run: &str, sql: &str| {
        answer(&store, sql, &Versions::of_run(&store, run)?).and_then(QueryResult::collect)
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

//! Queries in a workspace with a damaged manifest.

use super::*;

#[test]
fn a_damaged_stage_fails_only_the_queries_that_read_it() {
    let (folder, store) = workspace();
    let manifest = "order/manifests/0000000001.json";
    // A manifest that was cut off.
    std::fs::write(folder.path().join(manifest), "{ \"format\": 2").unwrap();
    for (sql, rows) in [
        ("SELECT * FROM clips", 10),
        ("SELECT count(*) FROM dynamics", 1),
        ("DESCRIBE clips", 5),
        ("SHOW TABLES", 5),
    ] {
        assert_eq!(query(&store, sql).unwrap().len(), rows, "{sql}");
    }
    // The tables of the damaged stage are unknown: a short name may mean one of them, and `videos`
    // and `rejects` combine all stages.
    let reads_it = [
        "\"order\"",
        "\"order@1\"",
        "ORDER_metrics",
        "labels",
        "Frames",
        "videos",
        "rejects",
        "clips JOIN labels USING (video)",
    ];
    for from in reads_it {
        for what in ["*", "count(*)"] {
            let sql = format!("SELECT {what} FROM {from}");
            let error = query(&store, &sql).unwrap_err().to_string();
            assert!(error.contains(manifest), "{sql}: {error}");
        }
    }
    assert!(matches!(query(&store, "SELECT * FROM clip").unwrap_err(), Error::NoTable { .. }));
    let damaged = |info: DatasetInfo| (info.stage, info.damage.is_some());
    let all: Vec<(String, bool)> = datasets(&store).unwrap().into_iter().map(damaged).collect();
    assert_eq!(
        all,
        [("clips".to_owned(), false), ("dynamics".to_owned(), false), ("order".to_owned(), true)]
    );
    check(
        &store,
        "SHOW COLUMNS FROM dynamics",
        Format::Csv,
        "column_name,column_type\nstep,i64\nloss,f64\n",
    );
    assert!(
        inspect(&store, "clips").is_ok()
            && inspect(&store, "order").unwrap_err().to_string().contains(manifest)
    );
}

//! Other programs read the labels of a workspace after relabelling, a killed run and `lapo gc`.
//!
//! `LAPO_PYTHON` names the Python, as in `readers`.

use std::time::Duration;

use crate::project::Project;
use crate::python::passes;

/// Compares the rows of every reader with `lapo query`, for the newest and the first version.
const CHECK: &str = r#"
import sys, subprocess, polars as pl, pyarrow.dataset as ds, duckdb
from deltalake import DeltaTable
lapo, workspace, *answers = sys.argv[1:]
table = workspace + "/labels"
order = ["video", "frame_index"]

def same(rows, want, reader):
    assert rows.columns == want.columns, (reader, rows.columns)
    rows = rows.cast(dict(want.schema)).sort(order)
    assert rows.equals(want.sort(order), null_equal=True), (reader, rows, want)

for at, answer in zip([[], ["--at", "1"]], answers):
    want = pl.read_parquet(answer)
    assert want.height > 0
    version = {} if not at else {"version": 0}
    same(pl.scan_delta(table, **version).collect(), want, "scan_delta")
    lake = DeltaTable(table, **version)
    same(pl.from_arrow(lake.to_pyarrow_table()), want, "deltalake")
    command = [lapo, "files", "labels", *at, "--workspace", workspace]
    listed = subprocess.check_output(command, text=True).splitlines()
    assert sorted(listed) == sorted(lake.file_uris()), (listed, lake.file_uris())
    same(pl.scan_parquet(listed, glob=False).collect(), want, "polars")
    same(pl.from_arrow(ds.dataset(listed).to_table()), want, "pyarrow")
    selected = duckdb.execute("select * from read_parquet(?)", [listed]).to_arrow_table()
    same(pl.from_arrow(selected), want, "duckdb")
assert not pl.read_parquet(answers[0]).equals(pl.read_parquet(answers[1]))
print("read by polars", pl.__version__, "and duckdb", duckdb.__version__)
"#;

#[test]
fn readers_agree_on_every_version_after_a_relabelling_a_kill_and_a_gc() {
    let project = Project::new(8);
    project.run(&[]).success();
    project.run(&["--set", "steps=5"]).success();
    // Kills a third relabelling at several moments and collects its garbage.
    for millis in [200, 400, 600] {
        let mut child = project
            .command(&["run", "pipeline.yaml", "--set", "steps=400", "--checkpoint-secs", "0"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    project.lapo(&["gc", "--workspace", "ws", "--older-than", "0s", "--delete"]).success();
    let answers =
        [("labels", "newest.parquet"), ("labels@1", "first.parquet")].map(|(table, file)| {
            project
                .lapo(&[
                    "query",
                    &format!("SELECT * FROM {table}"),
                    "--workspace",
                    "ws",
                    "-o",
                    file,
                ])
                .success();
            project.path(file)
        });
    // The answers of `lapo query` are the expected rows.
    let [newest, first] = answers;
    passes(CHECK, [env!("CARGO_BIN_EXE_lapo").into(), project.path("ws"), newest, first]);
}

//! Files of every form, read back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Float64Array, Int8Array, ListArray, StringArray};
use parquet::arrow::arrow_writer::ArrowWriter;

use super::*;

fn csv(text: &str) -> Result<ActionRows, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("actions.csv");
    std::fs::write(&path, text).unwrap();
    ActionRows::read_file(&path)
        .map_err(|error| error.to_string().split("`: ").nth(1).unwrap().to_owned())
}

#[test]
fn csv_has_one_action_column_or_one_column_per_axis() {
    let rows = csv("video, frame_index, action, reward\na.mp4, 0, 3, 0.5\na.mp4, 1, 4,\n").unwrap();
    assert_eq!((rows.axes, rows.discrete, rows.reward), (0, vec![3, 4], vec![Some(0.5), None]));
    let rows = csv("frame_index,video,action_0,action_1\n7,b.mp4,0.5,1\n").unwrap();
    assert_eq!((rows.axes, rows.frame_index, rows.continuous), (2, vec![7], vec![0.5, 1.0]));
    let rows = csv("video,frame_index,action\na,0,1\na,1,0.25\n").unwrap();
    assert_eq!((rows.axes, rows.continuous), (1, vec![1.0, 0.25]));
}

/// Reads CSV with these actions, separated by spaces.
fn csv_of_actions(actions: &str) -> ActionRows {
    let lines: String = actions
        .split(' ')
        .enumerate()
        .map(|(frame, action)| format!("a,{frame},{action}\n"))
        .collect();
    csv(&format!("video,frame_index,action\n{lines}")).unwrap()
}

/// Reads Parquet with these actions.
fn parquet_of_actions(actions: ArrayRef) -> ActionRows {
    let frames = Float64Array::from_iter_values((0..actions.len()).map(|frame| frame as f64));
    let columns: [(&str, ArrayRef); 3] = [
        ("video", Arc::new(StringArray::from(vec!["a"; actions.len()]))),
        ("frame_index", Arc::new(frames)),
        ("action", actions),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let file = File::create(&path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    ActionRows::read_file(&path).unwrap()
}

fn assert_kinds(cases: &[(ActionRows, &str)]) {
    for (rows, kind) in cases {
        assert_eq!(rows.kind(), *kind);
        assert_eq!(rows.axes == 0, kind.starts_with("discrete"), "{kind}");
    }
}

#[test]
fn whole_numbers_in_csv_are_discrete_with_or_without_a_decimal_point() {
    assert_kinds(&[
        (csv_of_actions("1 2 2"), "discrete, 2 values"),
        (csv_of_actions("1.0 2.0 1"), "discrete, 2 values"),
        (csv_of_actions("1e0 3"), "discrete, 2 values"),
        (csv_of_actions("1.0 0.5"), "continuous, 1 number each, since frame 1 of `a` has 0.5"),
        (csv_of_actions("1.0 -1"), "continuous, 1 number each, since frame 1 of `a` has -1"),
    ]);
}

#[test]
fn whole_numbers_in_parquet_are_discrete_in_any_column_but_lists() {
    let floats = |numbers: &[f64]| Arc::new(Float64Array::from(numbers.to_vec()));
    let floats32 = Arc::new(Float32Array::from(vec![0.0, 7.0]));
    let bytes = Arc::new(Int8Array::from(vec![0, 7]));
    let rows = [Some([Some(1.0)]), Some([Some(2.0)])];
    let lists = Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(rows));
    assert_kinds(&[
        (parquet_of_actions(floats(&[3.0, 3.0])), "discrete, 1 value"),
        (
            parquet_of_actions(floats(&[3.0, 0.25])),
            "continuous, 1 number each, since frame 1 of `a` has 0.25",
        ),
        (parquet_of_actions(floats32), "discrete, 2 values"),
        (parquet_of_actions(bytes), "discrete, 2 values"),
        (parquet_of_actions(lists), "continuous, 1 number each"),
    ]);
}

#[test]
fn errors_in_csv_name_the_line() {
    assert_eq!(csv("video,action\n").unwrap_err(), "it has no column `frame_index`");
    assert_eq!(
        csv("video,frame_index,action\na,0,1\na,-1,1\n").unwrap_err(),
        "line 3: `frame_index` is `-1`"
    );
    assert_eq!(
        csv("video,frame_index,action\na,0,jump\n").unwrap_err(),
        "line 2: `action` is `jump`"
    );
    assert_eq!(
        csv("video,frame_index,action\na,0,NaN\n").unwrap_err(),
        "line 2: `action` is `NaN`"
    );
    assert!(csv("video,frame_index,action\na,0\n").unwrap_err().contains("2 fields"));
}

#[test]
fn continuous_actions_survive_a_round_trip_through_a_workspace() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let rows = csv("video,frame_index,action_0,action_1,reward\na,0,0.5,1,2\na,1,-3,4,\n").unwrap();
    let path = "s/data/k/a/actions.parquet";
    rows.clone().write(&store, path).unwrap();
    assert_eq!(ActionRows::read(&store, &[path.to_owned()]).unwrap(), rows);
}

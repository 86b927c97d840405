//! `schemas/` is what the code says, and `pipelines/` are pipelines.

use std::fs;
use std::path::Path;

use lapo::pipeline;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn committed_schemas_equal_the_code() {
    for (name, text) in lapo::cli::schema::all() {
        let path = root().join("schemas").join(name);
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "{} is not what the code says: lapo schema --write schemas",
            path.display()
        );
    }
    assert_eq!(
        fs::read_dir(root().join("schemas")).unwrap().count(),
        lapo::cli::schema::all().len()
    );
}

#[test]
fn every_example_pipeline_is_planned() {
    let workspace = tempfile::tempdir().unwrap();
    let store = lapo::dataset::Store::open(workspace.path().to_str().unwrap()).unwrap();
    for entry in fs::read_dir(root().join("pipelines")).unwrap() {
        let path = entry.unwrap().path();
        let checked = pipeline::load(path.to_str().unwrap(), &[], store.access())
            .unwrap_or_else(|e| panic!("{e}"));
        let options = pipeline::plan::PlanOptions::default();
        let plans =
            pipeline::plan::Planner::new(&checked, &store, &options).unwrap().plan_all().unwrap();
        assert!(plans.iter().all(|plan| plan.new_tasks() > 0), "{}", path.display());
        assert!(plans[0].new_videos() > 0, "{}", path.display());
    }
    assert_eq!(fs::read_dir(workspace.path()).unwrap().count(), 0, "a plan writes nothing");
}

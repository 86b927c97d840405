//! Tests with random settings: a second run of any pipeline changes nothing, and a job survives a
//! round trip through a plan.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::check::check;
use super::plan::{PlanOptions, Planner, StagePlan};
use super::reporter::Reporter;
use super::run::run;
use super::spec::{KINDS, PipelineSpec};
use super::summary::StageSummary;
use crate::dataset::{
    Access, HashMap, Manifest, Receipt, Store, faulty_store, find_receipts, receipt_path,
};
use crate::executor::Resources;
use crate::stages::Progress;

mod made_up_receipts;
mod random_settings;

use made_up_receipts::FilesOnly;
pub(super) use made_up_receipts::{output_names, video_records};
use random_settings::Draw;

/// Number of drawn settings, each for one stage.
const SETTINGS: usize = 2_000;

/// Panics if a stage has anything to do.
struct ExpectIdle;

impl Reporter for ExpectIdle {
    fn stage_started(&self, plan: &StagePlan, _: u64) -> Box<dyn Progress> {
        panic!("{} has something to do", plan.stage)
    }

    fn stage_ended(&self, _: &StageSummary) {}
}

/// Expects an idle pipeline whose datasets consist of the tasks `done`.
fn expect_done(text: &str, store: &Store, done: &[(String, Vec<String>)]) {
    let checked = check("p.yaml", text, &[], &Access::default()).unwrap();
    let plans = Planner::new(&checked, store, &PlanOptions::default()).unwrap().plan_all().unwrap();
    for (plan, (stage, keys)) in plans.iter().zip(done) {
        assert_eq!(plan.stage, *stage);
        assert!(!plan.changes() && plan.new_tasks() == 0, "{stage}: {}\n{text}", plan.reasons());
        assert_eq!((plan.tasks.keys(), plan.version()), (keys.clone(), Some(1)), "{stage}\n{text}");
        assert!(plan.damaged.is_empty());
    }
    let resources = Resources {
        devices: vec![],
        threads: 1,
        decoder: None,
        games: vec![],
        stop: Default::default(),
    };
    let summary = run(&checked, store, &PlanOptions::default(), &resources, &ExpectIdle).unwrap();
    assert_eq!(summary.run, "", "{text}");
    assert!(summary.stages.iter().all(|stage| !stage.changed && stage.version == 1), "{text}");
}

/// Expects the filed receipts in the packs.
fn expect_packed(store: &Store, stage: &str, keys: &[String]) {
    let filed: Vec<Receipt> =
        find_receipts(store, stage, keys).unwrap().into_iter().map(Option::unwrap).collect();
    let packed = Manifest::newest(store, stage).unwrap().unwrap().receipts(store).unwrap();
    assert!(packed.iter().map(|receipt| &**receipt).eq(&filed), "{stage}");
}

#[test]
fn a_second_run_changes_nothing_with_any_settings() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.mp4", "b.mp4", "c.mp4", "actions.csv", "model.safetensors"] {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    let schema = Value::from(schemars::schema_for!(PipelineSpec));
    let mut draw = Draw { schema: &schema, random: ChaCha8Rng::seed_from_u64(35) };
    let mut counts = BTreeMap::new();
    while counts.values().sum::<usize>() < SETTINGS {
        let text = draw.pipeline(folder.path().to_str().unwrap(), &mut counts);
        let store = faulty_store(&[]);
        let checked = check("p.yaml", &text, &[], &Access::default()).unwrap();
        let done = FilesOnly { store: &store, videos: HashMap::default() }.run(&checked);
        expect_done(&text, &store, &done);
        for (stage, keys) in &done {
            expect_packed(&store, stage, keys);
            // A receipt that is newer than the version is read on its own, not from a pack.
            for path in keys.iter().map(|key| receipt_path(stage, key)) {
                let bytes = store.require(&path).unwrap();
                store.delete(&path).unwrap();
                store.create(&path, &bytes).unwrap();
            }
        }
        expect_done(&text, &store, &done);
    }
    assert!(KINDS.iter().all(|kind| counts[kind] >= SETTINGS / KINDS.len() / 3), "{counts:?}");
}

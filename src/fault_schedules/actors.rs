//! The users of a schedule: runs, engines, collectors, readers and others.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::world::{World, label_rows};
use super::{VIDEOS, options, resources};
use crate::dataset::gc::{Keep, delete, survey};
use crate::dataset::{self, StepScheduler, Store, roll_back, runs, versions};
use crate::pipeline;
use crate::pipeline::partitions::{self, Missing};
use crate::pipeline::reporter::SilentReporter;
use crate::pipeline::run::run;
use crate::pipeline::summary::StageSummary;

/// A user of the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Actor {
    /// `lapo run`.
    Run,
    /// An external engine: `lapo plan`, `worker` and `commit`, until nothing changes.
    Engine,
    /// `lapo gc --delete` of all but the newest version, of any age.
    Collector,
    /// Queries.
    Reader,
    /// Adds videos to the folder and removes others.
    Videos,
    /// `lapo rollback`.
    Rollback,
}

/// One schedule: the users take turns.
pub(super) struct Schedule<'a> {
    pub world: &'a World,
    pub turns: Arc<StepScheduler>,
    /// The stage and the number of every new version.
    pub committed: Mutex<Vec<(String, u64)>>,
    pub seed: u64,
}

impl Schedule<'_> {
    /// Performs an actor's part with its store. `number` identifies the user.
    pub fn act(&self, actor: Actor, number: usize, store: &Store) -> Result<(), String> {
        match actor {
            Actor::Run => self.run(store),
            Actor::Engine => self.engine(number, store),
            Actor::Collector => (0..3).try_for_each(|_| collect(store)),
            Actor::Reader => (0..4).try_for_each(|_| read(store)),
            Actor::Videos => self.videos(number, store),
            Actor::Rollback => self.roll_back(store),
        }
    }

    fn run(&self, store: &Store) -> Result<(), String> {
        let summary = run(&self.world.checked(), store, &options(), &resources(), &SilentReporter)
            .map_err(|error| error.to_string())?;
        self.note(&summary.stages);
        Ok(())
    }

    /// Records the new versions.
    fn note(&self, stages: &[StageSummary]) {
        let new = stages
            .iter()
            .filter(|stage| stage.changed)
            .map(|stage| (stage.stage.clone(), stage.version));
        self.committed.lock().unwrap().extend(new);
    }

    fn engine(&self, number: usize, store: &Store) -> Result<(), String> {
        for wave in 0..6 {
            let out = self.world.folder.path().join(format!("plans/{number}-{wave}"));
            let out = Store::open(out.to_str().unwrap()).unwrap();
            let text = |error: pipeline::Error| error.to_string();
            // Plan, work and commit until a plan finds nothing to do.
            let plan = partitions::write_partitions(&self.world.checked(), store, &options(), &out)
                .map_err(text)?;
            if plan.changes == 0 {
                return Ok(());
            }
            let partitions: Vec<usize> = (0..plan.partitions).collect();
            let workload = partitions::Workload { partitions, attempt: 0 };
            partitions::work(&plan, &out, &workload, store, &resources(), &SilentReporter)
                .map_err(text)?;
            let summary =
                partitions::commit_all(&plan, &out, store, Missing::LeaveOut, &SilentReporter)
                    .map_err(text)?;
            self.note(&summary.stages);
        }
        Ok(())
    }

    fn videos(&self, number: usize, store: &Store) -> Result<(), String> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ number as u64);
        for _ in 0..4 {
            // A call of the store, so that the scheduler can pass the turn to others.
            store.read("lapo.json").map_err(|error| error.to_string())?;
            let video = random.random_range(0..VIDEOS);
            let present = self.world.present();
            if !present.contains(&video) {
                self.world.add(video);
            } else if present.len() > 2 {
                fs::remove_file(self.world.video(video)).unwrap();
            }
        }
        Ok(())
    }

    fn roll_back(&self, store: &Store) -> Result<(), String> {
        let text = |error: dataset::Error| error.to_string();
        let Some(oldest) = versions(store, "labels").map_err(text)?.first().copied() else {
            return Ok(());
        };
        let run = runs::begin(store, "test", "here", 0).map_err(text)?;
        match roll_back(store, "labels", oldest, &run, 0) {
            Ok(manifest) => {
                self.committed.lock().unwrap().push(("labels".to_owned(), manifest.version));
            }
            // A collector deleted the version first.
            Err(dataset::Error::Missing { .. }) => {}
            Err(error) => return Err(text(error)),
        }
        Ok(())
    }
}

/// Queries the labels, and checks that no row appears twice.
fn read(store: &Store) -> Result<(), String> {
    let rows = label_rows(store).map_err(|error| error.to_string())?;
    let unique: BTreeSet<&(String, String)> = rows.iter().collect();
    if unique.len() == rows.len() {
        Ok(())
    } else {
        Err("a row of the labels appears twice".into())
    }
}

/// Deletes all versions but the newest, of any age.
pub(super) fn collect(store: &Store) -> Result<(), String> {
    let now = SystemTime::now();
    let keep = Keep { versions: Some(1), younger_than: Duration::ZERO, now };
    let survey = match survey(store, &keep) {
        // No run has created the workspace yet.
        Err(dataset::Error::NoWorkspace { .. }) => return Ok(()),
        survey => survey.map_err(|error| error.to_string())?,
    };
    delete(store, &survey, now).map(drop).map_err(|error| error.to_string())
}

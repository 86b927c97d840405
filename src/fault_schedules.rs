//! Whatever the order of their steps and whoever is killed: runs, plans, workers, commits, collectors and readers of one workspace never
//! lose a video, never give a version's number twice, and leave every version whole.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::dataset::gc::{Keep, delete, survey};
use crate::dataset::{
    Access, FileInfo, Shards, Store, Turns, at, faulty_store, head, rolled_back, runs, versions,
};
use crate::executor::Means;
use crate::models::Device;
use crate::pipeline::check::{Checked, check};
use crate::pipeline::handout::{self, Missing};
use crate::pipeline::plan::{PlanOptions, StagePlan};
use crate::pipeline::run::{StageSummary, Watch, run};
use crate::query;
use crate::stages::Progress;

/// So many schedules are drawn, unless `LAPO_FAULT_SCHEDULES` says another number.
const SCHEDULES: u64 = 500;
/// So many videos come and go.
const VIDEOS: usize = 6;

struct Silent;

impl Progress for Silent {
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn say(&self, _: &str) {}
}

impl Watch for Silent {
    fn begin(&self, _: &StagePlan, _: u64) -> Box<dyn Progress> {
        Box::new(Silent)
    }

    fn end(&self, _: &StageSummary) {}
}

fn means() -> Means {
    Means {
        devices: vec![Device::Cpu],
        threads: 1,
        decoder: None,
        games: vec![],
        stop: Default::default(),
    }
}

fn options() -> PlanOptions {
    PlanOptions { max_dropped: Some(1.0), ..PlanOptions::default() }
}

/// A folder with videos, and a model.
struct World {
    folder: tempfile::TempDir,
    pipeline: String,
}

impl World {
    fn new(weights: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("videos")).unwrap();
        let videos = folder.path().join("videos").display().to_string();
        let pipeline = format!(
            "
name: test
workspace: nowhere
stages:
  frames: {{ decode: {{ videos: ['{videos}/*'], size: 16, videos_per_shard: 2 }} }}
  model: {{ import_dynamics: {{ weights: '{}' }} }}
  labels: {{ label: {{ frames: frames, dynamics: model }} }}
",
            weights.display()
        );
        World { folder, pipeline }
    }

    fn checked(&self) -> Checked {
        check("p.yaml", &self.pipeline, &[], &Access::default()).unwrap()
    }

    fn video(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("videos/{number}.mp4"))
    }

    fn add(&self, number: usize) {
        let from =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("data/maze/maze_1_{number:03}.mp4"));
        // As a program does that copies videos into a watched folder: whole or not there.
        let aside = self.folder.path().join(format!("{number}.part"));
        fs::copy(from, &aside).unwrap();
        fs::rename(aside, self.video(number)).unwrap();
    }

    fn there(&self) -> BTreeSet<usize> {
        (0..VIDEOS).filter(|number| self.video(*number).exists()).collect()
    }
}

/// Weights of networks for frames of 16 x 16.
fn weights(folder: &Path) -> PathBuf {
    let world = World::new(Path::new("none"));
    (0..3).for_each(|number| world.add(number));
    let text = world.pipeline.replace(
        "import_dynamics: { weights: 'none' }",
        "train_dynamics: { frames: frames, steps: 2, batch: 4 }",
    );
    let store = Store::open(folder.join("trained").to_str().unwrap()).unwrap();
    let checked = check("p.yaml", &text, &[], &Access::default()).unwrap();
    run(&checked, &store, &options(), &means(), &Silent).unwrap();
    let files = head(&store, "model").unwrap().unwrap().files(&store).unwrap();
    store
        .local_path(
            &files.iter().find(|file| file.path.ends_with("model.safetensors")).unwrap().path,
        )
        .unwrap()
        .unwrap()
}

/// The rows of the newest labels, each with its video; none where there are no labels yet.
fn label_rows(store: &Store) -> query::Result<Vec<(String, String)>> {
    let sql = "SELECT * FROM labels ORDER BY video, frame_index";
    let answer = match query::answer(store, sql, &query::Versions::default()) {
        Err(query::Error::EmptyWorkspace | query::Error::NoTable { .. }) => return Ok(vec![]),
        Err(query::Error::Dataset(crate::dataset::Error::NoWorkspace { .. })) => return Ok(vec![]),
        answer => answer?,
    };
    let mut lines = Vec::new();
    answer.write(query::Format::JsonLines, None, &mut lines)?;
    let rows = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| {
        let mut row: serde_json::Value = serde_json::from_slice(line).unwrap();
        let video = row["video"].take();
        // A shard's digest covers the folder's name, and which videos share a shard depends on when they came.
        (row["shard"], row["row"]) = Default::default();
        (video.as_str().unwrap().to_owned(), row.to_string())
    });
    Ok(rows.collect())
}

/// Frames and labels of every video, each as a digest, by the video's number.
fn results(store: &Store) -> BTreeMap<String, (String, String)> {
    let files = head(store, "frames").unwrap().unwrap().files(store).unwrap();
    let shards: Vec<_> = files.into_iter().filter(|file| file.path.ends_with(".arrow")).collect();
    let count = shards.len();
    let shards = Shards::open_files(store, &shards).unwrap();
    let mut frames = HashMap::<String, blake3::Hasher>::new();
    for number in 0..count {
        let shard = shards.shard(number).unwrap();
        for episode in shard.episodes() {
            let hasher = frames.entry(episode.digest.clone()).or_default();
            (episode.first_row..episode.first_row + episode.len)
                .for_each(|row| _ = hasher.update(shard.pixels(row)));
        }
    }
    let mut labels = HashMap::<String, blake3::Hasher>::new();
    for (video, row) in label_rows(store).unwrap() {
        labels.entry(video).or_default().update(row.as_bytes());
    }
    let videos = head(store, "frames").unwrap().unwrap().videos(store).unwrap();
    let digest = |hasher: Option<blake3::Hasher>| hasher.unwrap().finalize().to_hex().to_string();
    let of = |video: crate::dataset::VideoRecord| {
        let name = video.uri.rsplit('/').next().unwrap().to_owned();
        (name, (digest(frames.remove(&video.digest)), digest(labels.remove(&video.uri))))
    };
    videos.into_iter().map(of).collect()
}

/// What a user of the workspace does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    /// `lapo run`.
    Run,
    /// `lapo plan`, `worker` and `commit`, until nothing changes.
    Engine,
    /// `lapo gc --delete` of all but the newest version, however young.
    Collector,
    /// Queries.
    Reader,
    /// Puts videos into the folder, and takes some away.
    Videos,
    /// `lapo rollback`.
    Rollback,
}

/// One schedule: users with steps in turns.
struct Schedule<'a> {
    world: &'a World,
    turns: Arc<Turns>,
    /// Stage and number of every version that was made.
    made: Mutex<Vec<(String, u64)>>,
    seed: u64,
}

impl Schedule<'_> {
    fn act(&self, actor: Actor, number: usize, store: &Store) -> Result<(), String> {
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
        let summary = run(&self.world.checked(), store, &options(), &means(), &Silent)
            .map_err(|error| error.to_string())?;
        self.note(&summary.stages);
        Ok(())
    }

    fn note(&self, stages: &[StageSummary]) {
        let new = stages
            .iter()
            .filter(|stage| stage.changed)
            .map(|stage| (stage.stage.clone(), stage.version));
        self.made.lock().unwrap().extend(new);
    }

    fn engine(&self, number: usize, store: &Store) -> Result<(), String> {
        for wave in 0..6 {
            let out = self.world.folder.path().join(format!("plans/{number}-{wave}"));
            let out = Store::open(out.to_str().unwrap()).unwrap();
            let text = |error: crate::pipeline::Error| error.to_string();
            let plan =
                handout::hand_out(&self.world.checked(), store, &options(), &out).map_err(text)?;
            if plan.changes == 0 {
                return Ok(());
            }
            let partitions: Vec<usize> = (0..plan.partitions).collect();
            handout::work(&plan, &out, &partitions, store, &means(), &Silent).map_err(text)?;
            let summary = handout::commit_all(&plan, &out, store, Missing::LeaveOut, &Silent)
                .map_err(text)?;
            self.note(&summary.stages);
        }
        Ok(())
    }

    fn videos(&self, number: usize, store: &Store) -> Result<(), String> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ number as u64);
        for _ in 0..4 {
            // A step of this user.
            store.read("lapo.json").map_err(|error| error.to_string())?;
            let video = random.random_range(0..VIDEOS);
            let there = self.world.there();
            if !there.contains(&video) {
                self.world.add(video);
            } else if there.len() > 2 {
                fs::remove_file(self.world.video(video)).unwrap();
            }
        }
        Ok(())
    }

    fn roll_back(&self, store: &Store) -> Result<(), String> {
        let text = |error: crate::dataset::Error| error.to_string();
        let Some(oldest) = versions(store, "labels").map_err(text)?.first().copied() else {
            return Ok(());
        };
        let run = runs::begin(store, "test", "here", 0).map_err(text)?;
        match rolled_back(store, "labels", oldest, &run, 0) {
            Ok(manifest) => self.made.lock().unwrap().push(("labels".to_owned(), manifest.version)),
            // A collector was faster.
            Err(crate::dataset::Error::Missing { .. }) => {}
            Err(error) => return Err(text(error)),
        }
        Ok(())
    }
}

/// Reads the labels, and all files of the newest frames.
fn read(store: &Store) -> Result<(), String> {
    let rows = label_rows(store).map_err(|error| error.to_string())?;
    let unique: BTreeSet<&(String, String)> = rows.iter().collect();
    if unique.len() == rows.len() {
        Ok(())
    } else {
        Err("a row of the labels is there twice".into())
    }
}

fn collect(store: &Store) -> Result<(), String> {
    let now = SystemTime::now();
    let keep = Keep { versions: Some(1), younger_than: Duration::ZERO, now };
    let survey = match survey(store, &keep) {
        Err(crate::dataset::Error::NoWorkspace { .. }) => return Ok(()),
        survey => survey.map_err(|error| error.to_string())?,
    };
    delete(store, &survey, now).map(drop).map_err(|error| error.to_string())
}

/// Every version there is can be read, to the last byte.
fn expect_whole(store: &Store) {
    for stage in ["frames", "model", "labels"] {
        for version in versions(store, stage).unwrap() {
            let manifest = at(store, stage, version).unwrap().unwrap();
            assert_eq!(manifest.receipts(store).unwrap().len() as u64, manifest.totals.tasks);
            let files = manifest.files(store).unwrap();
            let joined = manifest.joined.iter().map(|joined| &joined.file);
            let verify = |file| {
                store.verify(file).unwrap_or_else(|error| panic!("{stage}@{version}: {error}"))
            };
            files.iter().chain(joined).for_each(verify);
            let rows = |files: &[FileInfo]| files.iter().map(|file| file.rows).sum::<u64>();
            if stage == "labels" {
                assert_eq!(
                    rows(&manifest.tables(store, "labels.parquet").unwrap()),
                    rows(&files),
                    "labels@{version}"
                );
            }
        }
    }
}

/// The users of a schedule, and before which of its steps each is killed.
fn cast(random: &mut ChaCha8Rng) -> Vec<(Actor, Option<u32>)> {
    use Actor::{Collector, Engine, Reader, Rollback, Run, Videos};
    let mut actors = vec![
        *[Run, Engine].choose(random).unwrap(),
        *[Run, Engine, Collector].choose(random).unwrap(),
        Collector,
    ];
    let more: Vec<Actor> = (0..2)
        .map(|_| *[Run, Engine, Collector, Reader, Videos, Rollback].choose(random).unwrap())
        .collect();
    actors.extend(more);
    actors.shuffle(random);
    actors.truncate(random.random_range(2..=4));
    let dies =
        |random: &mut ChaCha8Rng| random.random_bool(0.4).then(|| random.random_range(1..250));
    actors.into_iter().map(|actor| (actor, dies(random))).collect()
}

/// What a workspace holds that nothing has happened to, by its videos.
type Expected = BTreeMap<BTreeSet<usize>, BTreeMap<String, (String, String)>>;

fn expected<'e>(
    expected: &'e mut Expected,
    weights: &Path,
    videos: &BTreeSet<usize>,
) -> &'e BTreeMap<String, (String, String)> {
    expected.entry(videos.clone()).or_insert_with(|| {
        let world = World::new(weights);
        videos.iter().for_each(|number| world.add(*number));
        let store = faulty_store(&[]);
        run(&world.checked(), &store, &options(), &means(), &Silent).unwrap();
        results(&store)
    })
}

fn schedule(seed: u64, weights: &Path, known: &mut Expected) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let world = World::new(weights);
    let store = if seed.is_multiple_of(2) {
        Store::open(world.folder.path().join("ws").to_str().unwrap()).unwrap()
    } else {
        faulty_store(&[])
    };
    (0..3).for_each(|number| world.add(number));
    if random.random_bool(0.7) {
        run(&world.checked(), &store, &options(), &means(), &Silent).unwrap();
        (3..random.random_range(3..=VIDEOS)).for_each(|number| world.add(number));
        if random.random() {
            fs::remove_file(world.video(0)).unwrap();
        }
    }
    let first =
        |stage: &str| head(&store, stage).unwrap().map(|newest| (stage.to_owned(), newest.version));
    let made =
        Mutex::new(["frames", "model", "labels"].iter().filter_map(|stage| first(stage)).collect());
    let actors = cast(&mut random);
    let schedule = Schedule { world: &world, turns: Turns::new(&store, seed), made, seed };
    let stores: Vec<Store> = actors
        .iter()
        .enumerate()
        .map(|(number, (_, dies_at))| schedule.turns.store(number, *dies_at))
        .collect();
    let act = |number: usize, actor: Actor, store: &Store| {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let result = threads.install(|| schedule.act(actor, number, store));
        let is_killed = schedule.turns.leave(number);
        assert!(
            result.is_ok() || is_killed,
            "schedule {seed}, {actors:?}: {number} {actor:?}: {}",
            result.unwrap_err()
        );
    };
    std::thread::scope(|scope| {
        for ((number, (actor, _)), store) in actors.iter().enumerate().zip(&stores) {
            let act = &act;
            scope.spawn(move || act(number, *actor, store));
        }
    });
    let mut made = schedule.made.into_inner().unwrap();
    made.sort();
    assert!(
        made.windows(2).all(|pair| pair[0] != pair[1]),
        "schedule {seed}: a number was given twice: {made:?}"
    );
    expect_whole(&store);
    run(&world.checked(), &store, &options(), &means(), &Silent).unwrap();
    let there = world.there();
    let (found, wanted) = (results(&store), expected(known, weights, &there));
    assert!(
        found == *wanted,
        "schedule {seed}: other results than of a run with no faults: {found:#?} {wanted:#?}"
    );
    collect(&store).unwrap();
    expect_whole(&store);
    let again = run(&world.checked(), &store, &options(), &means(), &Silent).unwrap();
    assert_eq!(again.run, "", "schedule {seed}: {again:?}");
    assert!(
        results(&store) == *expected(known, weights, &there),
        "schedule {seed}: other results after a collection"
    );
}

#[test]
fn no_order_of_steps_and_no_kill_loses_anything() {
    let schedules =
        std::env::var("LAPO_FAULT_SCHEDULES").map_or(SCHEDULES, |number| number.parse().unwrap());
    let first = std::env::var("LAPO_FAULT_SEED").map_or(0, |number| number.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let weights = weights(folder.path());
    let mut known = Expected::new();
    (first..first + schedules).for_each(|seed| schedule(seed, &weights, &mut known));
}

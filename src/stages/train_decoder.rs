//! Stage 3, offline: trains decoders from latent to true actions on a few labelled transitions
//! (LAPO, section 4.4).
//!
//! There is a decoder for each number of transitions and each draw of them. The stage writes their
//! weights and, in `curve.parquet`, their accuracy on held-out videos. A draw depends on nothing
//! but the seed and the transitions: the 64 transitions of a draw are among its 256, and other
//! numbers in the settings do not change them. All decoders share the held-out videos.
//!
//! A decoder is trained on the IDM's latent actions, as in the paper, and used on the policy's.
//! Training it on the policy's latent actions was tried on mazes: from 256 transitions it is much
//! worse, from 8,192 equally good.

use serde::{Deserialize, Serialize};

use super::labelled_pairs::PairSampling;
use super::plan::KeyFields;
use super::plan::key::digests;
use super::{ArtifactKind, Error, LaneState, StageKind, StageTask, TaskContext, TaskOutput, write};
use crate::dataset::FileInfo;
use crate::models::{DecoderConfig, LoadedDecoder, Outputs};
use crate::train::decoder::{FitSettings, fit};

mod curve;
mod settings;
mod trained;

use curve::Curve;
pub use settings::{Head, TrainDecoderConfig};
use trained::TrainedDecoders;

/// The kind of all `train_decoder` stages. Raise its version when the same labels and settings give
/// other decoders.
pub const KIND: StageKind = StageKind {
    key_inputs: &["labels", "true_actions"],
    has_checkpoints: true,
    ..StageKind::new("train_decoder", 2, &[ArtifactKind::Decoder], "decoders")
};

/// A training of all decoders on the labels of one version of a dataset.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainDecoderTask {
    /// The stage's settings.
    pub config: TrainDecoderConfig,
    /// Seeds weights, batches and draws.
    pub seed: u64,
    /// One in `holdout` videos is held out; 0: none is.
    pub holdout: usize,
    /// Files of labels, in the dataset's order.
    pub labels: Vec<FileInfo>,
    /// Files of true actions.
    pub actions: Vec<FileInfo>,
}

impl StageTask for TrainDecoderTask {
    fn key(&self) -> KeyFields {
        let TrainDecoderTask { config, seed, holdout, labels, actions } = self;
        let TrainDecoderConfig {
            transitions,
            draws,
            hidden,
            steps,
            batch,
            learning_rate,
            label_smoothing,
            head,
            labels: _,
            actions: _,
        } = config;
        KeyFields::new(&KIND)
            .setting("transitions", transitions)
            .setting("draws", draws)
            .setting("hidden", hidden)
            .setting("steps", steps)
            .setting("batch", batch)
            .setting("learning_rate", learning_rate)
            .setting("label_smoothing", label_smoothing)
            .setting_if(*head != Head::default(), "head", head)
            .setting("holdout", holdout)
            .setting("seed", seed)
            .input("labels", digests(labels))
            .input("true_actions", digests(actions))
    }

    fn run(&self, ctx: &TaskContext, _: &mut LaneState) -> Result<TaskOutput, Error> {
        run(self, ctx)
    }
}

impl TrainDecoderTask {
    /// Returns the outputs of decoders for true actions of the kind `found`.
    fn outputs(&self, found: Outputs) -> Result<Outputs, Error> {
        match (self.config.head, found.axes()) {
            (Head::Mse, _) => Ok(found),
            (Head::Gaussian, Some(axes)) => Ok(Outputs::Gaussian { axes }),
            (Head::Gaussian, None) => Err(Error::Actions {
                file: self.actions.first().map(|file| file.path.clone()).unwrap_or_default(),
                reason: "the true actions are discrete, but `head` is `gaussian`".into(),
                cure: "remove `head`, or give continuous actions",
            }),
        }
    }
}

/// Trains and judges every decoder.
fn run(task: &TrainDecoderTask, ctx: &TaskContext) -> Result<TaskOutput, Error> {
    let settings = &task.config;
    let most = settings.transitions.iter().copied().max().unwrap_or(0);
    let sampling = PairSampling {
        labels: &task.labels,
        actions: &task.actions,
        most,
        least: most,
        draws: settings.draws,
        holdout: task.holdout,
        seed: task.seed,
    };
    let sample = sampling.sample(ctx)?;
    let fit_settings = FitSettings {
        hidden: settings.hidden.clone(),
        steps: settings.steps,
        batch: settings.batch,
        learning_rate: settings.learning_rate,
        label_smoothing: settings.label_smoothing,
        stop: Some(ctx.stop.clone()),
    };
    let config = DecoderConfig {
        latent_dim: sample.latent_dim,
        hidden: settings.hidden.clone(),
        outputs: task.outputs(sample.outputs)?,
    };
    let mut files = Vec::new();
    let mut curve = Curve::default();
    let mut trained = TrainedDecoders::newest(ctx)?;
    for (at, (transitions, draw)) in settings.decoders().into_iter().enumerate() {
        let train = || {
            // A smaller draw is a prefix of the largest one.
            let pairs = sample.draws[draw as usize].take(&(0..transitions).collect::<Vec<_>>());
            let seed = task.seed.wrapping_add(draw);
            let mut decoder = fit(&config, &fit_settings, &pairs, &sample.latent_stats, seed)?;
            decoder.metadata.insert("lapo.transitions".into(), transitions.to_string());
            decoder.metadata.insert("lapo.draw".into(), draw.to_string());
            Ok(decoder.export()?)
        };
        let weights = trained.get_or_train(at, ctx, train)?;
        let decoder = LoadedDecoder::load(weights)?;
        let name = format!("decoder-{transitions:06}-{draw}.safetensors");
        let mut file = ctx.store.new_file(&format!("{}/{name}", ctx.folder))?;
        write(&mut file, weights)?;
        files.push(file.finish(0)?);
        let score = curve.add(transitions, draw, &decoder, &sample.held_out)?;
        ctx.progress.note(&format!("{transitions} transitions: {score:.3}"));
        ctx.progress.advance(1);
    }
    ctx.progress.say(&curve.sentence(&sample.held_out, task.holdout > 0));
    files.push(curve.write(ctx)?);
    let stats = [("known", sample.count as f64), ("held_out", sample.held_out.len() as f64)];
    Ok(TaskOutput {
        files,
        stats: stats.map(|(name, value)| (name.to_owned(), value)).into(),
        ..TaskOutput::default()
    })
}

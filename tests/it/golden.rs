//! Compares the networks and their training with an independent PyTorch implementation.
//!
//! Every `*.safetensors` file directly in `tests/golden/`, or in the folder that `LAPO_GOLDEN_DIR`
//! names, holds random weights, one batch and PyTorch's results: a forward pass, a few steps of
//! Adam and another forward pass. `tests/bench/peer/lapo_torch.py golden` writes these files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::backend::Flex;
use burn::tensor::{Tensor, backend::BackendTypes};
use lapo::models::fdm::Fdm;
use lapo::models::frames::{Frames, Windows, frame_shape};
use lapo::models::idm::Idm;
use lapo::models::init::Init;
use lapo::models::policy::Policy;
use lapo::models::weights::Weights;
use lapo::models::{Device, DynamicsConfig, LabelOutputs, Precision, Preset, VqConfig, labeller};
use lapo::train::batch::WindowSampler;
use lapo::train::{Batch, DynamicsTrainer, OptimConfig, StepSettings, dynamics_trainer};
use safetensors::{SafeTensors, tensor::TensorView};

use crate::test_device::test_device;

type B = Flex;

/// A golden file and its parsed configuration.
pub struct Golden {
    pub name: String,
    pub file: Vec<u8>,
    pub weights: Weights,
    pub config: DynamicsConfig,
    /// `[batch, time, height, width, channel]`
    frames: Vec<u8>,
    batch: usize,
}

impl Golden {
    /// Reads all golden files.
    pub fn all() -> Vec<Golden> {
        let folder = std::env::var_os("LAPO_GOLDEN_DIR").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
            PathBuf::from,
        );
        let mut paths: Vec<_> = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
            .collect();
        paths.sort();
        assert!(!paths.is_empty(), "no golden files in {}", folder.display());
        paths.into_iter().map(Golden::read).collect()
    }

    fn read(path: PathBuf) -> Golden {
        let file = std::fs::read(&path).unwrap();
        let weights = Weights::parse(&file).unwrap();
        let config = weights.dynamics_config().unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let obs = tensors.tensor("obs").unwrap();
        let (frames, batch) = (channels_last(&obs), obs.shape()[0]);
        drop(tensors);
        Golden {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            weights,
            config,
            frames,
            batch,
            file,
        }
    }

    pub fn batch(&self) -> Batch<'_> {
        let [height, width, _] = frame_shape(&self.config);
        Batch {
            frames: &self.frames,
            batch: self.batch,
            time: self.config.window(),
            height,
            width,
            actions: &[],
        }
    }

    fn f32s(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.file).unwrap();
        let (values, _) = tensors.tensor(name).unwrap().data().as_chunks::<4>();
        values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    fn codes(&self, name: &str) -> Vec<u16> {
        let tensors = SafeTensors::deserialize(&self.file).unwrap();
        let (values, _) = tensors.tensor(name).unwrap().data().as_chunks::<8>();
        values.iter().map(|bytes| i64::from_le_bytes(*bytes) as u16).collect()
    }

    fn number(&self, name: &str) -> f32 {
        self.f32s(name)[0]
    }

    /// Panics if a value differs from the golden tensor by more than `tolerance`.
    fn check(&self, what: &str, seen: &[f32], tolerance: f32) {
        let expected = self.f32s(what);
        assert_eq!(seen.len(), expected.len(), "{}: {what}", self.name);
        let off = seen.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{}: {what}: off by {off:.1e}, at most {tolerance:.0e}", self.name);
        assert!(off <= tolerance, "{}: {what} is off by {off}", self.name);
    }

    /// Panics if a value differs from the expected one by more than the share `tolerance`.
    fn check_relative(&self, what: &str, seen: f32, expected: f32, tolerance: f32) {
        let off = (seen - expected).abs() / expected.abs().max(1e-6);
        println!("{}: {what}: {seen} against {expected}, relatively off by {off:.1e}", self.name);
        assert!(off <= tolerance, "{}: {what} is {seen}, expected {expected}", self.name);
    }

    /// Compares codes. They may differ if a latent action is about equally near to two codebook
    /// entries: PyTorch's latent action differs by up to `within` in every dimension and may be
    /// nearer to the other entry.
    fn check_codes(
        &self,
        what: &str,
        seen: &[u16],
        latent_action: &[f32],
        embedding: &[f32],
        within: f32,
    ) {
        let VqConfig { codebooks, positions, dim, entries, .. } = self.config.vq;
        let expected = self.codes(what);
        assert_eq!(seen.len(), expected.len(), "{}: {what}", self.name);
        for (at, (&ours, &theirs)) in
            seen.iter().zip(&expected).enumerate().filter(|(_, (ours, theirs))| ours != theirs)
        {
            let (window, book, position) =
                (at / positions / codebooks, at / positions % codebooks, at % positions);
            let entry = |code: u16| &embedding[(book * entries + usize::from(code)) * dim..][..dim];
            let row = (0..dim).map(|i| {
                latent_action[((window * codebooks + book) * dim + i) * positions + position]
            });
            // How much farther their entry is, and how much of that `within` explains.
            let mut farther = 0.0;
            let mut explained = 0.0;
            for ((x, ours), theirs) in row.zip(entry(ours)).zip(entry(theirs)) {
                farther += (x - theirs).powi(2) - (x - ours).powi(2);
                explained += 2.0 * within * (ours - theirs).abs();
            }
            println!(
                "{}: {what}, {at}: {ours} for {theirs}, \
                 farther by {farther:.1e} <= {explained:.1e}",
                self.name
            );
            assert!(
                (-1e-6..=explained).contains(&farther),
                "{}: {what}, {at}: {ours}, expected {theirs}",
                self.name
            );
        }
    }

    /// Returns a trainer with the golden weights and configuration.
    fn trainer(&self) -> Box<dyn DynamicsTrainer> {
        let mut trainer =
            dynamics_trainer(&test_device(), &self.config, &OptimConfig::default(), None, 0)
                .unwrap();
        trainer.import(&self.file).unwrap();
        trainer
    }
}

#[test]
fn the_forward_pass_equals_pytorch() {
    for golden in Golden::all() {
        let device = <B as BackendTypes>::Device::default();
        let mut init = Init::new(0, &device);
        let config = &golden.config;
        let idm = golden
            .weights
            .load("idm", Idm::<B>::new(&mut init, config), &device)
            .unwrap()
            .folded(config);
        let fdm =
            // `wm` is the FDM in published checkpoints.
            golden.weights.load("wm", Fdm::<B>::new(&mut init, config), &device).unwrap().folded();
        let frames = Frames::<B>::upload(&golden.frames, frame_shape(config), &device);
        let windows = Windows::stack(frames, config.window());
        let latent_action = idm.forward(&windows, &mut lapo::models::layers::Mode::Folded);
        let quantised = idm.vq.forward(latent_action.clone());
        let predicted = fdm.forward(
            &windows,
            quantised.latent_action_q.clone(),
            &mut lapo::models::layers::Mode::Folded,
        );
        let usage: Vec<f32> = host(quantised.usage);
        let perplexity: f32 =
            usage.chunks(config.vq.entries).map(lapo::models::vq::perplexity).sum();
        let codes: Vec<u16> =
            quantised.codes.into_data().iter::<i64>().map(|code| code as u16).collect();
        let off = predicted.clone() - windows.next();

        golden.check("eval.la", &host(latent_action), 1e-4);
        assert_eq!(codes, golden.codes("eval.codes"), "{}", golden.name);
        golden.check("eval.la_q", &host(quantised.latent_action_q), 1e-4);
        golden.check("eval.pred", &host(predicted), 1e-4);
        golden.check("eval.wm_loss", &host((off.clone() * off).mean()), 1e-4);
        golden.check("eval.vq_loss", &host(quantised.loss), 1e-4);
        golden.check("eval.perplexity", &[perplexity], 1e-4 * perplexity);

        // Not every golden file has a latent policy.
        if golden.weights.shapes_under("policy.").is_empty() {
            continue;
        }
        let policy_config = golden.weights.policy_config().unwrap();
        let policy = golden
            .weights
            .load("policy", Policy::<B>::new(&mut init, &policy_config), &device)
            .unwrap();
        let action = policy.latent_action(policy.features(windows.last()));
        golden.check("eval.policy", &host(action), 1e-4);
    }
}

#[test]
fn labels_equal_pytorch() {
    for golden in Golden::all() {
        let labeller = labeller(&test_device(), &golden.file, Precision::F32).unwrap();
        let starts: Vec<_> =
            (0..golden.batch).map(|window| window * golden.config.window()).collect();
        let labelled = labeller
            .label(&golden.frames, &starts, LabelOutputs { codes: true, fdm_error: true })
            .unwrap();
        golden.check("eval.la", &labelled.latent_action, 1e-4);
        assert_eq!(labelled.latent_code, golden.codes("eval.codes"), "{}", golden.name);
        let mean = labelled.fdm_error.iter().sum::<f32>() / golden.batch as f32;
        golden.check("eval.wm_loss", &[mean], 1e-4);
        let motion: f32 = labelled.motion.iter().sum::<f32>() / golden.batch as f32;
        let expected = mean_motion(&golden);
        assert!(
            (motion - expected).abs() < 1e-5,
            "{}: motion {motion}, expected {expected}",
            golden.name
        );
    }
}

/// Training amplifies rounding noise in two ways, so later values get wider tolerances:
///
/// - Normalisation removes the mean of its input. The gradient of anything that only shifts
///   this mean (a bias; equal codes in the whole batch) is rounding noise, and Adam turns it
///   into full steps. This moves normalised latent actions by 0.001 to 0.002, differently on every
///   processor.
/// - In one of eleven files, an activation of -1.7e-8 gets the other sign here before a ReLU. This
///   changes the gradients of the IDM by 0.4% and, after three more steps of Adam, a latent action
///   by 0.0025.
#[test]
fn training_steps_equal_pytorch() {
    for golden in Golden::all() {
        let mut trainer = golden.trainer();
        check_steps(&golden, trainer.as_mut());
        let exported = Weights::parse(&trainer.export(&BTreeMap::new()).unwrap()).unwrap();
        check_trained_statistics(&golden, &exported);

        let shuffle: Vec<_> = (0..golden.batch).collect();
        let after = trainer.evaluate(&golden.batch(), &shuffle, true).unwrap();
        let within = 5e-3;
        golden.check("after.la", &after.latent_action, within);
        let embedding = tensor(&exported, "idm.vq.embedding");
        golden.check_codes("after.codes", &after.codes, &after.latent_action, &embedding, within);
        let mean = after.fdm_error.iter().sum::<f32>() / golden.batch as f32;
        golden.check_relative("after.wm_loss", mean, golden.number("after.wm_loss"), 1e-3);
        let device = <B as BackendTypes>::Device::default();
        let idm = exported
            .load("idm", Idm::<B>::new(&mut Init::new(0, &device), &golden.config), &device)
            .unwrap();
        let latent_action = Tensor::<B, 1>::from_floats(&after.latent_action[..], &device)
            .reshape([golden.batch, golden.config.latent_dim()]);
        let vq_loss = host(idm.vq.forward(latent_action).loss)[0];
        // It moves with the latent actions, by 0.0011 where they move by 0.001.
        golden.check_relative("after.vq_loss", vq_loss, golden.number("after.vq_loss"), 2e-3);
    }
}

/// Takes the golden training steps and compares their metrics.
fn check_steps(golden: &Golden, trainer: &mut dyn DynamicsTrainer) {
    let learning_rate: f64 = golden.weights.metadata["lr"].parse().unwrap();
    for (index, expected) in golden.f32s("train.steps").chunks(4).enumerate() {
        let seen = trainer.step(&golden.batch(), StepSettings::even(learning_rate)).unwrap();
        let seen = [seen.wm_loss, seen.vq_loss, seen.perplexity.iter().sum(), seen.grad_norm];
        for ((what, seen), &expected) in
            ["wm_loss", "vq_loss", "perplexity", "grad_norm"].iter().zip(seen).zip(expected)
        {
            // PyTorch in f64 differs from its own f32 files by up to 0.0022 in later norms.
            let tolerance = if *what == "grad_norm" && index > 0 { 3e-3 } else { 1e-3 };
            golden.check_relative(&format!("step {index}: {what}"), seen, expected, tolerance);
        }
    }
}

/// Compares the trained codebook and running statistics.
fn check_trained_statistics(golden: &Golden, exported: &Weights) {
    golden.check(
        "after.vq.ema_count",
        &tensor(exported, "idm.vq.ema_count"),
        1e-3 * largest(&golden.f32s("after.vq.ema_count")),
    );
    let expected_embedding = golden.f32s("after.vq.embedding");
    for (seen, expected) in tensor(exported, "idm.vq.embedding").iter().zip(&expected_embedding) {
        assert!(
            (seen - expected).abs() <= 1e-3 * expected.abs() + 1e-4,
            "{}: embedding {seen}, {expected}",
            golden.name
        );
    }
    // The noisy running mean may differ by 1% of the spread. PyTorch run again, on one thread,
    // differs from its own file by 0.0036.
    let spread = largest(&golden.f32s("after.down0.running_var")).sqrt();
    for (name, noise) in [("running_mean", 1e-2 * spread), ("running_var", 0.0)] {
        let what = format!("after.down0.{name}");
        let seen = tensor(exported, &format!("wm.down.0.norm.{name}"));
        golden.check(&what, &seen, 1e-3 * largest(&golden.f32s(&what)) + noise);
    }
}

/// Returns the values of a tensor.
fn tensor(weights: &Weights, name: &str) -> Vec<f32> {
    weights.get(name, &weights.shapes_under(name)[0].1).unwrap()
}

#[test]
fn a_seed_gives_the_initial_weights_of_pytorch() {
    // torch.manual_seed(0); Idm(config(1, 8, 1)); Fdm(config(1, 8, 1)); torch.randint(3050, (4,))
    let config = Preset::Tiny.dynamics().reference();
    let trainer =
        dynamics_trainer(&Device::Cpu, &config, &OptimConfig::default(), None, 0).unwrap();
    let weights = Weights::parse(&trainer.export(&BTreeMap::new()).unwrap()).unwrap();
    let get = |name: &str| tensor(&weights, name);
    assert_eq!(
        get("idm.conv_stack.0.conv.weight")[..3],
        [-0.000_831_868_9, 0.059_604_842, -0.091_449_46]
    );
    assert_eq!(get("idm.vq.embedding")[2 * 64 * 16 - 2..], [-0.031_746_402, -0.003_423_802_6]);
    assert_eq!(get("wm.down.0.conv.weight")[..2], [-0.011_491_494, 0.014_602_197]);
    assert_eq!(get("wm.final_conv.3.bias"), [-0.121_366_866, 0.152_334_51, 0.037_874_21]);
    assert_eq!(WindowSampler::new(0, trainer.drawn(), 3050, 0).next(4), [1886, 381, 2359, 1881]);
}

#[test]
fn exported_weights_have_the_published_names_and_shapes() {
    for golden in Golden::all() {
        let exported = Weights::parse(&golden.trainer().export(&BTreeMap::new()).unwrap()).unwrap();
        for prefix in ["idm.", "wm."] {
            assert_eq!(
                exported.shapes_under(prefix),
                golden.weights.shapes_under(prefix),
                "{}",
                golden.name
            );
        }
    }
}

fn host<const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().into_vec().unwrap()
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// Converts `[batch, time, channel, height, width]` to channels last.
fn channels_last(obs: &TensorView<'_>) -> Vec<u8> {
    let [_, _, channels, height, width] = obs.shape() else {
        panic!("obs has shape {:?}", obs.shape())
    };
    let area = height * width;
    let pixel =
        |frame: &[u8], at: usize| (0..*channels).map(|c| frame[c * area + at]).collect::<Vec<_>>();
    obs.data()
        .chunks(channels * area)
        .flat_map(|frame| (0..area).flat_map(|at| pixel(frame, at)).collect::<Vec<_>>())
        .collect()
}

/// Computes the mean motion of all windows, in the slow and obvious way.
fn mean_motion(golden: &Golden) -> f32 {
    let frame: usize = frame_shape(&golden.config).iter().product();
    let time = golden.config.window();
    let windows = golden.frames.chunks(frame * time);
    let change = windows.map(|window| {
        let (last, next) = (&window[(time - 2) * frame..][..frame], &window[(time - 1) * frame..]);
        last.iter().zip(next).map(|(&a, &b)| f64::from(a.abs_diff(b)) / 255.0).sum::<f64>()
            / frame as f64
    });
    (change.sum::<f64>() / golden.batch as f64) as f32
}

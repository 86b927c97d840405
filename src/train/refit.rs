//! The decoder's training in LAPO's published online training (section 4.4): a fresh decoder, a few
//! epochs over all pairs of latent actions and actions taken.
//!
//! Unlike [`decoder::fit`](super::decoder::fit), [`refit`] does not normalise latent actions, hold
//! pairs out, lower the learning rate or limit the norm of gradients.

use burn::backend::Flex;
use burn::module::AutodiffModule;
use burn::tensor::Tensor;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::decoder::{Targets, Train, latent_rows};
use super::optim::{Flat, OptimConfig, Optimizer, gradients};
use super::pairs::Pairs;
use super::{Result, Skips, TrainError};
use crate::models::decoder::Decoder;
use crate::models::init::Init;
use crate::models::weights::to_host;
use crate::models::{DecoderConfig, LoadedDecoder};

/// The norm of gradients is not limited.
const UNLIMITED: f64 = 1e9;

/// How to train the decoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RefitSettings {
    /// Epochs over all pairs.
    pub epochs: usize,
    /// Pairs in a step.
    pub batch: usize,
    /// Adam's learning rate.
    pub learning_rate: f64,
    /// Share of the likelihood that is spread evenly over all actions.
    pub label_smoothing: f64,
}

impl RefitSettings {
    /// The published settings.
    pub const PUBLISHED: RefitSettings =
        RefitSettings { epochs: 3, batch: 512, learning_rate: 1e-3, label_smoothing: 0.05 };
}

/// Trains a fresh decoder in shuffled epochs over all pairs, and returns its last weights.
///
/// # Errors
/// [`TrainError::NotFinite`] if a loss or a gradient is not finite.
pub fn refit(
    config: &DecoderConfig,
    settings: &RefitSettings,
    pairs: &Pairs,
    seed: u64,
) -> Result<LoadedDecoder> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    let orders = (0..settings.epochs).map(|_| {
        order.shuffle(&mut rng);
        order.clone()
    });
    let fresh = Decoder::new(&mut Init::new(seed, &Default::default()), config);
    let net = train(fresh, config, settings, pairs, orders)?;
    Ok(LoadedDecoder::new(config.clone(), net))
}

/// Trains a decoder in epochs over all pairs, each in one of `orders`.
fn train(
    mut net: Decoder<Train>,
    config: &DecoderConfig,
    settings: &RefitSettings,
    pairs: &Pairs,
    orders: impl IntoIterator<Item = Vec<usize>>,
) -> Result<Decoder<Flex>> {
    let targets = Targets::new(&pairs.action, config.outputs, settings.label_smoothing, None);
    let optim = OptimConfig { max_grad_norm: UNLIMITED, ..OptimConfig::default() };
    let mut optimizer = Optimizer::new(optim);
    for order in orders {
        for batch in order.chunks(settings.batch) {
            let input = latent_rows(&pairs.latent_action, config.latent_dim, batch);
            let loss = targets.loss(net.forward(Tensor::from_inner(input)), batch);
            let mut all = Flat::new();
            gradients("decoder", &net, &loss.backward(), &mut all);
            let mut step = optimizer.begin(all);
            let seen = to_host(Tensor::cat(vec![loss.inner(), step.norm.clone()], 0))?;
            for (what, seen) in ["loss", "gradient norm"].into_iter().zip(seen) {
                if !seen.is_finite() {
                    let step = optimizer.step - 1;
                    return Err(TrainError::NotFinite { step, what, seen, skips: Skips::ONE });
                }
            }
            net = optimizer.apply(&mut step, "decoder", settings.learning_rate, net);
        }
    }
    Ok(net.valid())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::models::Outputs;
    use crate::models::weights::Weights;
    use crate::train::pairs::TrueActions;

    const PAIRS: usize = 20;
    const DIM: usize = 6;
    const ACTIONS: usize = 4;

    /// Reads a training that `tests/bench/peer/refit_torch.py` computed with PyTorch.
    fn golden() -> Weights {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/online/refit.safetensors");
        Weights::parse(&std::fs::read(path).unwrap()).unwrap()
    }

    fn config() -> DecoderConfig {
        let outputs = Outputs::Discrete { actions: ACTIONS };
        DecoderConfig { latent_dim: DIM, hidden: vec![12, 8], outputs }
    }

    fn pairs(golden: &Weights) -> Pairs {
        let numbers = |name: &str, shape: &[usize]| golden.get(name, shape).unwrap();
        let actions = numbers("actions", &[PAIRS]).into_iter().map(|action| action as u32);
        Pairs {
            latent_action: numbers("latent_action", &[PAIRS, DIM]),
            action: TrueActions::Discrete(actions.collect()),
        }
    }

    #[test]
    fn epochs_equal_pytorchs() {
        let golden = golden();
        let device = Default::default();
        let fresh = Decoder::new(&mut Init::new(0, &device), &config());
        let before = golden.load("before", fresh, &device).unwrap();
        let orders = golden.get("orders", &[3, PAIRS]).unwrap();
        let orders: Vec<usize> = orders.into_iter().map(|place| place as usize).collect();
        let orders = orders.chunks(PAIRS).map(<[usize]>::to_vec);
        // The last batch of an epoch has four pairs.
        let settings = RefitSettings { batch: 8, ..RefitSettings::PUBLISHED };
        let net = train(before, &config(), &settings, &pairs(&golden), orders).unwrap();
        let mut after = Weights::default();
        after.store::<Flex, _>("after", &net).unwrap();
        let mut moved = 0;
        for (name, shape) in golden.shapes_under("after.") {
            let numbers = |weights: &Weights, prefix: &str| {
                weights.get(&format!("{prefix}.{name}"), &shape).unwrap()
            };
            let expected = numbers(&golden, "after");
            let before = numbers(&golden, "before");
            for ((seen, expected), before) in
                numbers(&after, "after").iter().zip(&expected).zip(before)
            {
                assert!((seen - expected).abs() < 1e-5, "{name}: {seen} for {expected}");
                moved += usize::from((before - expected).abs() > 1e-3);
            }
        }
        assert!(moved > 100, "{moved}");
    }

    #[test]
    fn a_seed_decides_the_decoder_which_takes_latent_actions_as_they_are() {
        let pairs = pairs(&golden());
        let decoder = |seed| {
            let decoder = refit(&config(), &RefitSettings::PUBLISHED, &pairs, seed).unwrap();
            decoder.export().unwrap()
        };
        assert!(decoder(1) == decoder(1) && decoder(1) != decoder(2));
        let fresh = Decoder::<Flex>::new(&mut Init::new(1, &Default::default()), &config());
        let mut initial = Weights::default();
        initial.store::<Flex, _>("decoder", &fresh).unwrap();
        let trained = Weights::parse(&decoder(1)).unwrap();
        let [trained, initial] = [&trained, &initial]
            .map(|weights| weights.get("decoder.layers.0.weight", &[12, DIM]).unwrap());
        // Three steps of Adam, one per epoch, move a weight by 1e-3 at most. A normalisation would
        // divide the weights by the deviation of 30.
        let moved = trained.iter().zip(&initial).map(|(a, b)| (a - b).abs());
        let most = moved.fold(0.0, f32::max);
        assert!(most > 1e-3 && most < 3.5e-3, "{most}");
    }
}

//! One update against PyTorch, and its parts against computations by hand.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use burn::backend::Flex;

use super::update::{Epoch, METRICS, Minibatch, losses};
use super::*;
use crate::models::init::Init;
use crate::models::weights::Weights;
use crate::models::{AgentConfig, PolicyConfig};
use crate::train::device_under_test;

fn config(more: &str) -> FinetuneConfig {
    serde_json::from_str(&format!(r#"{{"game":"maze","from_scratch":true{more}}}"#)).unwrap()
}

/// Reads an update computed with PyTorch by `tests/bench/peer/ppo_torch.py`.
fn golden() -> Weights {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/online/ppo.safetensors");
    Weights::parse(&std::fs::read(path).unwrap()).unwrap()
}

const STEPS: usize = 6;
const ENVS: usize = 4;

fn rollout<B: Backend>(golden: &Weights) -> Rollout<B> {
    let rows = |name: &str| golden.get(name, &[STEPS, ENVS]).unwrap();
    let frames = golden.get("frames", &[(STEPS + 1) * ENVS, 16, 16, 3]).unwrap();
    Rollout {
        frames: frames.into_iter().map(|pixel| pixel as u8).collect(),
        actions: golden
            .get("actions", &[STEPS * ENVS])
            .unwrap()
            .into_iter()
            .map(|action| action as u32)
            .collect(),
        log_probs: rows("log_probs"),
        values: rows("values"),
        rewards: rows("rewards"),
        dones: rows("ends").into_iter().map(|done| done > 0.0).collect(),
        last_values: golden.get("last_values", &[ENVS]).unwrap(),
        ..Rollout::default()
    }
}

fn assert_close(what: &str, seen: &[f32], expected: &[f32], within: f32) {
    assert_eq!(seen.len(), expected.len(), "{what}");
    let far =
        seen.iter().zip(expected).find(|(a, b)| (**a - **b).abs() > within * b.abs().max(1.0));
    assert!(far.is_none(), "{what}: {far:?}");
}

#[test]
fn an_update_equals_pytorch() {
    on_device!(&device_under_test(), B, at => update_equals_pytorch::<Autodiff<B>>("f32", at));
}

#[test]
fn an_update_in_bf16_equals_pytorch_up_to_rounding() {
    let device = device_under_test();
    if device.check_precision(Precision::Bf16).is_ok() {
        on_device!(&device, B, at => update_equals_pytorch::<Autodiff<B>>("bf16", at));
    }
}

fn update_equals_pytorch<Train: TrainBackend>(precision: &str, device: Train::Device) {
    let golden = golden();
    let more = r#","gamma":0.9,"gae_lambda":0.8,"ent_coef":0.01"#;
    let config = config(&format!(r#"{more},"precision":"{precision}""#));
    let is_exact = config.precision == Precision::F32;
    let rollout = rollout(&golden);
    let (advantages, returns) = advantages(&rollout, &config);
    assert_close(
        "advantages",
        &advantages,
        &golden.get("advantages", &[STEPS, ENVS]).unwrap(),
        1e-5,
    );
    assert_close("returns", &returns, &golden.get("returns", &[STEPS, ENVS]).unwrap(), 1e-5);

    let network = PolicyConfig { scale: 1, latent_dim: 5, frame_size: 16, channels: 3, frames: 1 };
    let agent_config = AgentConfig { network, decoder: None };
    let fresh = AgentNet::<Train>::new(&mut Init::new(0, &device), &agent_config);
    let net = golden.load("agent", fresh, &device).unwrap();
    let mut agent = Agent::new(config, 0, agent_config, net, device);
    let b_inds = golden.get("places", &[STEPS * ENVS]).unwrap();
    let b_inds: Vec<usize> = b_inds.into_iter().map(|index| index as usize).collect();
    let steps = golden.get("steps", &[2, METRICS.len()]).unwrap();
    let size = STEPS * ENVS / 2;
    let epoch = Epoch::gather(&rollout, &advantages, &returns, &b_inds, size, &agent.device);
    let frames = agent.frames_of(&rollout);
    for (index, expected) in steps.chunks(METRICS.len()).enumerate() {
        let learning_rates = [1e-3, 2e-3, 5e-4];
        let mb_inds = &b_inds[index * size..][..size];
        let minibatch = epoch.minibatch(index);
        let seen = agent.step(&rollout, frames.as_ref(), minibatch, mb_inds, learning_rates);
        let within = if is_exact { 1e-4 } else { 3e-2 };
        assert_close("metrics", &to_host(seen).unwrap(), expected, within);
    }
    let mut after = Weights::default();
    after.store::<Train::InnerBackend, _>("after", &agent.net.valid()).unwrap();
    for (name, shape) in golden.shapes_under("after.") {
        let [seen, expected] =
            [&after, &golden].map(|weights| weights.get(&format!("after.{name}"), &shape).unwrap());
        // A step of Adam is a learning rate long, in the wrong direction if rounding turned the
        // sign of a small gradient.
        let within = if is_exact { 2e-5 } else { 2.0 * (1e-3 + 2e-3) };
        assert_close(&name, &seen, &expected, within);
        let off = seen.iter().zip(&expected).map(|(a, b)| (a - b).abs()).sum::<f32>();
        let off = off / seen.len() as f32;
        assert!(off < if is_exact { 2e-5 } else { 5e-4 }, "{name}: off by {off} in the mean");
    }
}

#[test]
fn advantages_equal_the_discounted_sums_of_deltas_until_the_episode_ends() {
    let steps = 7;
    let envs = 3;
    let wave =
        |speed: f32| (0..steps * envs).map(|i| (i as f32 * speed).sin()).collect::<Vec<f32>>();
    let mut rollout = Rollout::<Flex> {
        rewards: wave(0.7),
        values: wave(1.3),
        last_values: vec![0.3, -0.2, 0.9],
        ..Rollout::default()
    };
    rollout.dones = (0..steps * envs).map(|i| i % 5 == 3).collect();
    let config = config(r#","gamma":0.9,"gae_lambda":0.7"#);
    let (seen, returns) = advantages(&rollout, &config);
    for t in 0..steps * envs {
        // The definition: a sum over later steps instead of a recursion.
        let mut sum = 0.0;
        let mut weight = 1.0;
        for later in (t..steps * envs).step_by(envs) {
            let last_value = rollout.last_values[t % envs];
            let next_value = rollout.values.get(later + envs).copied().unwrap_or(last_value);
            let next_value = if rollout.dones[later] { 0.0 } else { 0.9 * next_value };
            sum += weight * (rollout.rewards[later] + next_value - rollout.values[later]);
            weight *= 0.9 * 0.7;
            if rollout.dones[later] {
                break;
            }
        }
        assert!((seen[t] - sum).abs() < 1e-5, "{t}: {} for {sum}", seen[t]);
        assert!((returns[t] - sum - rollout.values[t]).abs() < 1e-5, "{t}");
    }
}

/// Two actions, equally likely now. One was half as likely and has a positive advantage; the other
/// was three quarters as likely and has a negative one.
#[test]
fn losses_equal_a_computation_by_hand() {
    let device = Default::default();
    let column = |values: [f32; 2]| {
        Tensor::<Autodiff<Flex>, 2>::from_floats([[values[0]], [values[1]]], &device)
    };
    let minibatch = Minibatch {
        index: Tensor::from_ints([0, 1], &device),
        actions: Tensor::from_ints([[0], [1]], &device),
        log_probs: column([0.25_f32.ln(), 0.375_f32.ln()]),
        values: column([0.0, 1.0]),
        advantages: column([1.0, -1.0]),
        returns: column([1.0, 1.0]),
    };
    let losses =
        losses(Tensor::zeros([2, 2], &device), column([0.5, 0.9]), &minibatch, &config(""));
    let seen = to_host(losses.metrics.inner()).unwrap();
    // The ratios are 2 and 4/3. The positive advantage is clipped at 1.2, the negative one is not.
    let policy = (-1.2 + 4.0 / 3.0) / 2.0;
    // The first value is clipped to a change of 0.2, and (0.2 - 1)^2 is worse than (0.5 - 1)^2. The
    // second one is within the range.
    let value = (0.64 + 0.01) / 2.0 / 2.0;
    let kl = ((2.0 - 1.0 - 2.0_f32.ln()) + (1.0 / 3.0 - (4.0_f32 / 3.0).ln())) / 2.0;
    assert_close("metrics", &seen, &[policy, value, 2.0_f32.ln(), kl, 1.0], 1e-6);
    let total = policy + 0.5 * value - 0.0025 * 2.0_f32.ln();
    assert!((losses.total.into_scalar() - total).abs() < 1e-6);
}

//! The networks that a training starts from: a latent policy or fresh weights, and the IDM of the
//! teacher.

use super::FinetuneTask;
use super::teacher::Teacher;
use crate::envs::{GameSetting, VecEnv};
use crate::models::agent::AgentNet;
use crate::models::init::Init;
use crate::models::policy::Policy;
use crate::models::weights::Weights;
use crate::models::{AgentConfig, DecoderConfig, Outputs, PolicyConfig, Precision, labeller};
use crate::stages::player::can_be_shown;
use crate::stages::{Error, TaskContext};
use crate::train::optim::TrainBackend;

/// Widths of the decoder's hidden layers.
const DECODER_HIDDEN: [usize; 3] = [192, 128, 64];

/// Returns the number of actions of a game, or an error if they are continuous.
pub(super) fn discrete_actions(setting: &GameSetting, game: &dyn VecEnv) -> Result<usize, Error> {
    let space = game.action_space();
    let error = || Error::ContinuousGame { game: setting.to_string(), space: space.to_string() };
    space.discrete().ok_or_else(error)
}

/// Creates the network with fresh weights, or with those of the latent policy.
pub(super) fn start<A: TrainBackend>(
    task: &FinetuneTask,
    ctx: &TaskContext,
    actions: usize,
    device: &A::Device,
) -> Result<(AgentConfig, AgentNet<A>), Error> {
    let mut init = Init::new(task.seed, device);
    let Some(file) = &task.policy else {
        let scale = task.config.preset.policy(&task.config.preset.dynamics()).scale;
        let network = PolicyConfig {
            scale,
            latent_dim: actions,
            frame_size: task.config.size,
            channels: 3,
            frames: 1,
        };
        let config = AgentConfig { network, decoder: None };
        let mut net = AgentNet::new(&mut init, &config);
        if task.config.reference {
            net.rl.init_value_head_as_published(&mut init);
        }
        return Ok((config, net));
    };
    let weights = Weights::parse(&ctx.store.require_file(file)?)?;
    let latent = weights.policy_config()?;
    let policy = weights.load("policy", Policy::new(&mut init, &latent), device)?;
    let decoder = DecoderConfig {
        latent_dim: latent.latent_dim,
        hidden: DECODER_HIDDEN.to_vec(),
        outputs: Outputs::Discrete { actions },
    };
    let decoder = task.config.has_supervised_path().then_some(decoder);
    can_be_shown(latent.frame_size, &task.config.game)?;
    // The agent has a head with one logit per action; the policy's own output is a latent action.
    let config = AgentConfig { network: PolicyConfig { latent_dim: actions, ..latent }, decoder };
    let mut net = AgentNet::of_policy(&mut init, &config, policy);
    if task.config.reference {
        net.rl.init_value_head_as_published(&mut init);
    }
    Ok((config, net))
}

/// Loads the IDM of the supervised path, if there is one. It must be the one that labelled for the
/// policy.
pub(super) fn teacher_of(
    task: &FinetuneTask,
    ctx: &TaskContext,
    agent: &AgentConfig,
) -> Result<Option<Teacher>, Error> {
    let Some((file, decoder)) = task.dynamics.as_ref().zip(agent.decoder.as_ref()) else {
        return Ok(None);
    };
    let idm = labeller(&ctx.device, &ctx.store.require_file(file)?, Precision::F32)?;
    let seen = agent.network.frame_size;
    let expected = idm.config().frame_size;
    if seen != expected {
        return Err(Error::FrameSize { file: file.path.clone(), seen, expected });
    }
    if !idm.config().horizon.is_next_frame() {
        let horizon = idm.config().horizon.to_string();
        return Err(Error::Horizon { file: file.path.clone(), horizon });
    }
    let seen = idm.config().latent_dim();
    let expected = decoder.latent_dim;
    if seen != expected {
        return Err(Error::LatentSize { file: file.path.clone(), seen, expected });
    }
    // A rollout has one frame more than steps. The decoder would have nothing to learn from.
    let frames = idm.config().window();
    let steps = task.config.rollout;
    if steps + 1 < frames {
        return Err(Error::ShortRollouts { steps, frames });
    }
    Ok(Some(Teacher::new(idm, task.config.reference)))
}

//! Prediction: past frames and latent actions -> the next frames.
//!
//! [`predictor`] loads a weight file and returns the device-independent [`Predictor`].

use burn::tensor::{Tensor, TensorData};

use super::device::on_device;
use super::fdm::Fdm;
use super::frames::{Frames, Windows, count_frames, frame_shape};
use super::idm::Idm;
use super::init::Init;
use super::layers::{Mode, NetBackend};
use super::passes::in_passes;
use super::vq::Quantiser;
use super::weights::{Weights, to_host};
use super::{Device, DynamicsConfig, ModelError, Result};

/// A trained FDM with its codebooks, loaded for prediction.
pub trait Predictor: Send {
    /// Returns the sizes of the networks.
    fn config(&self) -> &DynamicsConfig;

    /// Predicts `o[t+1]`. Latent actions are quantised first, as in training.
    ///
    /// # Shapes
    /// - `past`: `[count, context + 1, height, width, channel]`, ending with `o[t]`
    /// - `latent_action`: `[count, latent_dim]`, before quantisation
    /// - output: `[count, height, width, channel]`, in [-0.5, 0.5], or slightly beyond if changes
    ///   are predicted
    fn predict(&self, past: &[u8], latent_action: &[f32]) -> Result<Vec<f32>>;
}

/// Loads an FDM from a safetensors file, one of ours or a published one.
pub fn predictor(device: &Device, weights: &[u8]) -> Result<Box<dyn Predictor>> {
    device.check()?;
    let weights = Weights::parse(weights)?;
    on_device!(device, B, at => {
        Ok(Box::new(Network::<B>::load(&weights, at, device.pass())?))
    })
}

/// The FDM and the codebooks on one device.
#[derive(Clone)]
struct Network<B: NetBackend> {
    config: DynamicsConfig,
    vq: Quantiser<B>,
    fdm: Fdm<B>,
    device: B::Device,
    /// Frames in a pass.
    pass: usize,
}

impl<B: NetBackend> Network<B> {
    fn load(weights: &Weights, device: B::Device, pass: usize) -> Result<Self> {
        let config = weights.dynamics_config()?;
        let mut init = Init::new(0, &device);
        let vq = weights.load("idm", Idm::new(&mut init, &config), &device)?.vq;
        let fdm = weights.load("wm", Fdm::new(&mut init, &config), &device)?.folded();
        Ok(Network { config, vq, fdm, device, pass })
    }

    /// Predicts one pass. Each input is the past frames and the latent action.
    fn pass(&self, inputs: &[(&[u8], &[f32])]) -> Result<Vec<f32>> {
        let bytes: usize = frame_shape(&self.config).iter().product();
        let known = self.config.context + 1;
        // A window has a place for `o[t+1]`. The FDM never reads it, so `o[t]` fills it.
        let windows = inputs.iter().flat_map(|(past, _)| [past, &past[(known - 1) * bytes..]]);
        let windows = windows.collect::<Vec<_>>().concat();
        let frames = Frames::upload(&windows, frame_shape(&self.config), &self.device);
        let latent_action = inputs.iter().flat_map(|(_, latent_action)| *latent_action);
        let latent_action = TensorData::new(
            latent_action.copied().collect(),
            [inputs.len(), self.config.latent_dim()],
        );
        let (quantised, _) = self.vq.bottleneck(Tensor::from_data(latent_action, &self.device));
        let predicted =
            self.fdm.forward(&Windows::stack(frames, known + 1), quantised, &mut Mode::Folded);
        // [count, channel, height, width] -> [count, height, width, channel].
        to_host(predicted.permute([0, 2, 3, 1]))
    }
}

impl<B: NetBackend> Predictor for Network<B> {
    fn config(&self) -> &DynamicsConfig {
        &self.config
    }

    fn predict(&self, past: &[u8], latent_action: &[f32]) -> Result<Vec<f32>> {
        let known = self.config.context + 1;
        let dim = self.config.latent_dim();
        let count = count_frames(past, &self.config)?;
        if count * dim != latent_action.len() * known {
            let seen = format!("{} numbers", latent_action.len());
            let expected = format!("{dim} for every {known} of {count} frames");
            return Err(ModelError::Frames { what: "latent actions", seen, expected });
        }
        let bytes = past.len() / count * known;
        let inputs: Vec<_> = past.chunks(bytes).zip(latent_action.chunks(dim)).collect();
        Ok(in_passes::<B, _, _, _, _>(self, &inputs, self.pass, Self::pass)?.concat())
    }
}

/// Converts bytes to pixels in [-0.5, 0.5].
pub fn pixels(frame: &[u8]) -> Vec<f32> {
    frame.iter().map(|byte| f32::from(*byte) / 255.0 - 0.5).collect()
}

/// Converts pixels in [-0.5, 0.5] to bytes.
pub fn as_bytes(frame: &[f32]) -> Vec<u8> {
    frame.iter().map(|value| ((value + 0.5) * 255.0).round().clamp(0.0, 255.0) as u8).collect()
}

/// Returns the mean squared error of a predicted frame, for pixels in [0, 1].
pub fn squared_error(predicted: &[f32], real: &[u8]) -> f64 {
    let sum: f64 = predicted.iter().zip(pixels(real)).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    sum / real.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_out_of_range_become_black_or_white() {
        assert_eq!(as_bytes(&[-0.7, -0.5, 0.0, 0.5, 0.9]), [0, 0, 128, 255, 255]);
    }

    #[test]
    fn the_squared_error_is_a_mean() {
        assert!((squared_error(&[0.5, -0.5], &[255, 255]) - 0.5).abs() < 1e-12);
    }
}

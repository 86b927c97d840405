//! Labelling: frames and windows -> latent actions, codes and quality measures.
//!
//! [`labeller`] loads a weight file and returns the device-independent [`Labeller`];
//! [`Labeller::label`] does the work. Frames are uploaded once, and the overlapping windows are
//! gathered on the device.

use burn::tensor::{Int, Tensor};
use rayon::prelude::*;

use super::device::{CPU_PASS, on_device};
use super::fdm::Fdm;
use super::frames::{Windows, count_frames, frame_shape, mean_per_window, upload};
use super::gpu_failure::execution_error;
use super::idm::Idm;
use super::init::Init;
use super::layers::{Mode, NetBackend};
use super::weights::{Weights, to_host};
use super::{Device, DynamicsConfig, ModelError, Precision, Result};

/// Optional outputs, beside the latent action and the motion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelOutputs {
    /// The codes of each latent action.
    pub codes: bool,
    /// The FDM's prediction error. It costs more than all other outputs together.
    pub fdm_error: bool,
}

/// One label per window, in the order of `starts`. Outputs that were not requested are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WindowLabels {
    /// `[window, latent_dim]`: before quantisation
    pub latent_action: Vec<f32>,
    /// `[window, codebook, position]`
    pub latent_code: Vec<u16>,
    /// `[window]`: mean squared error of the predicted frame, for pixels in [0, 1]
    pub fdm_error: Vec<f32>,
    /// `[window]`: mean absolute change from `o[t]` to `o[t+1]`, for pixels in [0, 1]
    pub motion: Vec<f32>,
}

impl WindowLabels {
    fn concat(mut self, next: WindowLabels) -> WindowLabels {
        self.latent_action.extend(next.latent_action);
        self.latent_code.extend(next.latent_code);
        self.fdm_error.extend(next.fdm_error);
        self.motion.extend(next.motion);
        self
    }
}

/// A trained IDM and FDM loaded for labelling.
pub trait Labeller: Send {
    /// Returns the sizes of the networks.
    fn config(&self) -> &DynamicsConfig;

    /// Labels the windows that begin at `starts`. The label of a window depends only on its own
    /// pixels.
    ///
    /// # Shapes
    /// - `frames`: `[count, height, width, channel]`
    /// - `starts`: `[window]`, the index of each window's first frame
    fn label(&self, frames: &[u8], starts: &[usize], want: LabelOutputs) -> Result<WindowLabels>;
}

/// Loads IDM and FDM from a safetensors file, one of ours or a published one.
pub fn labeller(
    device: &Device,
    weights: &[u8],
    precision: Precision,
) -> Result<Box<dyn Labeller>> {
    device.check_precision(precision)?;
    let weights = Weights::parse(weights)?;
    on_device!(device, B, at => {
        Ok(Box::new(Networks::<B>::load(&weights, at, device.pass(), precision)?))
    })
}

/// The networks of a labeller on one device.
#[derive(Clone)]
struct Networks<B: NetBackend> {
    config: DynamicsConfig,
    idm: Idm<B>,
    fdm: Fdm<B>,
    device: B::Device,
    /// Maximum number of windows per pass. Smaller passes are padded to a power of two, on a CPU to
    /// this number. So every label is computed by the same operations on the same shapes.
    pass: usize,
    precision: Precision,
}

impl<B: NetBackend> Networks<B> {
    fn load(
        weights: &Weights,
        device: B::Device,
        pass: usize,
        precision: Precision,
    ) -> Result<Self> {
        let config = weights.dynamics_config()?;
        let mut init = Init::new(0, &device);
        let idm = weights.load("idm", Idm::new(&mut init, &config), &device)?.folded(&config);
        let fdm = weights.load("wm", Fdm::new(&mut init, &config), &device)?.folded();
        Ok(Networks { config, idm, fdm, device, pass, precision })
    }

    /// Uploads only the frames that the windows span, and gathers the windows.
    fn windows(&self, frames: &[u8], starts: &[usize]) -> Windows<B> {
        let time = self.config.window();
        let frame: usize = frame_shape(&self.config).iter().product();
        // Passes may share frames with their neighbours; each uploads its own range.
        let first = starts.iter().min().copied().unwrap_or(0);
        let end = starts.iter().max().map_or(0, |last| last + time);
        let frames = upload::<B>(
            &frames[first * frame..end * frame],
            frame_shape(&self.config),
            &self.device,
        );

        // Padding repeats the first window.
        let pass = starts.len().next_power_of_two().clamp(CPU_PASS, self.pass);
        let padded: Vec<usize> = starts
            .iter()
            .chain(std::iter::repeat(&starts[0]))
            .take(pass)
            .map(|s| s - first)
            .collect();
        Windows::gather(frames, &padded, time).at(self.precision)
    }

    /// Labels one pass of at most `self.pass` windows.
    fn label_pass(
        &self,
        frames: &[u8],
        starts: &[usize],
        want: LabelOutputs,
    ) -> Result<WindowLabels> {
        let windows = self.windows(frames, starts);
        let count = starts.len();
        let last = windows.last();
        let next = windows.next();
        let mut labelled = WindowLabels::default();
        append(
            &mut labelled.motion,
            mean_per_window((next.clone() - last).abs()).unsqueeze_dim(1),
            count,
        )?;
        let latent_action = self.idm.forward(&windows, &mut Mode::Folded);
        append(&mut labelled.latent_action, latent_action.clone(), count)?;
        if !want.codes && !want.fdm_error {
            // The FDM is the expensive part: it does not run unless requested.
            return Ok(labelled);
        }
        let (latent_action_q, codes) = self.idm.vq.bottleneck(latent_action);
        if want.codes {
            let codes = host_codes(codes)?;
            labelled.latent_code.extend(&codes[..count * self.config.codes()]);
        }
        if want.fdm_error {
            let predicted = self.fdm.forward(&windows, latent_action_q, &mut Mode::Folded);
            let error = predicted - next;
            append(
                &mut labelled.fdm_error,
                mean_per_window(error.clone() * error).unsqueeze_dim(1),
                count,
            )?;
        }
        Ok(labelled)
    }
}

impl<B: NetBackend> Labeller for Networks<B> {
    fn config(&self) -> &DynamicsConfig {
        &self.config
    }

    fn label(&self, frames: &[u8], starts: &[usize], want: LabelOutputs) -> Result<WindowLabels> {
        let count = count_frames(frames, &self.config)?;
        let time = self.config.window();
        if let Some(start) = starts.iter().find(|&&start| start + time > count) {
            let seen = format!("frames {start} to {} of {count}", start + time - 1);
            return Err(ModelError::Frames {
                what: "window",
                seen,
                expected: format!("{time} existing frames"),
            });
        }
        let pass = |networks: &mut Self, starts| networks.label_pass(frames, starts, want);
        let passes: Vec<_> =
            starts.par_chunks(self.pass).map_with(self.clone(), pass).collect::<Result<_>>()?;
        Ok(passes.into_iter().fold(WindowLabels::default(), WindowLabels::concat))
    }
}

/// Appends the first `count` rows; the rest is padding.
fn append<B: NetBackend>(values: &mut Vec<f32>, rows: Tensor<B, 2>, count: usize) -> Result<()> {
    values.extend(to_host(rows.narrow(0, 0, count))?);
    Ok(())
}

/// Copies codes to the host. A codebook has at most 65,536 entries, so a code fits in 16 bits.
pub fn host_codes<B: NetBackend>(codes: Tensor<B, 3, Int>) -> Result<Vec<u16>> {
    let data = codes.try_into_data().map_err(|error| execution_error(&error))?;
    Ok(data.iter::<i64>().map(|code| code as u16).collect())
}

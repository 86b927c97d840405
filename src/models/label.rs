//! Labelling: frames and windows -> latent actions, codes and quality measures.
//!
//! [`labeller`] loads a weight file and returns the device-independent [`Labeller`];
//! [`Labeller::label`] does the work. Frames are uploaded once, and the overlapping windows are
//! gathered on the device.

use burn::tensor::{Int, Tensor};

use super::device::{CPU_PASS, on_device};
use super::fdm::Fdm;
use super::frames::{Frames, Windows, count_frames, frame_shape, mean_per_window};
use super::idm::Idm;
use super::init::Init;
use super::layers::{Mode, NetBackend};
use super::passes::in_passes;
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

impl LabelOutputs {
    /// Returns the number of values per window.
    fn columns(self, config: &DynamicsConfig) -> usize {
        let codes = if self.codes { config.codes() } else { 0 };
        1 + config.latent_dim() + codes + usize::from(self.fdm_error)
    }
}

impl WindowLabels {
    /// Appends the label of one window: motion, latent action, codes, error.
    fn push(&mut self, row: &[f32], latent_dim: usize, want: LabelOutputs) {
        let (latent_action, rest) = row[1..].split_at(latent_dim);
        let (codes, fdm_error) = rest.split_at(rest.len() - usize::from(want.fdm_error));
        self.motion.push(row[0]);
        self.latent_action.extend(latent_action);
        self.latent_code.extend(codes.iter().map(|code| *code as u16));
        self.fdm_error.extend(fdm_error);
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

/// Passes that a GPU gets before their labels are read back together.
const QUEUED_PASSES: usize = 4;

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
        let frames = Frames::<B>::upload(
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

    /// Labels one pass of at most `self.pass` windows. All outputs are in one tensor, so that one
    /// copy brings them to the host.
    ///
    /// # Shapes
    /// - output: `[window, columns]`, see [`WindowLabels::push`]
    fn label_pass(&self, frames: &[u8], starts: &[usize], want: LabelOutputs) -> Tensor<B, 2> {
        let windows = self.windows(frames, starts);
        let last = windows.last();
        let next = windows.next();
        let motion = mean_per_window((next.clone() - last).abs()).unsqueeze_dim(1);
        let latent_action = self.idm.forward(&windows, &mut Mode::Folded);
        let mut columns = vec![motion, latent_action.clone()];
        // The FDM is the expensive part: it does not run unless requested.
        if want.codes || want.fdm_error {
            let (latent_action_q, codes) = self.idm.vq.bottleneck(latent_action);
            if want.codes {
                columns.push(as_floats(codes));
            }
            if want.fdm_error {
                let predicted = self.fdm.forward(&windows, latent_action_q, &mut Mode::Folded);
                let error = predicted - next;
                columns.push(mean_per_window(error.clone() * error).unsqueeze_dim(1));
            }
        }
        // The rows after these are padding.
        Tensor::cat(columns, 1).narrow(0, 0, starts.len())
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
        // A GPU computes the passes in its queue while this thread prepares the next ones.
        let queued = if B::IS_CPU { self.pass } else { self.pass * QUEUED_PASSES };
        let read = |networks: &Self, starts: &[usize]| {
            let passes = starts.chunks(networks.pass);
            let passes = passes.map(|starts| networks.label_pass(frames, starts, want)).collect();
            to_host(Tensor::cat(passes, 0))
        };
        let rows = in_passes::<B, _, _, _, _>(self, starts, queued, read)?;
        let mut labels = WindowLabels::default();
        for row in rows.concat().chunks_exact(want.columns(&self.config)) {
            labels.push(row, self.config.latent_dim(), want);
        }
        Ok(labels)
    }
}

/// Converts codes to floats, which are exact: a codebook has at most 65,536 entries.
///
/// # Shapes
/// - `codes`: `[batch, codebooks, positions]`
/// - output: `[batch, codebooks * positions]`
pub fn as_floats<B: NetBackend>(codes: Tensor<B, 3, Int>) -> Tensor<B, 2> {
    codes.flatten::<2>(1, 2).float()
}

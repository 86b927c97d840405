//! Labelling: frames and the windows in them go in; latent actions, codes and the signs of their quality come out.
//!
//! [`labeller`] reads a weight file and hides the device behind [`Labeller`]; [`Labeller::label`] is the work. Frames are uploaded once
//! and windows, which overlap, are gathered on the device.

use burn::tensor::{Int, Tensor};
use rayon::prelude::*;

use super::device::{CPU_PASS, on_device};
use super::fdm::Fdm;
use super::frames::{Windows, count_frames, frame_shape, mean_per_window, upload};
use super::idm::Idm;
use super::init::Init;
use super::layers::{Mode, NetBackend};
use super::weights::{Weights, to_host};
use super::{Device, DynamicsConfig, ModelError, Precision, Result};

/// What to compute beside the latent action and the motion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// The codes of the latent action.
    pub codes: bool,
    /// The world model's error, which costs more than all the rest.
    pub fdm_error: bool,
}

/// One label per window, in the order asked for; a field is empty if it was not wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labelled {
    /// `[window, latent_dim]`: before quantisation
    pub latent_action: Vec<f32>,
    /// `[window, codebook, position]`
    pub latent_code: Vec<u16>,
    /// `[window]`: mean squared error of the predicted frame, pixels spanning 1
    pub fdm_error: Vec<f32>,
    /// `[window]`: mean absolute change from o\[t\] to o\[t+1\], pixels spanning 1
    pub motion: Vec<f32>,
}

impl Labelled {
    fn then(mut self, next: Labelled) -> Labelled {
        self.latent_action.extend(next.latent_action);
        self.latent_code.extend(next.latent_code);
        self.fdm_error.extend(next.fdm_error);
        self.motion.extend(next.motion);
        self
    }
}

/// A trained IDM and FDM, ready to label.
pub trait Labeller: Send {
    /// The sizes of its networks.
    fn config(&self) -> &DynamicsConfig;

    /// Labels the windows that begin at `starts`. A window's label depends on nothing but its own pixels.
    ///
    /// # Shapes
    /// - `frames`: `[count, height, width, channel]`
    /// - `starts`: index of each window's first frame
    fn label(&self, frames: &[u8], starts: &[usize], want: Want) -> Result<Labelled>;
}

/// Loads IDM and FDM from a safetensors file, ours or a published one.
pub fn labeller(
    device: &Device,
    weights: &[u8],
    precision: Precision,
) -> Result<Box<dyn Labeller>> {
    device.check()?;
    let weights = Weights::parse(weights)?;
    on_device!(device, B, at => Ok(Box::new(Networks::<B>::load(&weights, at, device.pass(), precision)?)))
}

#[derive(Clone)]
struct Networks<B: NetBackend> {
    config: DynamicsConfig,
    idm: Idm<B>,
    fdm: Fdm<B>,
    device: B::Device,
    /// Most windows in one pass. Passes are filled up to a power of two, on a CPU to this one, so that every label is computed by the same
    /// operations on the same shapes.
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

    /// Uploads the frames that some windows span, and gathers the windows.
    fn windows(&self, frames: &[u8], starts: &[usize]) -> Windows<B> {
        let time = self.config.window();
        let frame: usize = frame_shape(&self.config).iter().product();
        let first = starts.iter().min().copied().unwrap_or(0);
        let end = starts.iter().max().map_or(0, |last| last + time);
        let frames = upload::<B>(
            &frames[first * frame..end * frame],
            frame_shape(&self.config),
            &self.device,
        );

        let pass = starts.len().next_power_of_two().clamp(CPU_PASS, self.pass);
        let filled: Vec<usize> = starts
            .iter()
            .chain(std::iter::repeat(&starts[0]))
            .take(pass)
            .map(|s| s - first)
            .collect();
        Windows::gather(frames, &filled, time).at(self.precision)
    }

    /// Labels `starts`, at most a pass of them.
    fn label_pass(&self, frames: &[u8], starts: &[usize], want: Want) -> Result<Labelled> {
        let (windows, count) = (self.windows(frames, starts), starts.len());
        let (last, next) = (windows.last(), windows.next());
        let mut labelled = Labelled::default();
        append(
            &mut labelled.motion,
            mean_per_window((next.clone() - last).abs()).unsqueeze_dim(1),
            count,
        )?;
        let latent_action = self.idm.forward(&windows, &mut Mode::Folded);
        append(&mut labelled.latent_action, latent_action.clone(), count)?;
        if !want.codes && !want.fdm_error {
            return Ok(labelled);
        }
        let (latent_action_q, codes) = self.idm.vq.bottleneck(latent_action);
        if want.codes {
            let codes = host_codes(codes)?;
            labelled.latent_code.extend(&codes[..count * self.config.codes()]);
        }
        if want.fdm_error {
            let predicted = self.fdm.forward(&windows, latent_action_q, &mut Mode::Folded);
            let off = predicted - next;
            append(
                &mut labelled.fdm_error,
                mean_per_window(off.clone() * off).unsqueeze_dim(1),
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

    fn label(&self, frames: &[u8], starts: &[usize], want: Want) -> Result<Labelled> {
        let count = count_frames(frames, &self.config)?;
        let time = self.config.window();
        if let Some(start) = starts.iter().find(|&&start| start + time > count) {
            let seen = format!("frames {start} to {} of {count}", start + time - 1);
            return Err(ModelError::Frames {
                what: "a window",
                seen,
                expected: format!("{time} frames that exist"),
            });
        }
        let pass = |networks: &mut Self, starts| networks.label_pass(frames, starts, want);
        let passes: Vec<_> =
            starts.par_chunks(self.pass).map_with(self.clone(), pass).collect::<Result<_>>()?;
        Ok(passes.into_iter().fold(Labelled::default(), Labelled::then))
    }
}

/// Appends the first `count` rows.
fn append<B: NetBackend>(values: &mut Vec<f32>, rows: Tensor<B, 2>, count: usize) -> Result<()> {
    values.extend(to_host(rows.narrow(0, 0, count))?);
    Ok(())
}

/// Copies codes to the host; a codebook has at most 65536 entries.
pub fn host_codes<B: NetBackend>(codes: Tensor<B, 3, Int>) -> Result<Vec<u16>> {
    let data =
        codes.try_into_data().map_err(|error| ModelError::Execution(format!("{error:?}")))?;
    Ok(data.iter::<i64>().map(|code| code as u16).collect())
}

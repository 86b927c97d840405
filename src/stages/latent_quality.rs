//! Tests of latent actions that find bad ones: whether they leak the next frame, mean the same in
//! another context, add up, and follow the camera. Start at [`measure`].
//!
//! Two tests join unrelated clips `A` and `B`, windows of different episodes:
//!
//! | test | latent action | the FDM predicts from | compared with |
//! |---|---|---|---|
//! | splice | of the past of `A` and the end of `B` | the past of `A` | the last frame of `B` |
//! | transfer | of `A` | the past of `B` | the last frame of `A` |
//!
//! A latent action that says what changed cannot paint a frame of another clip. One that holds the
//! next frame can. The score of either test is the share of the unrelated frame that is rebuilt: 1
//! minus the error, over the error of a prediction that does not know the frame. That is the
//! smaller of two: copying the last frame, and the FDM with the latent action of yet another
//! window. So a blurred average of all frames scores 0.
//!
//! The splice finds a copy of the next frame and a copy of the change to it; the transfer finds the
//! former even if the IDM copies only frames like those in training. The spliced frame is upside
//! down, so that it is unrelated even if all clips show one scene: there, moving the agent is
//! enough to rebuild an upright frame of another clip.
//!
//! [`SPLICE_LEAK`] and [`TRANSFER_LEAK`] lie between planted leaks and healthy models, see `tests`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Error;
use super::model_files::ratio;
use crate::dataset::{Shards, WindowIndex};
use crate::models::predict::{as_bytes, pixels, squared_error};

mod camera;
mod clips;
mod sentences;
mod statistics;
#[cfg(test)]
mod tests;

use camera::CameraMotion;
use clips::Clips;
pub use sentences::Property;
use statistics::{Columns, correlation, explained_share};

/// A latent action leaks the next frame if it rebuilds at least this share of a spliced one. Moving
/// a bright agent to the right place alone rebuilds up to 0.31 in `tests`, planted leaks at least
/// 0.73 (0.43 if they paint 4 x 4 cells).
const SPLICE_LEAK: f64 = 0.5;
/// A latent action leaks the next frame if it rebuilds at least this share in another clip. In
/// `tests`, healthy models rebuild at most 0.04, planted painters and trained copies at least 0.25.
const TRANSFER_LEAK: f64 = 0.15;
/// The maximum number of windows for these tests.
const WINDOWS: usize = 512;
/// Windows in a forward pass.
const PASS: usize = 64;

/// The properties of latent actions. `None`: not measured, or undefined.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LatentQuality {
    /// The share of the last frame of an unrelated clip that the FDM rebuilds from the latent
    /// action of the splice.
    pub splice_rebuilt: Option<f64>,
    /// The share of a frame that the FDM rebuilds in an unrelated clip from its latent action.
    pub transfer_rebuilt: Option<f64>,
    /// How closely the IDM infers a latent action again from a frame predicted with it in an
    /// unrelated clip: 1 exactly, 0 no closer than to another window's.
    pub cycle_consistency: Option<f64>,
    /// The correlation of z(a, c) and z(a, b) + z(b, c), for three consecutive frames.
    pub additivity: Option<f64>,
    /// The correlation of z(b, a) and -z(a, b).
    pub reversibility: Option<f64>,
    /// The PSNR of the FDM with its own latent actions, minus that with shuffled ones, in dB.
    pub information_db: Option<f64>,
    /// The share of the commonest tuple of codes.
    pub commonest_code_share: Option<f64>,
    /// R2 of a linear fit from latent actions to the motion of the whole frame.
    pub global_motion_r2: Option<f64>,
    /// R2 of a linear fit from latent actions to the motion of the frame's border.
    pub background_motion_r2: Option<f64>,
}

/// IDM and FDM for windows of frames, `[window, time, height, width, channel]`.
pub(super) trait WindowNetworks {
    /// Infers latent actions: `[window, latent_dim]`, before quantisation.
    fn infer(&self, windows: &[u8], count: usize) -> Result<Vec<f32>, Error>;

    /// Predicts last frames from the frames before them and latent actions before quantisation.
    ///
    /// # Shapes
    /// - output: `[window, height, width, channel]`, in [-0.5, 0.5], or slightly beyond
    fn predict(
        &self,
        windows: &[u8],
        count: usize,
        latent_action: &[f32],
    ) -> Result<Vec<f32>, Error>;
}

/// Tests latent actions on windows that the index lists. Leaves `information_db` and
/// `commonest_code_share` to the caller, who has their inputs.
pub(super) fn measure(
    networks: &dyn WindowNetworks,
    shards: &Shards,
    index: &WindowIndex,
    seed: u64,
) -> Result<LatentQuality, Error> {
    let clips = Clips::new(shards, index);
    let pairs = clips.pairs(WINDOWS, seed);
    // Another window's latent action is needed, and there is none.
    if pairs.len() < 2 {
        return Ok(LatentQuality::default());
    }
    let mut tests = Tests::default();
    // Passes of nearly equal size, so that none has a single window.
    let passes = pairs.len().div_ceil(PASS);
    for pairs in pairs.chunks(pairs.len().div_ceil(passes)) {
        tests.add(networks, &clips, pairs)?;
    }
    Ok(tests.quality())
}

/// The sums and latent actions of all passes.
#[derive(Default)]
struct Tests {
    splice: Rebuilt,
    transfer: Rebuilt,
    cycle: Cycle,
    /// z(a, c) and z(a, b) + z(b, c).
    added: [Columns; 2],
    /// z(b, a) and -z(a, b).
    reversed: [Columns; 2],
    latent_action: Columns,
    global_motion: Columns,
    background_motion: Columns,
}

impl Tests {
    /// Adds windows, each with a window of an unrelated clip.
    fn add(
        &mut self,
        networks: &dyn WindowNetworks,
        clips: &Clips,
        pairs: &[(usize, usize)],
    ) -> Result<(), Error> {
        let count = pairs.len();
        let (own, unrelated): (Vec<usize>, Vec<usize>) = pairs.iter().copied().unzip();
        let (own_frames, unrelated_frames) = (clips.windows(&own)?, clips.windows(&unrelated)?);
        let latent_action = networks.infer(&own_frames, count)?;
        let dim = latent_action.len() / count;

        let spliced = clips.with_last(&own_frames, &clips.upside_down(&unrelated_frames));
        let of_splice = networks.infer(&spliced, count)?;
        let predicted = networks.predict(&spliced, count, &of_splice)?;
        let other = networks.predict(&spliced, count, &rotated(&of_splice, dim))?;
        self.splice.add(clips, &spliced, &spliced, &predicted, &other);

        let other_action = rotated(&latent_action, dim);
        let predicted = networks.predict(&unrelated_frames, count, &latent_action)?;
        let other = networks.predict(&unrelated_frames, count, &other_action)?;
        self.transfer.add(clips, &unrelated_frames, &own_frames, &predicted, &other);

        let again = clips.with_last(&unrelated_frames, &as_bytes(&predicted));
        self.cycle.add(&networks.infer(&again, count)?, &latent_action, &other_action);

        self.add_neighbours(networks, clips, &own, &latent_action)?;
        for window in own_frames.chunks_exact(clips.window_bytes()) {
            let motion = CameraMotion::of(clips.last_two(window), clips.side());
            self.global_motion.push(&motion.global);
            self.background_motion.push(&motion.border);
        }
        latent_action.chunks_exact(dim).for_each(|row| self.latent_action.push(row));
        Ok(())
    }

    /// Compares the latent actions of neighbouring, skipped and reversed transitions. Windows
    /// without enough frames after them do not count.
    fn add_neighbours(
        &mut self,
        networks: &dyn WindowNetworks,
        clips: &Clips,
        windows: &[usize],
        latent_action: &[f32],
    ) -> Result<(), Error> {
        let dim = latent_action.len() / windows.len();
        let continued = clips.continued(windows)?;
        let count = continued.positions.len();
        if count == 0 {
            return Ok(());
        }
        let next = networks.infer(&continued.next, count)?;
        let skipped = networks.infer(&continued.skipped, count)?;
        let reversed = networks.infer(&continued.reversed, count)?;
        for (i, position) in continued.positions.into_iter().enumerate() {
            let row = |of: &'_ [f32], i: usize| of[i * dim..][..dim].to_vec();
            let own = row(latent_action, position);
            let sum: Vec<f32> = own.iter().zip(row(&next, i)).map(|(a, b)| a + b).collect();
            self.added[0].push(&row(&skipped, i));
            self.added[1].push(&sum);
            self.reversed[0].push(&row(&reversed, i));
            self.reversed[1].push(&own.iter().map(|z| -z).collect::<Vec<_>>());
        }
        Ok(())
    }

    fn quality(&self) -> LatentQuality {
        let [skipped, sums] = &self.added;
        let [backward, negated] = &self.reversed;
        LatentQuality {
            splice_rebuilt: self.splice.share(),
            transfer_rebuilt: self.transfer.share(),
            cycle_consistency: self.cycle.consistency(),
            additivity: correlation(skipped, sums),
            reversibility: correlation(backward, negated),
            global_motion_r2: explained_share(&self.latent_action, &self.global_motion),
            background_motion_r2: explained_share(&self.latent_action, &self.background_motion),
            ..LatentQuality::default()
        }
    }
}

/// Sums of squared errors of an unrelated frame.
#[derive(Default)]
struct Rebuilt {
    own: f64,
    /// With the latent action of another window.
    other: f64,
    /// Of copying the last frame.
    copy: f64,
}

impl Rebuilt {
    /// Adds windows: `past` with the frame before the predicted one, `real` with the right one.
    fn add(&mut self, clips: &Clips, past: &[u8], real: &[u8], own: &[f32], other: &[f32]) {
        let bytes = clips.window_bytes();
        let frame = clips.frame_bytes();
        let predicted = own.chunks_exact(frame).zip(other.chunks_exact(frame));
        let windows = past.chunks_exact(bytes).zip(real.chunks_exact(bytes));
        for ((past, real), (own, other)) in windows.zip(predicted) {
            let [copied, _] = clips.last_two(past);
            let [_, real] = clips.last_two(real);
            self.own += squared_error(own, real);
            self.other += squared_error(other, real);
            self.copy += squared_error(&pixels(copied), real);
        }
    }

    fn share(&self) -> Option<f64> {
        // `min` would ignore a NaN.
        let all_finite = self.other.is_finite() && self.copy.is_finite();
        ratio(self.own, self.copy.min(self.other)).filter(|_| all_finite).map(|share| 1.0 - share)
    }
}

/// Sums of squared distances of latent actions inferred from predicted frames.
#[derive(Default)]
struct Cycle {
    own: f64,
    other: f64,
}

impl Cycle {
    fn add(&mut self, again: &[f32], own: &[f32], other: &[f32]) {
        let distance = |to: &[f32]| -> f64 {
            again.iter().zip(to).map(|(a, b)| f64::from(a - b).powi(2)).sum()
        };
        self.own += distance(own);
        self.other += distance(other);
    }

    fn consistency(&self) -> Option<f64> {
        ratio(self.own, self.other).map(|share| 1.0 - share)
    }
}

/// Returns by how many decibels the PSNR of one error is below that of another. `None` if either
/// error is 0 or not finite.
pub(super) fn decibels(larger: f64, smaller: f64) -> Option<f64> {
    ratio(larger, smaller).filter(|ratio| *ratio > 0.0).map(|ratio| 10.0 * ratio.log10())
}

/// Returns the share of the commonest tuple of codes. `None` without codes.
///
/// # Shapes
/// - `codes`: `[window, codebook * position]`
pub(super) fn commonest_share(codes: &[u16], width: usize) -> Option<f64> {
    let mut counts: HashMap<&[u16], usize> = HashMap::new();
    for tuple in codes.chunks_exact(width.max(1)) {
        *counts.entry(tuple).or_default() += 1;
    }
    let commonest = counts.values().max()?;
    Some(*commonest as f64 / counts.values().sum::<usize>() as f64)
}

/// Returns the latent actions of the next windows; that of the first one comes last.
fn rotated(latent_action: &[f32], dim: usize) -> Vec<f32> {
    let mut rotated = latent_action.to_vec();
    rotated.rotate_left(dim);
    rotated
}

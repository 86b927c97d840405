//! The bottleneck between IDM and FDM: latent actions -> codes and quantised latent actions
//! (VQ-VAE, van den Oord et al., 2017, with codebooks that follow moving averages).
//!
//! [`Quantiser::forward`] never changes the codebooks; training passes its result to
//! [`Quantiser::update`]. A latent action has the layout `[codebook, dim, position]`. The vectors
//! of one codebook, over batch and positions, are called *rows*.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData, backend::Backend};
use rand::Rng;
use rand::seq::SliceRandom;

use super::conv::matmul;
use super::init::{Init, set_state};
use super::layers::{NetBackend, nearest};
use super::weights::to_host;
use super::{EmaStart, Result, VqConfig};

/// The codebooks and their moving averages.
#[derive(Module, Debug)]
pub struct Quantiser<B: Backend> {
    /// `[codebooks, entries, dim]`
    embedding: Param<Tensor<B, 3>>,
    /// `[codebooks, entries]`: moving average of the uses of each code
    ema_count: Param<Tensor<B, 2>>,
    /// `[codebooks, entries, dim]`: moving average of the sum of its rows
    ema_weight: Param<Tensor<B, 3>>,
    /// `[entries]`: the numbers of the codes
    entries: Tensor<B, 1, Int>,
    #[module(skip)]
    config: VqConfig,
}

/// The quantisation of a batch.
#[derive(Clone, Debug)]
pub struct Quantised<B: Backend> {
    /// `[batch, latent_dim]`, with a straight-through gradient
    pub latent_action_q: Tensor<B, 2>,
    /// `[1]`: the weighted commitment loss
    pub loss: Tensor<B, 1>,
    /// `[batch, codebooks, positions]`
    pub codes: Tensor<B, 3, Int>,
    /// `[codebooks, entries]`: number of rows per code
    pub usage: Tensor<B, 2>,
    /// `[codebooks, rows, dim]`, detached
    pub rows: Tensor<B, 3>,
    /// `[codebooks, rows, entries]`: one-hot codes
    chosen: Tensor<B, 3>,
}

/// Rows with their nearest codes.
struct Nearest<B: Backend> {
    /// `[codebooks, rows, dim]`
    rows: Tensor<B, 3>,
    /// `[codebooks, rows]`
    codes: Tensor<B, 2, Int>,
    /// `[codebooks, rows, dim]`: `rows` minus their codes
    difference: Tensor<B, 3>,
}

impl<B: Backend> Quantised<B> {
    /// Joins the passes of one step for [`Quantiser::update`] and [`Quantiser::reseed`]. The fields
    /// that only a pass's own gradient needs are those of the first pass.
    pub fn join(passes: Vec<Self>) -> Option<Self> {
        let mut passes = passes.into_iter();
        let first = passes.next()?;
        Some(passes.fold(first, |all, pass| Quantised {
            usage: all.usage + pass.usage,
            rows: Tensor::cat(vec![all.rows, pass.rows], 1),
            chosen: Tensor::cat(vec![all.chosen, pass.chosen], 1),
            ..all
        }))
    }
}

impl<B: NetBackend> Quantiser<B> {
    /// Smoothing of the counts, as published.
    const EPSILON: f64 = 1e-5;

    /// Creates codebooks uniform in ±5/entries.
    pub fn new(init: &mut Init<'_, B>, config: &VqConfig) -> Self {
        let shape = [config.codebooks, config.entries, config.dim];
        let count = match config.ema_start {
            EmaStart::Warm => 1.0,
            EmaStart::Zero => 0.0,
        };
        let embedding = init.uniform_state(shape, 5.0 / config.entries as f32);
        let mut ema_weight = init.state(shape, 0.0);
        set_state(&mut ema_weight, embedding.val());
        Quantiser {
            embedding,
            ema_count: init.state([config.codebooks, config.entries], count),
            ema_weight,
            entries: init.numbers_below(config.entries),
            config: config.clone(),
        }
    }

    /// Returns the FDM's input and the codes: quantised latent actions or, if the model never
    /// quantises, the raw ones and zeros.
    ///
    /// # Shapes
    /// - `latent_action`: `[batch, codebooks * dim * positions]`
    /// - outputs: `[batch, codebooks * dim * positions]` and `[batch, codebooks, positions]`
    pub fn bottleneck(&self, latent_action: Tensor<B, 2>) -> (Tensor<B, 2>, Tensor<B, 3, Int>) {
        if self.config.quantises() {
            let batch = latent_action.dims()[0];
            let Nearest { rows, codes, difference } = self.nearest(latent_action);
            let latent_action_q = self.straight_through(rows, difference, batch);
            return (latent_action_q, self.by_window(codes, batch));
        }
        let shape = [latent_action.dims()[0], self.config.codebooks, self.config.positions];
        let codes = Tensor::zeros(shape, &latent_action.device());
        (latent_action, codes)
    }

    /// Replaces each row by its nearest code.
    ///
    /// # Shapes
    /// - `latent_action`: `[batch, codebooks * dim * positions]`
    /// - output: see [`Quantised`]
    pub fn forward(&self, latent_action: Tensor<B, 2>) -> Quantised<B> {
        let VqConfig { codebooks, positions, entries, commitment, .. } = self.config;
        let batch = latent_action.dims()[0];
        let count = batch * positions;
        let Nearest { rows, codes, difference } = self.nearest(latent_action);

        // One-hot codes: each index is compared with all entries.
        let all = self.entries.clone().reshape([1, 1, entries]);
        let chosen = codes
            .clone()
            .unsqueeze_dim::<3>(2)
            .expand([codebooks, count, entries])
            .equal(all.expand([codebooks, count, entries]))
            .float();

        let loss = (difference.clone() * difference.clone()).mean() * commitment;
        Quantised {
            latent_action_q: self.straight_through(rows.clone(), difference, batch),
            loss,
            codes: self.by_window(codes, batch),
            usage: chosen.clone().sum_dim(1).reshape([codebooks, entries]),
            rows: rows.detach(),
            chosen,
        }
    }

    /// Finds the nearest code of each row.
    ///
    /// # Shapes
    /// - `latent_action`: `[batch, codebooks * dim * positions]`
    fn nearest(&self, latent_action: Tensor<B, 2>) -> Nearest<B> {
        let rows = self.rows(latent_action);
        let embedding = self.embedding.val();
        let codes = nearest(rows.clone().detach(), embedding.clone());
        let index = codes.clone().unsqueeze_dim::<3>(2).expand(rows.shape());
        let difference = rows.clone() - embedding.gather(1, index);
        Nearest { rows, codes, difference }
    }

    /// Replaces rows by their codes. Backward it is the identity (straight-through estimator).
    ///
    /// # Shapes
    /// - `rows`, `difference`: as in [`Nearest`]
    /// - output: `[batch, codebooks * dim * positions]`
    fn straight_through(
        &self,
        rows: Tensor<B, 3>,
        difference: Tensor<B, 3>,
        batch: usize,
    ) -> Tensor<B, 2> {
        let VqConfig { codebooks, positions, dim, .. } = self.config;
        // [codebook, batch, position, dim] -> [batch, codebook * dim * position].
        (rows - difference.detach())
            .reshape([codebooks, batch, positions, dim])
            .permute([1, 0, 3, 2])
            .reshape([batch, codebooks * dim * positions])
    }

    /// Brings the codes of a batch into the order of its windows.
    ///
    /// # Shapes
    /// - `codes`: `[codebooks, batch * positions]`
    /// - output: `[batch, codebooks, positions]`
    fn by_window(&self, codes: Tensor<B, 2, Int>, batch: usize) -> Tensor<B, 3, Int> {
        let VqConfig { codebooks, positions, .. } = self.config;
        codes.reshape([codebooks, batch, positions]).swap_dims(0, 1)
    }

    /// Moves the codebooks towards their rows by one step of the moving averages.
    pub fn update(&mut self, seen: &Quantised<B>) {
        let VqConfig { codebooks, entries, decay, .. } = self.config;
        let count = self.ema_count.val() * decay + seen.usage.clone() * (1.0 - decay);
        let total = count.clone().sum_dim(1);
        // Laplace smoothing keeps unused codes from dividing by zero; the total stays the same.
        let smooth = total.clone() + entries as f64 * Self::EPSILON;
        let count = (count + Self::EPSILON) / smooth * total;
        let row_sums = matmul(seen.chosen.clone().swap_dims(1, 2), seen.rows.clone());
        let weight = self.ema_weight.val() * decay + row_sums * (1.0 - decay);
        set_state(
            &mut self.embedding,
            weight.clone() / count.clone().reshape([codebooks, entries, 1]),
        );
        set_state(&mut self.ema_count, count);
        set_state(&mut self.ema_weight, weight);
    }

    /// Moves codes, given as `(codebook, entry)`, onto random rows of a batch. Each then counts as
    /// used once. Rows are drawn without replacement while there are enough.
    ///
    /// # Shapes
    /// - `rows`: `[codebooks, rows, dim]`, as in [`Quantised`]
    pub fn reseed(
        &mut self,
        rows: &Tensor<B, 3>,
        pairs: &[(usize, usize)],
        rng: &mut impl Rng,
    ) -> Result<()> {
        if pairs.is_empty() {
            return Ok(());
        }
        let VqConfig { entries, dim, .. } = self.config;
        let [codebooks, count, _] = rows.dims();
        let device = rows.device();
        let rows = to_host(rows.clone())?;
        let mut embedding = to_host(self.embedding.val())?;
        let mut weight = to_host(self.ema_weight.val())?;
        let mut used = to_host(self.ema_count.val())?;
        // Each codebook cycles through a random order, so rows repeat only after all were drawn.
        let mut draws: Vec<_> = (0..codebooks)
            .map(|_| {
                let mut order: Vec<_> = (0..count).collect();
                order.shuffle(rng);
                order.into_iter().cycle()
            })
            .collect();
        for &(codebook, entry) in pairs {
            let drawn = draws[codebook].next().expect("a batch has rows");
            let row = (codebook * count + drawn) * dim;
            let at = codebook * entries + entry;
            embedding[at * dim..][..dim].copy_from_slice(&rows[row..][..dim]);
            weight[at * dim..][..dim].copy_from_slice(&rows[row..][..dim]);
            used[at] = 1.0;
        }
        let shape = [codebooks, entries, dim];
        set_state(
            &mut self.embedding,
            Tensor::from_data(TensorData::new(embedding, shape), &device),
        );
        set_state(&mut self.ema_weight, Tensor::from_data(TensorData::new(weight, shape), &device));
        set_state(
            &mut self.ema_count,
            Tensor::from_data(TensorData::new(used, [codebooks, entries]), &device),
        );
        Ok(())
    }

    /// Splits latent actions into rows.
    ///
    /// # Shapes
    /// - `latent_action`: `[batch, codebooks * dim * positions]`
    /// - output: `[codebooks, batch * positions, dim]`
    pub fn rows(&self, latent_action: Tensor<B, 2>) -> Tensor<B, 3> {
        let VqConfig { codebooks, positions, dim, .. } = self.config;
        let batch = latent_action.dims()[0];
        latent_action.reshape([batch, codebooks, dim, positions]).permute([1, 0, 3, 2]).reshape([
            codebooks,
            batch * positions,
            dim,
        ])
    }
}

/// Returns how evenly the codes of one codebook are used: 1 if there is a single code in use, the
/// number of codes if all are used equally.
pub fn perplexity(usage: &[f32]) -> f32 {
    let total: f64 = usage.iter().map(|&count| f64::from(count)).sum();
    let entropy: f64 = usage
        .iter()
        .map(|&count| f64::from(count) / total)
        // The small number keeps the logarithm of an unused code finite.
        .map(|share| -share * (share + 1e-10).ln())
        .sum();
    entropy.exp() as f32
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::models::device::{device_under_test, on_device};

    #[test]
    fn the_bottleneck_quantises_as_training_does() {
        let config = VqConfig { codebooks: 2, positions: 3, dim: 4, ..VqConfig::default() };
        on_device!(&device_under_test(), B, at => {
            let mut init = Init::<B>::new(1, &at);
            let vq = Quantiser::new(&mut init, &config);
            let latent_action = init.uniform([5, 24], 0.2).val();
            let trained = vq.forward(latent_action.clone());
            let (latent_action_q, codes) = vq.bottleneck(latent_action);
            assert_eq!(
                to_host(latent_action_q).unwrap(),
                to_host(trained.latent_action_q).unwrap()
            );
            assert_eq!(codes.into_data(), trained.codes.into_data());
        });
    }
}

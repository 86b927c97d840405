//! Pixels become tensors: `u8` frames are uploaded as they are and normalised on the device.

use burn::tensor::{DType, Int, Tensor, TensorData, backend::Backend};

use super::{DynamicsConfig, ModelError, Result};

/// Uploads frames.
///
/// # Shapes
/// - `pixels`: `count` frames of `[height, width, channel]`
/// - output: `[count, channel, height, width]`, in [-0.5, 0.5]
pub fn upload<B: Backend>(pixels: &[u8], [height, width, channels]: [usize; 3], device: &B::Device) -> Tensor<B, 4> {
    let count = pixels.len() / (height * width * channels);
    let data = TensorData::new(pixels.to_vec(), [count, height, width, channels]);
    let pixels = Tensor::<B, 4, Int>::from_data(data, (device, DType::U8));
    pixels.permute([0, 3, 1, 2]).float() / 255.0 - 0.5
}

/// A batch of windows, each its frames stacked along the channels.
#[derive(Clone, Debug)]
pub struct Windows<B: Backend> {
    /// `[batch, time * channel, height, width]`, in [-0.5, 0.5]
    pub stacked: Tensor<B, 4>,
    channels: usize,
}

impl<B: Backend> Windows<B> {
    /// Stacks consecutive frames.
    ///
    /// # Shapes
    /// - `frames`: `[batch * time, channel, height, width]`
    pub fn stack(frames: Tensor<B, 4>, time: usize) -> Self {
        let [count, channels, height, width] = frames.dims();
        Windows { stacked: frames.reshape([count / time, time * channels, height, width]), channels }
    }

    /// Everything but o\[t+1\].
    pub fn past(&self) -> Tensor<B, 4> {
        let stack = self.stacked.dims()[1];
        self.stacked.clone().narrow(1, 0, stack - self.channels)
    }

    /// The frame o\[t\].
    pub fn last(&self) -> Tensor<B, 4> {
        self.frame_from_end(2)
    }

    /// The frame o\[t+1\].
    pub fn next(&self) -> Tensor<B, 4> {
        self.frame_from_end(1)
    }

    fn frame_from_end(&self, back: usize) -> Tensor<B, 4> {
        let stack = self.stacked.dims()[1];
        self.stacked.clone().narrow(1, stack - back * self.channels, self.channels)
    }
}

/// `[batch]`: the mean over each window's pixels and channels.
pub fn mean_per_window<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 1> {
    let [batch, ..] = x.dims();
    x.flatten::<2>(1, 3).mean_dim(1).reshape([batch])
}

/// The side, side and channels of `config`'s frames.
pub fn frame_shape(config: &DynamicsConfig) -> [usize; 3] {
    [config.frame_size, config.frame_size, config.channels]
}

/// Says whether `pixels` are whole frames of `config`, and how many.
pub fn count_frames(pixels: &[u8], config: &DynamicsConfig) -> Result<usize> {
    let bytes: usize = frame_shape(config).iter().product();
    if pixels.is_empty() || !pixels.len().is_multiple_of(bytes) {
        let (size, channels) = (config.frame_size, config.channels);
        return Err(ModelError::Frames {
            what: "frames",
            seen: format!("{} bytes", pixels.len()),
            expected: format!("whole frames of {size} x {size} x {channels} bytes"),
        });
    }
    Ok(pixels.len() / bytes)
}

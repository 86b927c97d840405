//! Uploads frames and gathers windows. Frames travel to the device as `u8` and are normalised
//! there.

use std::ops::Range;

use burn::tensor::{DType, Int, Tensor, TensorData, backend::Backend};

use super::{DynamicsConfig, ModelError, Precision, Result};

/// Uploads frames as normalised tensors. Channels move to the front on the host, since permuting
/// bytes is cheaper than permuting floats.
///
/// # Shapes
/// - `pixels`: `[count, height, width, channel]`
/// - output: `[count, channel, height, width]`, in [-0.5, 0.5]
pub fn upload<B: Backend>(
    pixels: &[u8],
    [height, width, channels]: [usize; 3],
    device: &B::Device,
) -> Tensor<B, 4> {
    let plane = height * width;
    let mut planes = vec![0; pixels.len()];
    for (planes, frame) in
        planes.chunks_exact_mut(plane * channels).zip(pixels.chunks_exact(plane * channels))
    {
        for (channel, plane) in planes.chunks_exact_mut(plane).enumerate() {
            // Every `channels`-th byte of an interleaved frame belongs to this channel.
            for (to, from) in plane.iter_mut().zip(frame.iter().skip(channel).step_by(channels)) {
                *to = *from;
            }
        }
    }
    let data =
        TensorData::new(planes, [pixels.len() / (plane * channels), channels, height, width]);
    Tensor::<B, 4, Int>::from_data(data, (device, DType::U8)).float() / 255.0 - 0.5
}

/// A batch of windows, each with its frames stacked along the channels. All parts are contiguous
/// copies, because convolutions read them.
#[derive(Clone, Debug)]
pub struct Windows<B: Backend> {
    /// `[batch, time * channel, height, width]`, in [-0.5, 0.5]
    pub stacked: Tensor<B, 4>,
    past: Tensor<B, 4>,
    last: Tensor<B, 4>,
    next: Tensor<B, 4>,
}

impl<B: Backend> Windows<B> {
    /// Gathers the windows of `time` frames that begin at `starts`.
    ///
    /// # Shapes
    /// - `frames`: `[count, channel, height, width]`
    pub fn gather(frames: Tensor<B, 4>, starts: &[usize], time: usize) -> Self {
        let [_, channels, height, width] = frames.dims();
        // Gathers some frames of each window and stacks them along the channels.
        let part = |offsets: Range<usize>| {
            let stack = offsets.len() * channels;
            let index: Vec<i32> = starts
                .iter()
                .flat_map(|start| offsets.clone().map(move |k| (start + k) as i32))
                .collect();
            let count = index.len();
            let index =
                Tensor::<B, 1, Int>::from_data(TensorData::new(index, [count]), &frames.device());
            frames.clone().select(0, index).reshape([starts.len(), stack, height, width])
        };
        Windows {
            stacked: part(0..time),
            past: part(0..time - 1),
            last: part(time - 2..time - 1),
            next: part(time - 1..time),
        }
    }

    /// Splits `frames` into consecutive windows.
    ///
    /// # Shapes
    /// - `frames`: `[batch * time, channel, height, width]`
    pub fn stack(frames: Tensor<B, 4>, time: usize) -> Self {
        let starts: Vec<usize> = (0..frames.dims()[0]).step_by(time).collect();
        Self::gather(frames, &starts, time)
    }

    /// Returns the number of frames per window.
    pub fn time(&self) -> usize {
        self.stacked.dims()[1] / self.last.dims()[1]
    }

    /// Casts the inputs of the networks to `precision`. The separate copies of `o[t]` and `o[t+1]`,
    /// which losses read, keep single precision.
    pub fn at(self, precision: Precision) -> Self {
        Windows {
            stacked: self.stacked.cast(precision.dtype()),
            past: self.past.cast(precision.dtype()),
            ..self
        }
    }

    /// Returns all frames except `o[t+1]`, stacked.
    pub fn past(&self) -> Tensor<B, 4> {
        self.past.clone()
    }

    /// Returns the frame `o[t]`.
    pub fn last(&self) -> Tensor<B, 4> {
        self.last.clone()
    }

    /// Returns the frame `o[t+1]`.
    pub fn next(&self) -> Tensor<B, 4> {
        self.next.clone()
    }
}

/// Averages over the pixels and channels of each window.
///
/// # Shapes
/// - `x`: `[batch, channel, height, width]`
/// - output: `[batch]`
pub fn mean_per_window<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 1> {
    let [batch, ..] = x.dims();
    x.flatten::<2>(1, 3).mean_dim(1).reshape([batch])
}

/// Returns the height, width and channels of a frame.
pub fn frame_shape(config: &DynamicsConfig) -> [usize; 3] {
    [config.frame_size, config.frame_size, config.channels]
}

/// Returns the number of frames in `pixels`. Empty input and incomplete frames are an error.
pub fn count_frames(pixels: &[u8], config: &DynamicsConfig) -> Result<usize> {
    let bytes: usize = frame_shape(config).iter().product();
    if pixels.is_empty() || !pixels.len().is_multiple_of(bytes) {
        let size = config.frame_size;
        let channels = config.channels;
        return Err(ModelError::Frames {
            what: "frames",
            seen: format!("{} bytes", pixels.len()),
            expected: format!("a positive multiple of {size} x {size} x {channels}"),
        });
    }
    Ok(pixels.len() / bytes)
}

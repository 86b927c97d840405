//! Uploads frames and gathers windows. Frames travel to the device as `u8` and are normalised
//! there.

use std::ops::Range;

use burn::tensor::{DType, Int, Tensor, TensorData, backend::Backend};

use super::layers::NetBackend;
use super::{DynamicsConfig, ModelError, Precision, Result};

/// Frames on the device.
#[derive(Clone, Debug)]
pub struct Frames<B: Backend>(Layout<B>);

#[derive(Clone, Debug)]
enum Layout<B: Backend> {
    /// On a CPU: `[count, channel, height, width]`, in [-0.5, 0.5]. The host permutes the bytes,
    /// since burn's CPU backend permutes value by value.
    Planes(Tensor<B, 4>),
    /// On a GPU: the bytes as they are stored, `[count, height, width, channel]`. They become
    /// floats only after they are gathered, since bytes take a quarter of the memory traffic.
    Bytes(Tensor<B, 4, Int>),
}

impl<B: NetBackend> Frames<B> {
    /// Uploads frames.
    ///
    /// # Shapes
    /// - `pixels`: `[count, height, width, channel]`
    pub fn upload(pixels: &[u8], shape: [usize; 3], device: &B::Device) -> Self {
        Frames(if B::IS_CPU {
            Layout::planes(pixels, shape, device)
        } else {
            Layout::bytes(pixels, shape, device)
        })
    }
}

impl<B: Backend> Frames<B> {
    /// Returns some of the frames.
    ///
    /// # Shapes
    /// - `index`: `[count]`
    /// - output: `[count, channel, height, width]`, in [-0.5, 0.5]
    pub fn select(&self, index: Tensor<B, 1, Int>) -> Tensor<B, 4> {
        match &self.0 {
            Layout::Planes(frames) => frames.clone().select(0, index),
            Layout::Bytes(bytes) => stacked(bytes.clone().select(0, index), 1),
        }
    }
}

impl<B: Backend> Layout<B> {
    fn planes(
        pixels: &[u8],
        [height, width, channels]: [usize; 3],
        device: &B::Device,
    ) -> Layout<B> {
        let plane = height * width;
        let mut planes = vec![0; pixels.len()];
        for (planes, frame) in
            planes.chunks_exact_mut(plane * channels).zip(pixels.chunks_exact(plane * channels))
        {
            for (channel, plane) in planes.chunks_exact_mut(plane).enumerate() {
                // Every `channels`-th byte of an interleaved frame belongs to this channel.
                for (to, from) in plane.iter_mut().zip(frame.iter().skip(channel).step_by(channels))
                {
                    *to = *from;
                }
            }
        }
        let count = pixels.len() / (plane * channels);
        Layout::Planes(normalised(bytes(planes, [count, channels, height, width], device)))
    }

    fn bytes(
        pixels: &[u8],
        [height, width, channels]: [usize; 3],
        device: &B::Device,
    ) -> Layout<B> {
        let count = pixels.len() / (height * width * channels);
        Layout::Bytes(bytes(pixels.to_vec(), [count, height, width, channels], device))
    }
}

fn bytes<B: Backend>(values: Vec<u8>, shape: [usize; 4], device: &B::Device) -> Tensor<B, 4, Int> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::U8))
}

fn normalised<B: Backend>(bytes: Tensor<B, 4, Int>) -> Tensor<B, 4> {
    bytes.float() / 255.0 - 0.5
}

/// Stacks each `time` frames along the channels and normalises them.
///
/// # Shapes
/// - `bytes`: `[batch * time, height, width, channel]`
/// - output: `[batch, time * channel, height, width]`, in [-0.5, 0.5]
fn stacked<B: Backend>(bytes: Tensor<B, 4, Int>, time: usize) -> Tensor<B, 4> {
    let [count, height, width, channels] = bytes.dims();
    let bytes = bytes.permute([0, 3, 1, 2]);
    normalised(bytes.reshape([count / time, time * channels, height, width]))
}

/// Uploads frames as normalised tensors.
///
/// # Shapes
/// - `pixels`: `[count, height, width, channel]`
/// - output: `[count, channel, height, width]`, in [-0.5, 0.5]
pub fn upload<B: NetBackend>(pixels: &[u8], shape: [usize; 3], device: &B::Device) -> Tensor<B, 4> {
    upload_stacks(pixels, shape, 1, device)
}

/// Uploads stacks of `time` frames as normalised tensors.
///
/// # Shapes
/// - `pixels`: `[count, time, height, width, channel]`
/// - output: `[count, time * channel, height, width]`, in [-0.5, 0.5]
pub fn upload_stacks<B: NetBackend>(
    pixels: &[u8],
    shape: [usize; 3],
    time: usize,
    device: &B::Device,
) -> Tensor<B, 4> {
    match Frames::upload(pixels, shape, device).0 {
        Layout::Planes(frames) if time == 1 => frames,
        Layout::Planes(frames) => {
            let [count, channels, height, width] = frames.dims();
            frames.reshape([count / time, time * channels, height, width])
        }
        Layout::Bytes(bytes) => stacked(bytes, time),
    }
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
    pub fn gather(frames: Frames<B>, starts: &[usize], time: usize) -> Self {
        match frames.0 {
            Layout::Planes(frames) => Self::gather_planes(&frames, starts, time),
            Layout::Bytes(bytes) => {
                // One index for all frames of all windows: each is copied once, as bytes.
                let index = frame_index(starts, 0..time, &bytes.device());
                Self::of_bytes(bytes.select(0, index), time)
            }
        }
    }

    /// Splits `frames` into consecutive windows of `time` frames.
    pub fn stack(frames: Frames<B>, time: usize) -> Self {
        match frames.0 {
            Layout::Planes(frames) => {
                let starts: Vec<usize> = (0..frames.dims()[0]).step_by(time).collect();
                Self::gather_planes(&frames, &starts, time)
            }
            Layout::Bytes(bytes) => Self::of_bytes(bytes, time),
        }
    }

    /// Gathers windows of normalised frames.
    ///
    /// # Shapes
    /// - `frames`: `[count, channel, height, width]`
    fn gather_planes(frames: &Tensor<B, 4>, starts: &[usize], time: usize) -> Self {
        let [_, channels, height, width] = frames.dims();
        // Gathers some frames of each window and stacks them along the channels.
        let part = |offsets: Range<usize>| {
            let stack = offsets.len() * channels;
            let index = frame_index(starts, offsets, &frames.device());
            frames.clone().select(0, index).reshape([starts.len(), stack, height, width])
        };
        Windows {
            stacked: part(0..time),
            past: part(0..time - 1),
            last: part(time - 2..time - 1),
            next: part(time - 1..time),
        }
    }

    /// Normalises windows of bytes and copies their parts on the device.
    ///
    /// # Shapes
    /// - `bytes`: `[batch * time, height, width, channel]`
    fn of_bytes(bytes: Tensor<B, 4, Int>, time: usize) -> Self {
        let channels = bytes.dims()[3];
        let stacked = stacked(bytes, time);
        let part = |first: usize, count: usize| {
            stacked.clone().narrow(1, first * channels, count * channels)
        };
        Windows {
            past: part(0, time - 1),
            last: part(time - 2, 1),
            next: part(time - 1, 1),
            stacked,
        }
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

/// Returns the numbers of the frames at `offsets` from each of `starts`.
fn frame_index<B: Backend>(
    starts: &[usize],
    offsets: Range<usize>,
    device: &B::Device,
) -> Tensor<B, 1, Int> {
    let of_window = |start: &usize| {
        let start = *start;
        offsets.clone().map(move |offset| (start + offset) as i32)
    };
    let index: Vec<i32> = starts.iter().flat_map(of_window).collect();
    let count = index.len();
    Tensor::from_data(TensorData::new(index, [count]), device)
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::models::device::{device_under_test, on_device};
    use crate::models::weights::to_host;

    const SHAPE: [usize; 3] = [4, 2, 3];

    fn host<B: Backend>(windows: Windows<B>) -> [Vec<f32>; 4] {
        let Windows { stacked, past, last, next } = windows;
        [stacked, past, last, next].map(|part| to_host(part).unwrap())
    }

    #[test]
    fn windows_of_bytes_equal_windows_of_planes() {
        let pixels: Vec<u8> = (0..6 * 4 * 2 * 3).map(|i| (i * 37 % 256) as u8).collect();
        on_device!(&device_under_test(), B, at => {
            let planes = || Frames::<B>(Layout::planes(&pixels, SHAPE, &at));
            let bytes = || Frames::<B>(Layout::bytes(&pixels, SHAPE, &at));
            for time in 2..4 {
                assert_eq!(
                    host(Windows::stack(planes(), time)),
                    host(Windows::stack(bytes(), time))
                );
                let starts = [0, 1, 3, 0];
                assert_eq!(
                    host(Windows::gather(planes(), &starts, time)),
                    host(Windows::gather(bytes(), &starts, time))
                );
            }
            let [stacked, ..] = host(Windows::stack(bytes(), 2));
            // The second channel of the first window's first frame, at the second pixel.
            assert_eq!(stacked[4 * 2 + 1], f32::from(pixels[4]) / 255.0 - 0.5);
            let [stacks, ..] = host(Windows::stack(planes(), 2));
            let uploaded = upload_stacks::<B>(&pixels, SHAPE, 2, &at);
            assert_eq!(to_host(uploaded).unwrap(), stacks);
            let frames = upload::<B>(&pixels, SHAPE, &at);
            assert_eq!(frames.dims(), [6, 3, 4, 2]);
            assert_eq!(to_host(frames).unwrap(), stacked);
        });
    }
}

//! Convolutions whose kernel covers the whole image, and the doubling of a single pixel: both are
//! plain matrix products.
//!
//! They occur at the bottom of the U-Net and work on any backend. burn's general convolutions would
//! spend most of their time there on arranging a few pixels. See
//! [`ConvBackend`] for the shapes.

use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorMetadata};

use super::{ConvBackend, ConvSettings, Gradients, Wanted, from_float, into_float, matmul};

/// Returns whether the kernel covers the image, so that the output is a single pixel.
pub(super) fn covers<B: ConvBackend>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    settings: ConvSettings,
) -> bool {
    let [batch, _, height, width] = x.shape().dims::<4>();
    let [.., rows, columns] = weight.shape().dims::<4>();
    batch > 0 && settings.padding == 0 && !settings.relu && (rows, columns) == (height, width)
}

/// Returns whether the image is a single pixel.
pub(super) fn is_pixel<B: ConvBackend>(x: &FloatTensor<B>) -> bool {
    let [batch, _, height, width] = x.shape().dims();
    batch > 0 && (height, width) == (1, 1)
}

/// Convolves images that the kernel covers.
pub(super) fn conv2d<B: ConvBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
) -> FloatTensor<B> {
    let [outputs, ..] = weight.shape().dims::<4>();
    let out =
        matmul(rows::<B>(x), rows::<B>(weight).transpose()) + from_float::<B, 1>(bias).unsqueeze();
    let batch = out.dims()[0];
    into_float(out.reshape([batch, outputs, 1, 1]))
}

/// Returns the gradients of [`conv2d`].
pub(super) fn conv2d_backward<B: ConvBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    gradient: FloatTensor<B>,
    wanted: Wanted,
) -> Gradients<B> {
    let image = x.shape().dims::<4>();
    let kernel = weight.shape().dims::<4>();
    let gradient = rows::<B>(gradient);
    Gradients {
        x: wanted.x.then(|| into_float(matmul(gradient.clone(), rows::<B>(weight)).reshape(image))),
        weight: wanted.weight.then(|| {
            into_float(matmul(gradient.clone().transpose(), rows::<B>(x)).reshape(kernel))
        }),
        bias: wanted.bias.then(|| into_float(gradient.sum_dim(0).reshape([kernel[0]]))),
    }
}

/// Doubles single pixels. The four pixels of a channel are four outputs of the matrix product.
pub(super) fn double<B: ConvBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
) -> FloatTensor<B> {
    let [_, outputs, ..] = weight.shape().dims::<4>();
    let out = matmul(rows::<B>(x), rows::<B>(weight));
    let batch = out.dims()[0];
    into_float(
        out.reshape([batch, outputs, 2, 2]) + from_float::<B, 1>(bias).reshape([1, outputs, 1, 1]),
    )
}

/// Returns the gradients of [`double`].
pub(super) fn double_backward<B: ConvBackend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    gradient: FloatTensor<B>,
    wanted: Wanted,
) -> Gradients<B> {
    let image = x.shape().dims::<4>();
    let kernel = weight.shape().dims::<4>();
    // The bias is shared by the four pixels of a channel.
    let bias = || {
        from_float::<B, 4>(gradient.clone())
            .sum_dim(0)
            .reshape([kernel[1], 4])
            .sum_dim(1)
            .reshape([kernel[1]])
    };
    let pixels = rows::<B>(gradient.clone());
    Gradients {
        bias: wanted.bias.then(|| into_float(bias())),
        x: wanted.x.then(|| {
            into_float(matmul(pixels.clone(), rows::<B>(weight).transpose()).reshape(image))
        }),
        weight: wanted
            .weight
            .then(|| into_float(matmul(rows::<B>(x).transpose(), pixels).reshape(kernel))),
    }
}

/// Flattens all dimensions except the first.
fn rows<B: ConvBackend>(tensor: FloatTensor<B>) -> Tensor<B, 2> {
    from_float::<B, 4>(tensor).flatten(1, 3)
}

//! Compares the operations with burn's own, with the textbook formula and with finite differences.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use burn::backend::{Autodiff, Flex};
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};
use burn::tensor::{Tensor, TensorData, activation, module};

use super::*;

mod determinism;
mod devices;
mod layers;

type Plain = Tensor<Flex, 4>;

/// Returns reproducible noise in [-1, 1).
fn noise<const D: usize>(shape: [usize; D], seed: u32) -> Tensor<Flex, D> {
    // Xorshift: tests need no better numbers.
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / 2f32.powi(31) - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

fn values<const D: usize>(tensor: &Tensor<Flex, D>) -> Vec<f32> {
    tensor.to_data().to_vec().unwrap()
}

fn max_pool2d<B: ConvBackend>(x: Tensor<B, 4>, pool: Pool) -> Tensor<B, 4> {
    from_float(B::pool(into_float(x), pool).0)
}

/// Returns the largest difference, relative to the largest value.
fn relative_error<const D: usize>(a: &Tensor<Flex, D>, b: &Tensor<Flex, D>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let a = values(a);
    let b = values(b);
    let scale = b.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    a.iter().zip(&b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale
}

/// Convolves by the textbook formula, in f64.
fn textbook_conv2d(x: &Plain, weight: &Plain, bias: &Tensor<Flex, 1>, padding: usize) -> Plain {
    let [n, ci, h, w] = x.dims();
    let [co, _, k, _] = weight.dims();
    let oh = h + 2 * padding + 1 - k;
    let ow = w + 2 * padding + 1 - k;
    let x = values(x);
    let weight = values(weight);
    let bias = values(bias);
    let mut out = Vec::new();
    for (n, o, y, z) in
        (0..n * co * oh * ow).map(|i| (i / (co * oh * ow), i / (oh * ow) % co, i / ow % oh, i % ow))
    {
        let mut sum = f64::from(bias[o]);
        for (c, ky, kx) in (0..ci * k * k).map(|i| (i / (k * k), i / k % k, i % k)) {
            let y = (y + ky).wrapping_sub(padding);
            let z = (z + kx).wrapping_sub(padding);
            // Negative positions wrap around to large ones: both borders in one comparison.
            if y < h && z < w {
                let x = x[((n * ci + c) * h + y) * w + z];
                sum += f64::from(x) * f64::from(weight[((o * ci + c) * k + ky) * k + kx]);
            }
        }
        out.push(sum as f32);
    }
    Tensor::from_data(TensorData::new(out, [n, co, oh, ow]), &Default::default())
}

/// Batch, input channels, output channels, height, width, kernel, padding. All but the fourth take
/// the fast path.
const SHAPES: [[usize; 7]; 12] = [
    [2, 9, 16, 64, 64, 3, 1],
    [5, 16, 16, 32, 32, 3, 1],
    [9, 7, 5, 11, 13, 3, 1],
    [3, 1, 1, 1, 1, 3, 1],
    [20, 3, 2, 5, 9, 3, 0],
    [16, 2, 3, 4, 6, 3, 2],
    [33, 24, 9, 4, 4, 3, 1],
    [9, 32, 16, 4, 4, 2, 0],
    [21, 5, 6, 7, 5, 2, 1],
    [4, 8, 3, 64, 64, 1, 0],
    [13, 13, 17, 5, 4, 1, 0],
    [1, 128, 64, 3, 3, 3, 1],
];

#[test]
fn convolutions_equal_the_textbook_formula() {
    for (i, [n, ci, co, h, w, k, padding]) in SHAPES.into_iter().enumerate() {
        let x = noise([n, ci, h, w], i as u32 + 1);
        let weight = noise([co, ci, k, k], i as u32 + 100);
        let bias = noise([co], i as u32 + 200);
        let skip = textbook_conv2d(&x.clone().add_scalar(0.5), &weight, &bias, padding);
        let want = textbook_conv2d(&x, &weight, &bias, padding);
        let got = conv2d(x.clone(), weight.clone(), Some(bias.clone()), padding, 1);
        assert!(relative_error(&got, &want) < 1e-5, "{i}: {}", relative_error(&got, &want));
        let want =
            textbook_conv2d(&activation::relu(x.clone()), &weight, &bias, padding) + skip.clone();
        // The same with a ReLU before and a skip after.
        let got = relu_conv2d_add(x, weight, Some(bias), padding, skip);
        assert!(relative_error(&got, &want) < 1e-5, "{i}: {}", relative_error(&got, &want));
    }
}

type Ad = Autodiff<Flex>;

/// Returns the gradients of `sum(f(x, weight, bias, skip) * random)` for all four inputs.
fn gradients(
    inputs: (&Plain, &Plain, &Tensor<Flex, 1>, &Plain),
    f: impl Fn(Tensor<Ad, 4>, Tensor<Ad, 4>, Tensor<Ad, 1>, Tensor<Ad, 4>) -> Tensor<Ad, 4>,
) -> (Plain, Plain, Tensor<Flex, 1>, Plain) {
    let x = Tensor::from_inner(inputs.0.clone()).require_grad();
    let weight = Tensor::from_inner(inputs.1.clone()).require_grad();
    let bias = Tensor::from_inner(inputs.2.clone()).require_grad();
    let skip = Tensor::from_inner(inputs.3.clone()).require_grad();
    let out = f(x.clone(), weight.clone(), bias.clone(), skip.clone());
    let random = Tensor::from_inner(noise(out.dims(), 99));
    let grads = (out * random).sum().backward();
    (
        x.grad(&grads).unwrap(),
        weight.grad(&grads).unwrap(),
        bias.grad(&grads).unwrap(),
        skip.grad(&grads).unwrap(),
    )
}

#[test]
fn gradients_equal_burns() {
    for (i, [n, ci, co, h, w, k, padding]) in SHAPES.into_iter().enumerate() {
        let x = noise([n, ci, h, w], i as u32 + 1);
        let weight = noise([co, ci, k, k], i as u32 + 100);
        let bias = noise([co], i as u32 + 200);
        let skip = conv2d(x.clone(), weight.clone(), None, padding, 1).mul_scalar(0.1);
        let inputs = (&x, &weight, &bias, &skip);
        let got = gradients(inputs, |x, w, b, s| relu_conv2d_add(x, w, Some(b), padding, s));
        let want = gradients(inputs, |x, w, b, s| {
            let options = ConvOptions::new([1; 2], [padding; 2], [1; 2], 1);
            s + module::conv2d(activation::relu(x), w, Some(b), options)
        });
        let errors = [
            relative_error(&got.0, &want.0),
            relative_error(&got.1, &want.1),
            relative_error(&got.2, &want.2),
            relative_error(&got.3, &want.3),
        ];
        assert!(errors.iter().all(|&v| v < 1e-5), "{i}: {errors:?}");
    }
}

#[test]
fn doubling_equals_burns_transposed_convolution() {
    for (i, [n, ci, co, h, w]) in [
        [6, 5, 7, 4, 5],
        [32, 16, 8, 32, 32],
        [17, 64, 32, 4, 4],
        [1, 1, 1, 1, 1],
        [9, 40, 24, 1, 1],
    ]
    .into_iter()
    .enumerate()
    {
        let x = noise([n, ci, h, w], i as u32 + 1);
        let weight = noise([ci, co, 2, 2], i as u32 + 100);
        let bias = noise([co], i as u32 + 200);
        let skip = noise([n, co, 2 * h, 2 * w], i as u32 + 300);
        let inputs = (&x, &weight, &bias, &skip);
        let options = ConvTransposeOptions::new([2; 2], [0; 2], [0; 2], [1; 2], 1);
        let got = double_conv2d(x.clone(), weight.clone(), Some(bias.clone()));
        let want = module::conv_transpose2d(
            x.clone(),
            weight.clone(),
            Some(bias.clone()),
            options.clone(),
        );
        assert!(relative_error(&got, &want) < 1e-5, "{i}: {}", relative_error(&got, &want));
        let got = gradients(inputs, |x, w, b, s| s + double_conv2d(x, w, Some(b)));
        let want = gradients(inputs, |x, w, b, s| {
            s + module::conv_transpose2d(x, w, Some(b), options.clone())
        });
        let errors = [
            relative_error(&got.0, &want.0),
            relative_error(&got.1, &want.1),
            relative_error(&got.2, &want.2),
        ];
        assert!(errors.iter().all(|&v| v < 1e-5), "{i}: {errors:?}");
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let x = noise([2, 3, 5, 4], 1);
    let weight = noise([2, 3, 3, 3], 2);
    let bias = noise([2], 3);
    let skip = noise([2, 2, 5, 4], 4);
    let (dx, dw, ..) =
        gradients((&x, &weight, &bias, &skip), |x, w, b, s| relu_conv2d_add(x, w, Some(b), 1, s));
    let loss = |x: &Plain, weight: &Plain| {
        let x = activation::relu(x.clone());
        let out = textbook_conv2d(&x, weight, &bias, 1) + skip.clone();
        let random = values(&noise(out.dims(), 99));
        let out = values(&out);
        out.iter().zip(&random).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    let step = 1e-2;
    // Moves one value of a tensor.
    let moved = |tensor: &Plain, i: usize, by: f32| {
        let mut data = values(tensor);
        data[i] += by;
        Plain::from_data(TensorData::new(data, tensor.dims()), &Default::default())
    };
    for i in 0..values(&dx).len() {
        let at = values(&x)[i];
        // Near zero the ReLU has no derivative.
        if at.abs() > 2.0 * step {
            let rise = loss(&moved(&x, i, step), &weight) - loss(&moved(&x, i, -step), &weight);
            assert!((rise / f64::from(2.0 * step) - f64::from(values(&dx)[i])).abs() < 1e-3);
        }
    }
    for i in 0..values(&dw).len() {
        let rise = loss(&x, &moved(&weight, i, step)) - loss(&x, &moved(&weight, i, -step));
        assert!((rise / f64::from(2.0 * step) - f64::from(values(&dw)[i])).abs() < 1e-3);
    }
}

#[test]
fn a_kernel_that_covers_the_image_equals_burns_convolution() {
    let x = noise([6, 20, 2, 2], 1);
    let weight = noise([30, 20, 2, 2], 2);
    let bias = noise([30], 3);
    let skip = noise([6, 30, 1, 1], 4);
    let options = ConvOptions::new([1; 2], [0; 2], [1; 2], 1);
    let got = gradients((&x, &weight, &bias, &skip), |x, w, b, s| s + conv2d(x, w, Some(b), 0, 1));
    let want = gradients((&x, &weight, &bias, &skip), |x, w, b, s| {
        s + module::conv2d(x, w, Some(b), options.clone())
    });
    let errors = [
        relative_error(&got.0, &want.0),
        relative_error(&got.1, &want.1),
        relative_error(&got.2, &want.2),
    ];
    assert!(errors.iter().all(|&v| v < 1e-5), "{errors:?}");
}

#[test]
fn joining_equals_burns_concatenation_forward_and_backward() {
    let x = noise([3, 2, 5, 4], 1);
    let weight = noise([3, 5, 3, 3], 2);
    let bias = noise([3], 3);
    let y = noise([3, 3, 5, 4], 4);
    let got =
        gradients((&x, &weight, &bias, &y), |x, w, b, y| conv2d(join(x, y), w, Some(b), 1, 1));
    let want = gradients((&x, &weight, &bias, &y), |x, w, b, y| {
        conv2d(Tensor::cat(vec![x, y], 1), w, Some(b), 1, 1)
    });
    assert_eq!([values(&got.0), values(&got.3)], [values(&want.0), values(&want.3)]);
}

#[test]
fn ties_between_nearest_codes_go_to_the_first() {
    // Rounded values cause many ties.
    let rows = noise([2, 40, 7], 1).mul_scalar(2.0).round();
    let codes = noise([2, 9, 7], 2).mul_scalar(2.0).round();
    let all = |tensor: &Tensor<Flex, 3>| tensor.to_data().to_vec::<f32>().unwrap();
    let r = all(&rows);
    let c = all(&codes);
    let distance = |book: usize, row: usize, code: usize| -> f32 {
        (0..7).map(|d| (r[(book * 40 + row) * 7 + d] - c[(book * 9 + code) * 7 + d]).powi(2)).sum()
    };
    // A later code wins only if it is strictly nearer.
    let best = |book, row| {
        (1..9).fold(0, |best, code| {
            if distance(book, row, code) < distance(book, row, best) { code } else { best }
        })
    };
    let want: Vec<i64> = (0..80).map(|i| best(i / 40, i % 40) as i64).collect();
    let found = |codes: Tensor<Flex, 2, Int>| codes.into_data().iter::<i64>().collect::<Vec<_>>();
    assert_eq!(found(nearest(rows.clone(), codes.clone())), want);
    let composed = fallback::nearest::<Flex>(into_float(rows), into_float(codes));
    assert_eq!(found(Tensor::from_primitive(composed)), want);
}

#[test]
fn unsupported_inputs_fall_back_to_burn() {
    let x = noise([2, 3, 9, 9], 1);
    let weight = noise([4, 3, 5, 5], 2);
    let got = conv2d(x.clone(), weight.clone(), None, 2, 2);
    let want = module::conv2d(x, weight, None, ConvOptions::new([2; 2], [2; 2], [1; 2], 1));
    assert!(relative_error(&got, &want) < 1e-6);
    // A view with other strides is copied first.
    let x = noise([8, 3, 6, 20], 1).permute([3, 1, 0, 2]);
    let weight = noise([4, 3, 3, 3], 2);
    let want = textbook_conv2d(&x, &weight, &Tensor::zeros([4], &Default::default()), 1);
    assert!(relative_error(&conv2d(x, weight, None, 1, 1), &want) < 1e-5);
}

#[test]
fn a_pooled_convolution_equals_a_convolution_then_pooling() {
    let pools = [(3, 2, 1), (2, 2, 0), (2, 1, 1), (1, 3, 0)]
        .map(|(kernel, stride, padding)| Pool { kernel, stride, padding });
    for (i, [n, ci, co, h, w, k, padding]) in SHAPES.into_iter().enumerate() {
        let x = noise([n, ci, h, w], i as u32 + 1);
        let weight = noise([co, ci, k, k], i as u32 + 100);
        let bias = noise([co], i as u32 + 200);
        let settings = ConvSettings { padding, stride: 1, relu: i % 2 == 1 };
        let whole = fused(x.clone(), weight.clone(), Some(bias.clone()), None, settings);
        let skip = noise(whole.dims(), 300);
        for pool in pools.into_iter().filter(|pool| pool.fits([whole.dims()[2], whole.dims()[3]])) {
            let got = pooled_conv2d(x.clone(), weight.clone(), bias.clone(), None, settings, pool);
            assert_eq!(values(&got), values(&max_pool2d(whole.clone(), pool)), "{i} {pool:?}");
            let got = pooled_conv2d(
                x.clone(),
                weight.clone(),
                bias.clone(),
                Some(skip.clone()),
                settings,
                pool,
            );
            let want = max_pool2d(
                fused(x.clone(), weight.clone(), Some(bias.clone()), Some(skip.clone()), settings),
                pool,
            );
            assert!(relative_error(&got, &want) < 1e-6, "{i} {pool:?}");
        }
    }
    // NaN must win in every window that contains it, as in burn.
    let mut broken = noise([1, 1, 6, 6], 1).to_data();
    broken.as_mut_slice::<f32>().unwrap()[14] = f32::NAN;
    let broken = Tensor::<Flex, 4>::from_data(broken, &Default::default());
    let one = Tensor::<Flex, 4>::ones([1, 1, 1, 1], &Default::default());
    let settings = ConvSettings { padding: 0, stride: 1, relu: false };
    let got = pooled_conv2d(
        broken.clone(),
        one,
        Tensor::zeros([1], &Default::default()),
        None,
        settings,
        pools[0],
    );
    let nan = |x: &Plain| values(x).iter().map(|v| v.is_nan()).collect::<Vec<_>>();
    assert_eq!(nan(&got), nan(&max_pool2d(broken, pools[0])));
    assert!(nan(&got).contains(&true));
}

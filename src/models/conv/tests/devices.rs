//! Every operation and its gradients on the device that `LAPO_TEST_DEVICE` names, against the CPU.

use super::super::stage::HALVE;
use super::*;
use crate::models::Device;
use crate::models::device::{device_under_test, on_device};

/// Output and gradients of an operation, each with its name.
type Results = Vec<(String, Vec<f32>)>;

type Op<B> = fn([Tensor<Autodiff<B>, 4>; 4]) -> Tensor<Autodiff<B>, 4>;

/// Runs an operation on four inputs of these shapes and returns its output and the gradients of
/// `sum(output * random)`. Inputs that the operation does not use have no gradient.
fn run<B: ConvBackend>(name: &str, shapes: [[usize; 4]; 4], op: Op<B>, at: &B::Device) -> Results {
    let upload = |shape: [usize; 4], seed: u32| {
        Tensor::<Autodiff<B>, 4>::from_data(noise(shape, seed).into_data(), at)
    };
    let mut seed = 0;
    let inputs = shapes.map(|shape| {
        seed += 1;
        upload(shape, seed).require_grad()
    });
    let out = op(inputs.clone());
    let graph = (out.clone() * upload(out.dims(), 99)).sum().backward();
    let host = |tensor: Tensor<B, 4>| tensor.into_data().to_vec().unwrap();
    let mut found = vec![(format!("{name}: output"), host(out.inner()))];
    for (index, input) in inputs.iter().enumerate() {
        if let Some(gradient) = input.grad(&graph) {
            found.push((format!("{name}: gradient of input {index}"), host(gradient)));
        }
    }
    found
}

fn flat<B: Backend>(tensor: Tensor<B, 4>) -> Tensor<B, 1> {
    tensor.flatten(0, 3)
}

/// An operation: its name, the shapes of its inputs, and its function.
type Operation<B> = (&'static str, [[usize; 4]; 4], Op<B>);

/// The shape of an input that the operation does not use.
const NONE: [usize; 4] = [1; 4];
/// The shape of most images.
const IMAGE: [usize; 4] = [5, 6, 8, 8];

/// Returns the shape of a bias.
const fn bias(channels: usize) -> [usize; 4] {
    [1, channels, 1, 1]
}

/// Returns convolutions of images, with what comes before and after them.
fn convolutions<B: ConvBackend>() -> Vec<Operation<B>> {
    let same = [IMAGE, [4, 6, 3, 3], bias(4), [5, 4, 8, 8]];
    vec![
        ("convolution", same, |[x, w, b, _]| conv2d(x, w, Some(flat(b)), 1, 1)),
        ("linear", [[9, 6, 1, 1], [4, 6, 1, 1], bias(4), NONE], |[x, w, b, _]| {
            conv2d(x, w, Some(flat(b)), 0, 1)
        }),
        ("full kernel", [[5, 6, 2, 2], [4, 6, 2, 2], bias(4), NONE], |[x, w, b, _]| {
            conv2d(x, w, Some(flat(b)), 0, 1)
        }),
        ("residual", same, |[x, w, b, s]| relu_conv2d_add(x, w, Some(flat(b)), 1, s)),
        ("halved residual", same, |[x, w, b, s]| {
            let settings = ConvSettings { padding: 1, stride: 1, relu: true };
            let pool = Pool { kernel: 2, stride: 2, padding: 0 };
            pooled_conv2d(x, w, flat(b), Some(s), settings, pool)
        }),
        ("overlapping pools", same, |[x, w, b, _]| {
            let settings = ConvSettings { padding: 1, stride: 1, relu: false };
            pooled_conv2d(x, w, flat(b), None, settings, HALVE)
        }),
        ("impala stage", [IMAGE, [6, 6, 3, 3], bias(6), NONE], |[x, w, b, _]| {
            impala_stage(x, [1.0, 0.3, 0.2, 0.5, 0.4].map(|s| (w.clone() * s, flat(b.clone()))))
        }),
    ]
}

/// Returns doublings, normalisations and operations on single pixels.
fn pixel_operations<B: ConvBackend>() -> Vec<Operation<B>> {
    vec![
        ("doubling", [IMAGE, [6, 4, 2, 2], bias(4), NONE], |[x, w, b, _]| {
            double_conv2d(x, w, Some(flat(b)))
        }),
        ("doubled pixel", [[5, 6, 1, 1], [6, 4, 2, 2], bias(4), NONE], |[x, w, b, _]| {
            double_conv2d(x, w, Some(flat(b)))
        }),
        ("normalisation", [IMAGE, bias(6), bias(6), NONE], |[x, w, b, _]| {
            batch_norm(x, flat(w), flat(b), 1e-5).0
        }),
        ("modulation", [IMAGE, [5, 12, 1, 1], NONE, NONE], |[x, by, _, _]| {
            modulate(x, by.reshape([5, 12]))
        }),
        ("narrow convolution", [[5, 2, 8, 8], [3, 2, 1, 1], bias(3), NONE], |[x, w, b, _]| {
            relu_conv2d(x, w, Some(flat(b)), 0)
        }),
        ("narrow doubling", [[5, 3, 4, 4], [3, 2, 2, 2], bias(2), NONE], |[x, w, b, _]| {
            double_conv2d(x, w, Some(flat(b)))
        }),
        ("wide doubling", [[2, 4, 32, 32], [4, 2, 2, 2], bias(2), NONE], |[x, w, b, _]| {
            double_conv2d(x, w, Some(flat(b)))
        }),
        ("relu", [IMAGE, NONE, NONE, NONE], |[x, ..]| relu(x)),
        ("relu of rows", [IMAGE, NONE, NONE, NONE], |[x, ..]| {
            let shape = x.dims();
            relu(x.reshape([30, 64])).reshape(shape)
        }),
        ("join and tanh", [IMAGE, [5, 3, 8, 8], NONE, NONE], |[x, y, _, _]| tanh(join(x, y))),
    ]
}

/// Returns residual blocks.
fn residual_blocks<B: ConvBackend>() -> Vec<Operation<B>> {
    vec![
        ("residual block", [IMAGE, [6, 6, 3, 3], bias(6), NONE], |[x, w, b, _]| {
            residual(x, [1.0, 0.3].map(|s| (w.clone() * s, flat(b.clone()))), true)
        }),
        ("halved residual block", [IMAGE, [6, 6, 3, 3], bias(6), NONE], |[x, w, b, _]| {
            residual_halved(x, [1.0, 0.3].map(|s| (w.clone() * s, flat(b.clone()))))
        }),
        (
            "narrow residual block",
            [[5, 2, 8, 8], [1, 2, 3, 3], bias(1), [2, 1, 3, 3]],
            |[x, w, b, v]| {
                let two = Tensor::cat(vec![flat(b.clone()), flat(b.clone())], 0);
                residual(x, [(w, flat(b)), (v, two)], true)
            },
        ),
        (
            "narrow halved block",
            [[5, 2, 8, 8], [1, 2, 3, 3], bias(1), [2, 1, 3, 3]],
            |[x, w, b, v]| {
                let two = Tensor::cat(vec![flat(b.clone()), flat(b.clone())], 0);
                residual_halved(x, [(w, flat(b)), (v, two)])
            },
        ),
    ]
}

/// Runs all operations on a device.
fn all<B: ConvBackend>(at: &B::Device) -> Results {
    let operations = [convolutions(), pixel_operations(), residual_blocks()].concat();
    let mut found: Results = operations
        .into_iter()
        .flat_map(|(name, shapes, op)| run::<B>(name, shapes, op, at))
        .collect();
    // Sums of an odd number of stages, which some of burn's kernels get wrong.
    for k in [1, 4, 8, 24, 31, 32, 72, 96, 160, 216, 256] {
        let shapes = [[2, 1, 1024, k], [2, 1, k, 4], NONE, NONE];
        found.extend(run::<B>(&format!("product, {k}"), shapes, |[a, b, ..]| matmul(a, b), at));
        let turned = [[2, 1, k, 1024], [2, 1, 4, k], NONE, NONE];
        let name = format!("product of transposed matrices, {k}");
        let op: Op<B> = |[a, b, ..]| matmul(a.swap_dims(2, 3), b.swap_dims(2, 3));
        found.extend(run::<B>(&name, turned, op, at));
    }
    let upload = |shape, seed| Tensor::<B, 3>::from_data(noise(shape, seed).into_data(), at);
    let codes = nearest(upload([2, 40, 16], 1), upload([2, 64, 16], 2));
    found.push(("nearest".to_owned(), codes.float().into_data().to_vec().unwrap()));
    found
}

#[test]
#[expect(clippy::print_stdout, reason = "a test prints what it skips or measures")]
fn operations_and_their_gradients_on_a_device_equal_those_on_the_cpu() {
    let device = device_under_test();
    if device == Device::Cpu {
        return println!("skipped: LAPO_TEST_DEVICE names no other device");
    }
    let expected = all::<Flex>(&Default::default());
    let seen = on_device!(&device, B, at => all::<B>(&at));
    assert_eq!(seen.len(), expected.len());
    for ((name, seen), (_, expected)) in seen.iter().zip(&expected) {
        assert_eq!(seen.len(), expected.len(), "{name}");
        let most = expected.iter().fold(1e-6_f32, |most, x| most.max(x.abs()));
        let off = seen.iter().zip(expected).fold(0_f32, |off, (a, b)| off.max((a - b).abs()));
        println!("{name}: off by {:.1e}", off / most);
        assert!(off < 1e-5 * most, "{name}: off by {off} of {most}");
    }
}

//! Sums of many squares on a Vulkan device.
//!
//! Mesa's lavapipe ends every loop of a kernel after 65,535 iterations
//! (`LP_MAX_TGSI_LOOP_ITERATIONS`), without an error. One of burn's kernels for `sum` adds four
//! values per iteration in a single loop, and it depends on measured times whether burn takes it.
//! Where it did, the norm of the gradients of `tests/golden/default.safetensors` was 0.152 at
//! step 1, instead of 0.1785: half of the largest layer was missing. The gradients were right.

use burn::tensor::{Tensor, TensorData, TensorPrimitive};
use lapo::models::Device;
use lapo::models::gpu::{Vulkan, vulkan};
use lapo::train::optim::AdamBackend;

use crate::test_device::test_device;

/// The number of weights in the largest layer of `tests/golden/default.safetensors`.
const COUNT: usize = 524_288;

fn host(tensor: Tensor<Vulkan, 1>) -> f32 {
    tensor.into_scalar()
}

#[test]
fn sums_of_many_squares_are_right() {
    let Device::Vulkan(number) = test_device() else {
        return println!("skipped: LAPO_TEST_DEVICE names no Vulkan device");
    };
    let device = vulkan(number);
    let noise = |i: usize| ((i * 7919 % 65_537) as f32 / 65_537.0).powi(3);
    for (name, values) in [
        ("ones", vec![1.0_f32; COUNT]),
        ("noise", (0..COUNT).map(noise).collect()),
        ("last half", (0..COUNT).map(|i| f32::from(i >= COUNT / 2)).collect()),
    ] {
        let expected: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let tensor =
            || Tensor::<Vulkan, 1>::from_data(TensorData::new(values.clone(), [COUNT]), &device);
        // Shows whether this device still needs a sum of its own.
        let squares = tensor() * tensor();
        println!("{name}: expected {expected}, burn's kernel {}", host(squares.sum_dim(0)));
        let total = Vulkan::square_sum(vec![tensor().into_primitive().tensor()]);
        let total = host(Tensor::from_primitive(TensorPrimitive::Float(total)));
        assert!(
            (f64::from(total) / expected - 1.0).abs() < 1e-5,
            "{name}: {total}, expected {expected}"
        );
    }
}

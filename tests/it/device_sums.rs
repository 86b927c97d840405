//! Sums of many values on a Vulkan device.

use burn::tensor::{Tensor, TensorData, TensorPrimitive};
use lapo::models::Device;
use lapo::models::gpu::{Vulkan, vulkan};
use lapo::train::optim::AdamBackend;

use crate::test_device::test_device;

/// As many as the largest layer of `tests/golden/default.safetensors` has weights.
const COUNT: usize = 524_288;

fn host(tensor: Tensor<Vulkan, 1>) -> f32 {
    tensor.into_scalar()
}

/// Gradients are squared, and most are near 0: the cube gives such a distribution.
#[test]
fn long_sums_of_squares_are_right() {
    let Device::Vulkan(number) = test_device() else {
        return println!("skipped: LAPO_TEST_DEVICE names no Vulkan device");
    };
    let device = vulkan(number);
    let noise = |i: usize| ((i * 7919 % 65_537) as f32 / 65_537.0).powi(3);
    for (name, values) in [
        ("ones", vec![1.0_f32; COUNT]),
        ("noise", (0..COUNT).map(noise).collect()),
        ("last half", (0..COUNT).map(|i| f32::from(i >= COUNT / 2)).collect()),
        ("odd places", (0..COUNT).map(|i| (i % 2) as f32).collect()),
    ] {
        let expected: f64 = values.iter().map(|&x| f64::from(x)).sum();
        let tensor =
            || Tensor::<Vulkan, 1>::from_data(TensorData::new(values.clone(), [COUNT]), &device);
        let rows = |rows: usize| {
            host(tensor().reshape([rows, COUNT / rows]).sum_dim(1).reshape([rows]).slice([0..1]))
        };
        println!(
            "{name}: expected {expected}; sum {}; sum_dim {}; one row {}; first of two rows {}; of 4 {}; of 128 {}",
            host(tensor().sum()),
            host(tensor().sum_dim(0)),
            rows(1),
            rows(2),
            rows(4),
            rows(128),
        );
        let total = Vulkan::total(tensor().into_primitive().tensor());
        let total = host(Tensor::from_primitive(TensorPrimitive::Float(total)));
        assert!(
            (f64::from(total) / expected - 1.0).abs() < 1e-5,
            "{name}: {total}, expected {expected}"
        );
    }
}

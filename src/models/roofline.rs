//! The speed of a plain matrix product on a device, as an upper bound for the speed of the
//! networks.

use std::time::Instant;

use burn::tensor::{Distribution, FloatDType, Tensor};

use super::conv::{ConvBackend, matmul};
use super::device::on_device;
use super::{Device, Precision, Result};

/// Measures the speed of square matrix products through burn, in operations per second. A
/// multiply-add counts as two operations; the result is the median of nine runs.
pub fn matrix_product(device: &Device, precision: Precision) -> Result<f64> {
    device.check_precision(precision)?;
    let side = match device {
        Device::Cpu => 1536,
        // A matrix of 8192 is larger than an allocation of such a device may be.
        device if device.is_software() => 1024,
        _ => 8192,
    };
    Ok(on_device!(device, B, at => measure::<B>(&at, precision, side)))
}

fn measure<B: ConvBackend>(device: &B::Device, precision: Precision, side: usize) -> f64 {
    let [a, b] = [0, 1].map(|_| {
        Tensor::<B, 2>::random([side; 2], Distribution::Default, device).cast(precision.dtype())
    });
    // Execution is asynchronous: reading one value waits for the product.
    let wait = |product: Tensor<B, 2>| {
        product.narrow(0, 0, 1).narrow(1, 0, 1).cast(FloatDType::F32).into_data()
    };
    // The first runs include compilation and autotuning.
    for _ in 0..2 {
        wait(matmul(a.clone(), b.clone()));
    }
    let mut seconds: Vec<f64> = (0..9)
        .map(|_| {
            let start = Instant::now();
            wait(matmul(a.clone(), b.clone()));
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    2.0 * (side as f64).powi(3) / seconds[seconds.len() / 2]
}

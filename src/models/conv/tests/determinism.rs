//! Results depend neither on the number of threads nor on the batch.

use super::*;

/// Returns all forward and backward results of a few layers, computed by this number of threads.
fn results_with_threads(threads: usize) -> Vec<f32> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let x = noise([37, 9, 17, 16], 1);
        let weight = noise([12, 9, 3, 3], 2);
        let bias = noise([12], 3);
        let skip = noise([37, 12, 17, 16], 4);
        let got = gradients((&x, &weight, &bias, &skip), |x, w, b, s| {
            relu_conv2d_add(x, w, Some(b), 1, s)
        });
        let out = relu_conv2d_add(x.clone(), weight, Some(bias), 1, skip);
        let up = noise([9, 4, 2, 2], 5);
        let skip = noise([37, 4, 34, 32], 7);
        let double = gradients((&x, &up, &noise([4], 6), &skip), |x, w, b, s| {
            s + double_conv2d(x, w, Some(b))
        });
        let norm = gradients((&x, &up, &noise([9], 6), &noise([9, 1, 1, 1], 7)), |x, up, b, w| {
            let pool = Pool { kernel: 3, stride: 2, padding: 1 };
            let x = batch_norm(x, w.flatten(0, 3), b, 1e-5).0;
            tanh(max_pool2d(x, pool)) + up.sum().reshape([1, 1, 1, 1])
        });
        [
            values(&got.0),
            values(&got.1),
            values(&got.2),
            values(&out),
            values(&double.1),
            values(&norm.0),
            values(&norm.2),
            values(&norm.3),
        ]
        .concat()
    })
}

#[test]
fn results_are_bitwise_equal_for_any_number_of_threads() {
    let one: Vec<u32> = results_with_threads(1).into_iter().map(f32::to_bits).collect();
    for threads in [1, 2, 3, 7] {
        // Compared as bits: NaN and -0.0 would hide in a comparison of floats.
        let many: Vec<u32> = results_with_threads(threads).into_iter().map(f32::to_bits).collect();
        assert!(one == many, "{threads} threads differ from one");
    }
}

#[test]
fn an_images_output_does_not_depend_on_the_batch_around_it() {
    let x = noise([21, 9, 8, 8], 1);
    let weight = noise([12, 9, 3, 3], 2);
    let up = noise([9, 4, 2, 2], 3);
    let run = |x: Plain| {
        [
            values(&conv2d(x.clone(), weight.clone(), None, 1, 1)),
            values(&double_conv2d(x, up.clone(), None)),
        ]
        .concat()
    };
    // All images at once, then each by itself.
    let together = conv2d(x.clone(), weight.clone(), None, 1, 1);
    let doubled = double_conv2d(x.clone(), up.clone(), None);
    for i in 0..21 {
        let alone = run(x.clone().narrow(0, i, 1));
        let among =
            [values(&together.clone().narrow(0, i, 1)), values(&doubled.clone().narrow(0, i, 1))]
                .concat();
        assert_eq!(alone, among);
    }
}

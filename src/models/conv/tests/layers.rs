//! Compares stages, pooling, normalisation, modulation and tanh with references.

use super::*;

#[test]
fn a_stage_equals_its_layers_bitwise() {
    for (i, [n, ci, co, h, w]) in [
        [3, 9, 16, 64, 64],
        [9, 16, 32, 16, 16],
        [40, 5, 7, 9, 14],
        [1, 2, 3, 8, 8],
        [4, 3, 2, 4, 4],
    ]
    .into_iter()
    .enumerate()
    {
        let x = noise([n, ci, h, w], i as u32 + 1);
        let layer = |at: usize| {
            let inputs = if at == 0 { ci } else { co };
            (
                into_float(noise([co, inputs, 3, 3], 100 + at as u32)),
                into_float(noise([co], 200 + at as u32)),
            )
        };
        let layers: [_; 5] = std::array::from_fn(layer);
        let got: Plain = from_float(Flex::impala_stage(into_float(x.clone()), layers.clone()));
        let want: Plain = from_float(fallback::impala_stage::<Flex>(into_float(x), layers));
        assert_eq!(got.dims(), want.dims());
        assert_eq!(values(&got), values(&want), "{i}");
    }
}

#[test]
fn pooling_equals_burns_and_ties_go_to_the_first() {
    for (i, [h, w, kernel, stride, padding]) in
        [[64, 64, 3, 2, 1], [8, 8, 2, 2, 0], [7, 5, 3, 2, 1], [5, 4, 2, 2, 0], [3, 3, 3, 1, 1]]
            .into_iter()
            .enumerate()
    {
        // Few values, so that many windows have several maxima.
        let x = noise([3, 4, h, w], i as u32 + 1).mul_scalar(3.0).round();
        let pool = Pool { kernel, stride, padding };
        let leaf = Tensor::<Ad, 4>::from_inner(x.clone()).require_grad();
        let out = max_pool2d(leaf.clone(), pool);
        let [height, width] = pool.output([h, w]);
        assert_eq!(out.dims(), [3, 4, height, width]);
        let random = Tensor::from_inner(noise(out.dims(), 99));
        let grads = (out.clone() * random.clone()).sum().backward();
        let want = Tensor::<Ad, 4>::from_inner(x).require_grad();
        let wanted =
            module::max_pool2d(want.clone(), [kernel; 2], [stride; 2], [padding; 2], [1; 2], false);
        assert_eq!(values(&out.inner()), values(&wanted.clone().inner()));
        let want_grads = (wanted * random).sum().backward();
        assert!(
            relative_error(&leaf.grad(&grads).unwrap(), &want.grad(&want_grads).unwrap()) < 1e-6
        );
    }
}

#[test]
fn normalising_equals_autodiff_over_elementary_operations() {
    for [n, c, h, w] in [[5, 7, 9, 4], [32, 8, 1, 1], [2, 3, 33, 65]] {
        // Far from zero, where a careless variance loses its digits.
        let x = noise([n, c, h, w], 1).add_scalar(30.0);
        let weight = noise([c], 2);
        let bias = noise([c], 3);
        let inputs = (&x, &noise([1, 1, 1, 1], 4), &bias, &weight.clone().reshape([1, c, 1, 1]));
        let with_all = |out: Tensor<Ad, 4>, unused: Tensor<Ad, 4>| out + unused.mul_scalar(0.0);
        let got = gradients(inputs, |x, unused, bias, weight| {
            with_all(batch_norm(x, weight.flatten(0, 3), bias, 1e-5).0, unused)
        });
        let elementary = |x: Tensor<Ad, 4>, bias: Tensor<Ad, 1>, weight: Tensor<Ad, 4>| {
            let mean = x.clone().mean_dim(0).mean_dim(2).mean_dim(3);
            let centred = x - mean;
            let variance = centred.clone().square().mean_dim(0).mean_dim(2).mean_dim(3);
            let bias = bias.reshape([1, c, 1, 1]);
            centred / variance.add_scalar(1e-5).sqrt() * weight + bias
        };
        let want = gradients(inputs, |x, unused, bias, weight| {
            with_all(elementary(x, bias, weight), unused)
        });
        let errors = [
            relative_error(&got.0, &want.0),
            relative_error(&got.2, &want.2),
            relative_error(&got.3, &want.3),
        ];
        assert!(errors.iter().all(|&v| v < 2e-4), "{errors:?}");
        let (out, mean, variance) = batch_norm(x.clone(), weight.clone(), bias.clone(), 1e-5);
        let want = elementary(
            Tensor::from_inner(x.clone()),
            Tensor::from_inner(bias),
            Tensor::from_inner(weight.reshape([1, c, 1, 1])),
        );
        assert!(relative_error(&out, &want.inner()) < 2e-5);
        let x = x.swap_dims(0, 1).reshape([c, n * h * w]);
        assert!(relative_error(&mean, &x.clone().mean_dim(1).flatten(0, 1)) < 1e-6);
        assert!(relative_error(&variance, &x.var_bias(1).flatten(0, 1)) < 1e-5);
    }
}

#[test]
fn modulating_equals_autodiff_over_elementary_operations() {
    for [n, c, h, w] in [[5, 7, 9, 4], [3, 2, 1, 1], [2, 3, 33, 65]] {
        let x = noise([n, c, h, w], 1);
        let by = noise([n, 2 * c], 2);
        let elementary = |x: Tensor<Ad, 4>, by: Tensor<Ad, 2>| {
            let by = by.reshape([n, 2 * c, 1, 1]);
            x * (by.clone().narrow(1, 0, c) + 1.0) + by.narrow(1, c, c)
        };
        let run = |f: &dyn Fn(Tensor<Ad, 4>, Tensor<Ad, 2>) -> Tensor<Ad, 4>| {
            let x = Tensor::from_inner(x.clone()).require_grad();
            let by = Tensor::from_inner(by.clone()).require_grad();
            let out = f(x.clone(), by.clone());
            let grads = (out.clone() * Tensor::from_inner(noise(out.dims(), 99))).sum().backward();
            (out.inner(), x.grad(&grads).unwrap(), by.grad(&grads).unwrap())
        };
        let got = run(&modulate);
        let want = run(&elementary);
        assert!(
            relative_error(&got.0, &want.0) < 1e-6
                && relative_error(&got.1, &want.1) < 1e-6
                && relative_error(&got.2, &want.2) < 1e-4
        );
    }
}

#[test]
fn tanh_and_its_gradient_equal_burns() {
    let x = noise([3, 5, 7, 11], 1).mul_scalar(4.0);
    let run = |f: &dyn Fn(Tensor<Ad, 4>) -> Tensor<Ad, 4>| {
        let x = Tensor::from_inner(x.clone()).require_grad();
        let out = f(x.clone());
        let random = Tensor::from_inner(noise(out.dims(), 99));
        let grads = (out.clone() * random).sum().backward();
        (out.inner(), x.grad(&grads).unwrap())
    };
    let got = run(&tanh);
    let want = run(&Tensor::tanh);
    assert!(relative_error(&got.0, &want.0) < 1e-6 && relative_error(&got.1, &want.1) < 1e-5);
}

//! Matrix products that are right for every size.
//!
//! burn tunes its products: it measures several kernels on the device and takes the fastest. Some
//! of them hold two parts of the sum at once, in steps called stages. In burn 0.21 these read a
//! stage past the end of the sum if it is an odd number of stages long
//! (<https://github.com/tracel-ai/cubek/issues/434>): the product is wrong, without a word, and
//! only where such a kernel is the fastest. [`product`] lets burn tune only those products that no
//! such kernel can get wrong.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::ops::{permute, reshape};
use burn_cubecl::tensor::CubeTensor;

/// Two stages of the longest kind: as long as the widest plane, which has 64 lanes. burn tunes
/// products of sums of such a length, or several of them.
pub const STAGES: usize = 2 * 64;

/// Products of a group of images that are summed at once. More groups keep more multiprocessors
/// busy, fewer need less memory.
const GROUP: usize = 1 << 14;

/// Multiplies matrices.
///
/// # Shapes
/// - `a`: `[.., m, k]`; `b`: `[.., k, n]`, with the same dimensions in front
/// - output: `[.., m, n]`
pub fn product<R: CubeRuntime>(a: CubeTensor<R>, b: CubeTensor<R>, dtype: DType) -> CubeTensor<R> {
    let [.., m, k] = **a.meta.shape() else { unreachable!("a matrix has two dimensions") };
    let [.., n] = **b.meta.shape() else { unreachable!("a matrix has two dimensions") };
    // Kernels for vectors have longer stages.
    let is_tuned = k.is_multiple_of(STAGES) && m > 1 && n > 1;
    // The kernel that burn takes without tuning holds one stage.
    let strategy = if is_tuned { MatmulStrategy::default() } else { MatmulStrategy::Cube };
    matmul(a, b, None, strategy, dtype).expect("burn has a kernel for every matrix product")
}

/// Multiplies the transpose of `rows` with `gradients`, apart for each group of rows.
///
/// # Shapes
/// - `rows`: `[rows, columns]`
/// - `gradients`: `[rows, out]`
/// - output: `[group, columns, out]`, in f32
pub fn sum_of_groups<R: CubeRuntime>(
    rows: CubeTensor<R>,
    gradients: CubeTensor<R>,
) -> CubeTensor<R> {
    let [count, columns] = rows.meta.shape().dims();
    let [_, outputs] = gradients.meta.shape().dims();
    let groups = groups(count);
    let rows = reshape(rows, Shape::new([groups, count / groups, columns]));
    let gradients = reshape(gradients, Shape::new([groups, count / groups, outputs]));
    product(permute(rows, &[0, 2, 1]), gradients, DType::F32)
}

/// Returns the number of groups for `count` rows: groups whose products burn may tune, if there are
/// some.
fn groups(count: usize) -> usize {
    let most = count.div_ceil(GROUP);
    let divides = |unit: usize| {
        (1..=most).rev().find(|groups| count.is_multiple_of(groups.saturating_mul(unit)))
    };
    divides(STAGES).or_else(|| divides(1)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_divide_the_rows_and_may_be_tuned_if_there_are_some() {
        assert_eq!(groups(5), 1);
        assert_eq!(groups(1 << 14), 1);
        assert_eq!(groups(1 << 16), 4);
        // 17 * 2^10 rows: two groups of 8,704 = 68 * 128.
        assert_eq!(groups(17 << 10), 2);
        // An odd number of rows cannot be split into groups that may be tuned.
        assert_eq!(groups((1 << 14) + 1), 1);
    }
}

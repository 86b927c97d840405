//! Principal components: points in many dimensions go in, their places along the two directions in which they differ most come out.

/// Rounds of the power iteration; components whose shares differ by a tenth are told apart to six digits.
const ROUNDS: usize = 150;

/// The two components of every point, and the share of all variance that each explains.
pub struct Plane {
    /// `[point]`
    pub places: Vec<[f64; 2]>,
    /// Shares of the variance, 0 to 1.
    pub shares: [f64; 2],
}

/// Projects points onto their first two components; the largest weight of each is positive, so that nothing turns round by chance.
///
/// # Shapes
/// - `points`: `[point, dim]`
pub fn pca(points: &[f32], dim: usize) -> Plane {
    let centred = centred(points, dim);
    let covariance = covariance(&centred, dim);
    let total: f64 = (0..dim).map(|i| covariance[i * dim + i]).sum();
    let first = component(&covariance, dim, None);
    let second = component(&covariance, dim, Some(&first));
    let share = |component: &[f64]| {
        dot(component, &times(&covariance, component)) / total.max(f64::MIN_POSITIVE)
    };
    let shares = [share(&first), share(&second)];
    let places = centred
        .chunks_exact(dim.max(1))
        .map(|point| [dot(point, &first), dot(point, &second)])
        .collect();
    Plane { places, shares }
}

fn centred(points: &[f32], dim: usize) -> Vec<f64> {
    let count = (points.len() / dim.max(1)).max(1) as f64;
    let mut mean = vec![0.0; dim];
    points.chunks_exact(dim.max(1)).for_each(|point| {
        mean.iter_mut().zip(point).for_each(|(mean, value)| *mean += f64::from(*value) / count)
    });
    points.iter().enumerate().map(|(i, value)| f64::from(*value) - mean[i % dim]).collect()
}

/// `[dim, dim]`
fn covariance(centred: &[f64], dim: usize) -> Vec<f64> {
    let count = (centred.len() / dim.max(1)).max(1) as f64;
    let mut covariance = vec![0.0; dim * dim];
    for point in centred.chunks_exact(dim.max(1)) {
        for (row, a) in covariance.chunks_exact_mut(dim).zip(point) {
            row.iter_mut().zip(point).for_each(|(sum, b)| *sum += a * b / count);
        }
    }
    covariance
}

/// The direction of most variance, at right angles to one that is known.
fn component(covariance: &[f64], dim: usize, known: Option<&[f64]>) -> Vec<f64> {
    let mut direction: Vec<f64> = (0..dim).map(|i| 1.0 + (i as f64 * 0.7).sin()).collect();
    for _ in 0..ROUNDS {
        if let Some(known) = known {
            let along = dot(&direction, known);
            direction.iter_mut().zip(known).for_each(|(value, known)| *value -= along * known);
        }
        let next = times(covariance, &direction);
        let length = dot(&next, &next).sqrt();
        if length < 1e-12 {
            break;
        }
        direction = next.into_iter().map(|value| value / length).collect();
    }
    let length = dot(&direction, &direction).sqrt().max(f64::MIN_POSITIVE);
    let largest =
        direction.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(1.0);
    direction.iter().map(|value| value / length * largest.signum()).collect()
}

fn times(matrix: &[f64], vector: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(vector.len().max(1)).map(|row| dot(row, vector)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretched_cloud_is_laid_along_its_axes() {
        // Along (3, 4, 0) / 5 with deviation 10, along z with deviation 1.
        let places: Vec<(f64, f64)> = (0..200)
            .map(|i| (10.0 * (f64::from(i) * 0.61).sin(), (f64::from(i) * 1.37).cos()))
            .collect();
        let points: Vec<f32> = places
            .iter()
            .flat_map(|(u, v)| [3.0 * u / 5.0 + 7.0, 4.0 * u / 5.0, *v].map(|x| x as f32))
            .collect();
        let plane = pca(&points, 3);
        let mean = places.iter().map(|place| place.0).sum::<f64>() / 200.0;
        assert!(
            plane
                .places
                .iter()
                .zip(&places)
                .all(|(found, place)| (found[0] - (place.0 - mean)).abs() < 0.05)
        );
        assert!(
            (plane.shares[0] + plane.shares[1] - 1.0).abs() < 1e-6 && plane.shares[0] > 0.97,
            "{:?}",
            plane.shares
        );
    }

    #[test]
    fn points_that_are_all_alike_are_one_place() {
        let plane = pca(&[1.0; 12], 4);
        assert!(plane.places.iter().all(|place| place.iter().all(|value| value.abs() < 1e-9)));
    }
}

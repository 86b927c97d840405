//! Principal components: projects points onto the two directions with the most variance.

/// The number of power iterations. They separate components whose shares differ by a tenth to six
/// digits.
const ROUNDS: usize = 150;

/// The first two components of all points.
pub struct Plane {
    /// `[point]`: the two coordinates.
    pub places: Vec<[f64; 2]>,
    /// The share of the variance each component explains, 0 to 1.
    pub shares: [f64; 2],
}

/// Projects points onto their first two components. The largest weight of each component is
/// positive, so that signs are stable.
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
    for point in points.chunks_exact(dim.max(1)) {
        for (mean, value) in mean.iter_mut().zip(point) {
            *mean += f64::from(*value) / count;
        }
    }
    points.iter().enumerate().map(|(i, value)| f64::from(*value) - mean[i % dim]).collect()
}

/// `[dim, dim]`
fn covariance(centred: &[f64], dim: usize) -> Vec<f64> {
    let count = (centred.len() / dim.max(1)).max(1) as f64;
    let mut covariance = vec![0.0; dim * dim];
    for point in centred.chunks_exact(dim.max(1)) {
        for (row, a) in covariance.chunks_exact_mut(dim).zip(point) {
            for (sum, b) in row.iter_mut().zip(point) {
                *sum += a * b / count;
            }
        }
    }
    covariance
}

/// Returns the direction of most variance, orthogonal to `known`.
fn component(covariance: &[f64], dim: usize, known: Option<&[f64]>) -> Vec<f64> {
    // An arbitrary start, unlikely to be orthogonal to the component.
    let mut direction: Vec<f64> = (0..dim).map(|i| 1.0 + (i as f64 * 0.7).sin()).collect();
    for _ in 0..ROUNDS {
        if let Some(known) = known {
            // Rounding errors bring the known direction back, so it is removed in each round.
            let along = dot(&direction, known);
            for (value, known) in direction.iter_mut().zip(known) {
                *value -= along * known;
            }
        }
        let next = times(covariance, &direction);
        let length = dot(&next, &next).sqrt();
        // No variance is left, as with equal points.
        if length < 1e-12 {
            break;
        }
        direction = next.into_iter().map(|value| value / length).collect();
    }
    let length = dot(&direction, &direction).sqrt().max(f64::MIN_POSITIVE);
    // The sign of a component is arbitrary.
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
    fn an_elongated_cloud_is_aligned_with_its_axes() {
        // A deviation of 10 along (3, 4, 0) / 5, and of 1 along z.
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
    fn equal_points_are_projected_to_one_place() {
        let plane = pca(&[1.0; 12], 4);
        assert!(plane.places.iter().all(|place| place.iter().all(|value| value.abs() < 1e-9)));
    }
}

//! UMAP (McInnes, Healy & Melville, 2018): lays points out in a plane so that neighbours stay
//! together.
//!
//! For about 2,000 points the exact method is short and fast. Existing crates need much more:
//! `umap-rs` takes neighbours and an initial layout as input, `fast-umap` trains a network on a GPU
//! with another version of burn, `annembed` needs a LAPACK. Differs from the published program: the
//! initial layout is the principal components instead of a spectral embedding. Both preserve large
//! distances.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// The number of neighbours of a point.
const NEIGHBOURS: usize = 15;
/// The number of passes over all edges.
const EPOCHS: usize = 300;
/// The number of points that are pushed away for each pull.
const NEGATIVES: usize = 5;
/// The curve 1 / (1 + a d^2b), fitted by the published program to `min_dist` = 0.1 and `spread` =
/// 1.
const A: f64 = 1.577;
const B: f64 = 0.895;
/// The largest step of one pull or push along an axis.
const MAX_STEP: f64 = 4.0;

/// Two neighbours, and the strength of their bond, 0 to 1.
struct Edge {
    from: usize,
    to: usize,
    weight: f64,
}

/// Lays out points, starting from the layout `start`.
///
/// # Shapes
/// - `points`: `[point, dim]`
/// - `start`: `[point]`
pub fn umap(points: &[f32], dim: usize, start: &[[f64; 2]], rng: &mut ChaCha8Rng) -> Vec<[f64; 2]> {
    let neighbours = neighbours(points, dim);
    let edges = fuzzy_union(&neighbours);
    // The published program scales the initial layout to 10, too.
    let size = start.iter().flatten().fold(0.0_f64, |size, value| size.max(value.abs())).max(1e-9);
    // Noise separates points with equal initial positions.
    let mut places: Vec<[f64; 2]> = start
        .iter()
        .map(|place| place.map(|value| value / size * 10.0 + (rng.random::<f64>() - 0.5) * 1e-3))
        .collect();
    let strongest = edges.iter().map(|edge| edge.weight).fold(0.0, f64::max);
    // The epoch at which each edge is next pulled: strong edges are pulled more often.
    let mut due: Vec<f64> = edges.iter().map(|edge| strongest / edge.weight).collect();
    for epoch in 0..EPOCHS {
        let rate = 1.0 - epoch as f64 / EPOCHS as f64;
        for (edge, due) in edges.iter().zip(&mut due) {
            // Weak edges skip most epochs.
            if *due > epoch as f64 + 1.0 {
                continue;
            }
            *due += strongest / edge.weight;
            pull(&mut places, edge, rate);
            for _ in 0..NEGATIVES {
                let other = rng.random_range(0..places.len());
                push(&mut places, edge.from, other, rate);
            }
        }
    }
    places
}

/// Returns the nearest points of each point, nearest first, with their distances.
fn neighbours(points: &[f32], dim: usize) -> Vec<Vec<(f64, usize)>> {
    let dim = dim.max(1);
    let point = |i: usize| &points[i * dim..(i + 1) * dim];
    let of = |i: usize| {
        let distance =
            |j: usize| point(i).iter().zip(point(j)).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let mut all: Vec<(f32, usize)> =
            (0..points.len() / dim).filter(|j| *j != i).map(|j| (distance(j), j)).collect();
        let most = NEIGHBOURS.min(all.len());
        if most < all.len() {
            // Selects first, since sorting all distances would dominate the time.
            all.select_nth_unstable_by(most, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        }
        all.truncate(most);
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        all.into_iter().map(|(squared, j)| (f64::from(squared).sqrt(), j)).collect()
    };
    (0..points.len() / dim).into_par_iter().map(of).collect()
}

/// Returns the bonds of all neighbours: the fuzzy union of each point's view of its neighbours.
fn fuzzy_union(neighbours: &[Vec<(f64, usize)>]) -> Vec<Edge> {
    let mut views = std::collections::BTreeMap::<(usize, usize), f64>::new();
    for (i, near) in neighbours.iter().enumerate() {
        let nearest = near.iter().map(|(d, _)| *d).find(|d| *d > 0.0).unwrap_or(0.0);
        let width = width(near);
        for (distance, j) in near {
            views.insert((i, *j), (-(distance - nearest).max(0.0) / width).exp());
        }
    }
    let joined = |(&(from, to), &weight): (&(usize, usize), &f64)| {
        let back = views.get(&(to, from)).copied().unwrap_or(0.0);
        // The probability that at least one of the two views holds.
        Edge { from, to, weight: weight + back - weight * back }
    };
    // Both directions, so that both ends are pulled and push others away. Edges too weak for a
    // single pull are dropped.
    let there = views.iter().map(joined);
    let back =
        views.iter().filter(|((from, to), _)| !views.contains_key(&(*to, *from))).map(|entry| {
            let Edge { from, to, weight } = joined(entry);
            Edge { from: to, to: from, weight }
        });
    there.chain(back).filter(|edge| edge.weight > 1.0 / EPOCHS as f64).collect()
}

/// Returns the width at which the weights of a point's neighbours sum to log2 of their number.
fn width(near: &[(f64, usize)]) -> f64 {
    let nearest = near.iter().map(|(d, _)| *d).find(|d| *d > 0.0).unwrap_or(0.0);
    let wanted = (near.len() as f64).log2();
    let sum =
        |width: f64| near.iter().map(|(d, _)| (-(d - nearest).max(0.0) / width).exp()).sum::<f64>();
    // Bisection, after doubling the width until the sum is too large.
    let mut low = 0.0;
    let mut high = f64::INFINITY;
    let mut width = 1.0;
    for _ in 0..64 {
        if sum(width) > wanted {
            high = width
        } else {
            low = width
        }
        width = if high.is_finite() { (low + high) / 2.0 } else { width * 2.0 };
    }
    let mean = near.iter().map(|(d, _)| d).sum::<f64>() / near.len().max(1) as f64;
    // Many neighbours at equal distance have no such width.
    width.clamp(1e-3 * mean.max(1e-9), 1e3 * mean.max(1e-9))
}

fn pull(places: &mut [[f64; 2]], edge: &Edge, rate: f64) {
    let (a, b) = (places[edge.from], places[edge.to]);
    let squared = squared(a, b);
    if squared == 0.0 {
        return;
    }
    // The gradient of the attraction, as in the paper.
    let strength = -2.0 * A * B * squared.powf(B - 1.0) / (1.0 + A * squared.powf(B));
    for axis in 0..2 {
        let step = (strength * (a[axis] - b[axis])).clamp(-MAX_STEP, MAX_STEP) * rate;
        places[edge.from][axis] += step;
        places[edge.to][axis] -= step;
    }
}

fn push(places: &mut [[f64; 2]], point: usize, other: usize, rate: f64) {
    let (a, b) = (places[point], places[other]);
    let squared = squared(a, b);
    if squared == 0.0 {
        return;
    }
    // The gradient of the repulsion, with 0.001 against division by zero.
    let strength = 2.0 * B / ((0.001 + squared) * (1.0 + A * squared.powf(B)));
    for axis in 0..2 {
        places[point][axis] += (strength * (a[axis] - b[axis])).clamp(-MAX_STEP, MAX_STEP) * rate;
    }
}

fn squared(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn separate_clusters_stay_separate_and_whole() {
        const DIM: usize = 20;
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut value = |centre: f32| centre + rng.random::<f32>() - 0.5;
        // Three clusters. The initial layout is unrelated to them.
        let cluster = |i: usize| i % 3;
        let points: Vec<f32> = (0..300)
            .flat_map(|i| (0..DIM).map(move |k| if k == cluster(i) { 6.0 } else { 0.0 }))
            .map(&mut value)
            .collect();
        let start: Vec<[f64; 2]> =
            (0..300).map(|i| [f64::from(i).sin(), f64::from(i * i % 97).cos()]).collect();
        let places = umap(&points, DIM, &start, &mut rng);
        assert!(places.iter().flatten().all(|value| value.is_finite()));
        let nearest = |i: usize| {
            (0..300).filter(|j| *j != i).min_by(|a, b| {
                squared(places[i], places[*a]).total_cmp(&squared(places[i], places[*b]))
            })
        };
        let kept =
            (0..300).filter(|i| nearest(*i).is_some_and(|j| cluster(j) == cluster(*i))).count();
        assert!(kept >= 297, "{kept} of 300 lie beside a point of their cluster");
    }

    #[test]
    fn few_and_equal_points_have_finite_positions() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert!(umap(&[], 3, &[], &mut rng).is_empty());
        assert_eq!(umap(&[1.0, 2.0], 2, &[[0.0; 2]], &mut rng).len(), 1);
        let places = umap(&[1.0; 80], 2, &[[0.0; 2]; 40], &mut rng);
        assert!(places.iter().flatten().all(|value| value.is_finite()));
    }
}

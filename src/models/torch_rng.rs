//! PyTorch's CPU random numbers, so that a seed starts the same training here and in PyTorch.
//!
//! The generator is the Mersenne Twister, seeded with the low 32 bits of the seed. How PyTorch 2
//! derives floats and integers from it was found by comparison, and the tests hold its results.

use rand_mt::Mt;

/// The generator behind `torch.manual_seed`.
pub struct TorchRng {
    numbers: Mt,
    drawn: u64,
}

impl TorchRng {
    /// Bounds from here on need two numbers per integer.
    const WIDE: u64 = 1 << 28;

    /// Starts the stream of `seed`.
    pub fn new(seed: u64) -> Self {
        TorchRng { numbers: Mt::new(seed as u32), drawn: 0 }
    }

    /// Returns the count of numbers drawn so far.
    pub fn drawn(&self) -> u64 {
        self.drawn
    }

    /// Skips `count` numbers, at about a nanosecond each.
    pub fn skip(&mut self, count: u64) {
        for _ in 0..count {
            self.next();
        }
    }

    /// Returns a number uniform in ±`bound`: `torch.Tensor.uniform_(-bound, bound)`.
    pub fn uniform(&mut self, bound: f32) -> f32 {
        // A float has 24 bits of mantissa: the low 24 bits of the number.
        let share = (self.next() & 0xff_ffff) as f32 / (1 << 24) as f32;
        // One rounding, as in PyTorch.
        share.mul_add(bound - -bound, -bound)
    }

    /// Returns `count` normal numbers: up to rounding those of `torch.Tensor.normal_()`, if `count`
    /// is a multiple of 16.
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        // Box-Muller: of 16 uniform numbers, the first 8 are radii and the others angles.
        let mut numbers = Vec::with_capacity(count.next_multiple_of(16));
        for _ in 0..count.div_ceil(16) {
            let uniform: [f64; 16] =
                std::array::from_fn(|_| f64::from(self.next() & 0xff_ffff) / f64::from(1 << 24));
            let (radii, angles) = uniform.split_at(8);
            let polar = || {
                let radius = |share: &f64| (-2.0 * (1.0 - share).ln()).sqrt();
                radii
                    .iter()
                    .map(radius)
                    .zip(angles.iter().map(|share| std::f64::consts::TAU * share))
            };
            numbers.extend(polar().map(|(radius, angle)| (radius * angle.cos()) as f32));
            numbers.extend(polar().map(|(radius, angle)| (radius * angle.sin()) as f32));
        }
        numbers.truncate(count);
        numbers
    }

    /// Returns an integer uniform below `count`: `torch.randint(count)`.
    pub fn below(&mut self, count: u64) -> u64 {
        let number = u64::from(self.next());
        let number =
            if count < Self::WIDE { number } else { number << 32 | u64::from(self.next()) };
        number % count
    }

    fn next(&mut self) -> u32 {
        self.drawn += 1;
        self.numbers.next_u32()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_equal_pytorchs() {
        let mut rng = TorchRng::new(7);
        let seen: Vec<f32> = (0..6).map(|_| rng.uniform(1.0 / 3.0)).collect();
        // torch.manual_seed(7); torch.empty(6).uniform_(-1 / 3, 1 / 3);
        // torch.randint(3050, (4,)); torch.randint(2**31, (2,))
        let expected = [
            0.023_281_693,
            -0.200_797_89,
            0.106_141_135,
            0.104_593_515,
            -0.178_158_97,
            -0.049_959_064,
        ];
        assert_eq!(seen, expected);
        assert_eq!((0..4).map(|_| rng.below(3050)).collect::<Vec<_>>(), [1637, 879, 438, 811]);
        assert_eq!(
            (0..2).map(|_| rng.below(1 << 31)).collect::<Vec<_>>(),
            [1_133_316_631, 372_560_217]
        );
        assert_eq!(rng.drawn(), 6 + 4 + 2 * 2);
    }

    #[test]
    fn normal_numbers_equal_pytorchs_up_to_rounding() {
        let mut rng = TorchRng::new(7);
        let seen = rng.normal(32);
        // torch.manual_seed(7); torch.empty(32).normal_(); torch.randint(3050, (2,))
        let expected = [
            -0.820135, 0.395631, 0.898908, -1.388404, -0.166996, 0.28515, -0.641092, -0.893655,
            0.926543, -0.535512, -1.15972, -0.460157, 0.708539, 1.012755, 0.230397, 1.090165,
            -1.582665, -0.324567, 1.926368, -0.330012, 0.198445, 0.782073, 1.039108, -0.724511,
            -0.20934, -0.215342, -1.815729, -0.345242, -2.061478, 0.674101, -1.323346, -1.359769,
        ];
        for (seen, expected) in seen.iter().zip(expected) {
            assert!((seen - expected).abs() < 1e-5, "{seen} for {expected}");
        }
        assert_eq!([rng.below(3050), rng.below(3050)], [816, 763]);
    }

    #[test]
    fn skipping_equals_drawing() {
        let mut drawn = TorchRng::new(3);
        let mut skipped = TorchRng::new(3);
        for _ in 0..1000 {
            drawn.below(10);
        }
        skipped.skip(1000);
        assert_eq!(drawn.below(1 << 20), skipped.below(1 << 20));
    }
}

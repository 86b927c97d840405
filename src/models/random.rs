//! The random numbers PyTorch draws on a CPU: the same seed starts the same training there and here, which is how the two are compared.
//!
//! The generator is the Mersenne Twister, seeded by the low 32 bits of the seed; what is made of its numbers was found by comparing with
//! PyTorch 2, whose results the tests hold.

use rand_mt::Mt;

/// `torch.manual_seed`, and what follows.
pub struct TorchRng {
    numbers: Mt,
    drawn: u64,
}

impl TorchRng {
    /// From this many on, an integer takes two numbers.
    const WIDE: u64 = 1 << 28;

    /// Starts the stream of `seed`.
    pub fn new(seed: u64) -> Self {
        TorchRng { numbers: Mt::new(seed as u32), drawn: 0 }
    }

    /// How many numbers were drawn.
    pub fn drawn(&self) -> u64 {
        self.drawn
    }

    /// Goes on as if `count` numbers had been drawn; a nanosecond each.
    pub fn skip(&mut self, count: u64) {
        (0..count).for_each(|_| _ = self.next());
    }

    /// Uniform in ±`bound`: `torch.Tensor.uniform_(-bound, bound)`.
    pub fn uniform(&mut self, bound: f32) -> f32 {
        let share = (self.next() & 0xff_ffff) as f32 / (1 << 24) as f32;
        share.mul_add(bound - -bound, -bound)
    }

    /// Uniform below `count`: `torch.randint(count)`.
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
    fn the_numbers_are_those_of_pytorch() {
        let mut rng = TorchRng::new(7);
        let seen: Vec<f32> = (0..6).map(|_| rng.uniform(1.0 / 3.0)).collect();
        // torch.manual_seed(7); torch.empty(6).uniform_(-1 / 3, 1 / 3); torch.randint(3050, (4,)); torch.randint(2**31, (2,))
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
    fn skipping_is_drawing() {
        let (mut drawn, mut skipped) = (TorchRng::new(3), TorchRng::new(3));
        (0..1000).for_each(|_| _ = drawn.below(10));
        skipped.skip(1000);
        assert_eq!(drawn.below(1 << 20), skipped.below(1 << 20));
    }
}

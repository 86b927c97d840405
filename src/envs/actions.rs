//! Actions of environments, and the spaces they are taken from.

use std::fmt;

use rand::Rng;
use serde::{Deserialize, Serialize};

/// The actions that an environment takes.
#[derive(Clone, Debug, PartialEq)]
pub enum ActionSpace {
    /// A number below `actions`.
    Discrete {
        /// Number of actions.
        actions: usize,
    },
    /// A number on each axis.
    Continuous {
        /// The least value of each axis; `None` if it has no bound.
        low: Vec<Option<f32>>,
        /// The largest value of each axis; `None` if it has no bound.
        high: Vec<Option<f32>>,
    },
}

/// The action of one environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Action {
    /// The number of an action.
    Discrete(u32),
    /// `[axis]`
    Continuous(Vec<f32>),
}

impl ActionSpace {
    /// Returns the number of discrete actions; `None` if actions are continuous.
    pub fn discrete(&self) -> Option<usize> {
        match self {
            ActionSpace::Discrete { actions } => Some(*actions),
            ActionSpace::Continuous { .. } => None,
        }
    }

    /// Returns the number of axes; `None` if actions are discrete.
    pub fn axes(&self) -> Option<usize> {
        match self {
            ActionSpace::Discrete { .. } => None,
            ActionSpace::Continuous { low, .. } => Some(low.len()),
        }
    }

    /// Returns whether `action` may be taken.
    pub fn contains(&self, action: &Action) -> bool {
        match (self, action) {
            (ActionSpace::Discrete { actions }, Action::Discrete(number)) => {
                (*number as usize) < *actions
            }
            (ActionSpace::Continuous { low, .. }, Action::Continuous(values)) => {
                values.len() == low.len() && values.iter().all(|value| value.is_finite())
            }
            _ => false,
        }
    }

    /// Returns action 0, or on each axis the allowed value nearest to 0.
    pub fn idle(&self) -> Action {
        match self {
            ActionSpace::Discrete { .. } => Action::Discrete(0),
            ActionSpace::Continuous { low, .. } => self.clip(vec![0.0; low.len()]),
        }
    }

    /// Returns the continuous action with its values moved into the bounds.
    pub fn clip(&self, mut values: Vec<f32>) -> Action {
        if let ActionSpace::Continuous { low, high } = self {
            for (value, (low, high)) in values.iter_mut().zip(low.iter().zip(high)) {
                *value = value.max(low.unwrap_or(f32::MIN)).min(high.unwrap_or(f32::MAX));
            }
        }
        Action::Continuous(values)
    }

    /// Draws a random action: each number is equally likely, and so is each value of an axis with
    /// two bounds. Other axes are standard normal, clipped at the bound if there is one.
    pub fn random(&self, rng: &mut impl Rng) -> Action {
        match self {
            ActionSpace::Discrete { actions } => {
                Action::Discrete(rng.random_range(0..*actions as u32))
            }
            ActionSpace::Continuous { low, high } => {
                let draw = |(low, high): (&Option<f32>, &Option<f32>)| match (low, high) {
                    (Some(low), Some(high)) => low + (high - low) * rng.random::<f32>(),
                    _ => normal(rng),
                };
                self.clip(low.iter().zip(high).map(draw).collect())
            }
        }
    }
}

/// Draws from the standard normal distribution (Box and Muller, 1958).
pub fn normal(rng: &mut impl Rng) -> f32 {
    // Not 0, whose logarithm is infinite.
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    (radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()) as f32
}

impl fmt::Display for ActionSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ActionSpace::Discrete { actions } => write!(f, "{actions} discrete actions"),
            ActionSpace::Continuous { low, .. } => {
                write!(f, "continuous actions of {} values", low.len())
            }
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Discrete(number) => write!(f, "{number}"),
            Action::Continuous(values) => write!(f, "{values:?}"),
        }
    }
}

impl Action {
    /// Returns discrete actions, one for each environment.
    pub fn discrete(numbers: &[u32]) -> Vec<Action> {
        numbers.iter().map(|number| Action::Discrete(*number)).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn space() -> ActionSpace {
        ActionSpace::Continuous {
            low: vec![Some(2.0), None, Some(0.0)],
            high: vec![Some(6.0), None, None],
        }
    }

    #[test]
    fn random_actions_are_uniform_between_bounds_and_else_normal() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let count = 20_000;
        let mut rows = Vec::new();
        for _ in 0..count {
            let Action::Continuous(values) = space().random(&mut rng) else { panic!("continuous") };
            rows.push(values);
        }
        let mean = |of: &dyn Fn(&Vec<f32>) -> f32| {
            rows.iter().map(|row| f64::from(of(row))).sum::<f64>() / f64::from(count)
        };
        assert!(rows.iter().all(|row| (2.0..=6.0).contains(&row[0]) && row[2] >= 0.0));
        // The variance of a uniform distribution is the width squared by 12.
        assert!((mean(&|row| row[0]) - 4.0).abs() < 0.05);
        assert!((mean(&|row| (row[0] - 4.0).powi(2)) - 16.0 / 12.0).abs() < 0.05);
        assert!(mean(&|row| row[1]).abs() < 0.03);
        assert!((mean(&|row| row[1].powi(2)) - 1.0).abs() < 0.05);
        // Half of a normal distribution is clipped to 0; the mean of the rest is known.
        assert!((mean(&|row| row[2]) - 0.3989).abs() < 0.02);
    }

    #[test]
    fn actions_are_clipped_and_checked() {
        assert_eq!(space().clip(vec![9.0, 1e9, -1.0]), Action::Continuous(vec![6.0, 1e9, 0.0]));
        assert_eq!(space().idle(), Action::Continuous(vec![2.0, 0.0, 0.0]));
        assert!(!space().contains(&Action::Continuous(vec![2.0, 0.0])));
        assert!(!space().contains(&Action::Continuous(vec![2.0, f32::NAN, 0.0])));
        assert!(!space().contains(&Action::Discrete(0)));
        let discrete = ActionSpace::Discrete { actions: 3 };
        assert!(
            discrete.contains(&Action::Discrete(2)) && !discrete.contains(&Action::Discrete(3))
        );
        assert_eq!(discrete.to_string(), "3 discrete actions");
    }
}

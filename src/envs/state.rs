//! What Procgen's `get_state` writes, as far as we need it: the clock of a game, its entities and its grid.
//!
//! Source: `Game::serialize`, `BasicAbstractGame::serialize`, `Entity::serialize` and `Grid::serialize` of Procgen 0.10, state version 0.
//! All numbers are little-endian words; texts are a length and bytes, so that nothing is aligned.

use super::{Error, Result};

/// The kind of an entity that is the player.
const PLAYER: i32 = 0;
/// Words of an entity; the first two are its place, the seventh is its kind.
const ENTITY: usize = 31;

/// A game's own state, read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    /// The steps after which an episode is cut off.
    pub timeout: u32,
    /// The steps of this episode so far.
    pub time: u32,
    /// Where the player is, in cells, from the lower left.
    pub player: (f32, f32),
    /// Columns of the grid.
    pub width: usize,
    /// What is in each cell, row by row from below.
    pub grid: Vec<i32>,
}

impl State {
    pub fn read(bytes: &[u8]) -> Result<State> {
        let mut words = Words { bytes };
        match words.int()? {
            0 => {}
            seen => {
                return Err(Error::State { what: format!("its version is {seen}, expected 0") });
            }
        }
        words.text()?; // the game's name
        words.skip(17)?; // options, levels, its number
        words.random()?;
        words.random()?;
        words.skip(4)?; // the last step's reward and how it ended, the action
        let timeout = words.int()?;
        words.skip(4 + 3 + 1)?; // levels, the last reward, the look
        let time = words.int()?;
        words.skip(1 + 1)?; // whether it waits, cells of the grid
        let entities = words.count()?;
        let mut player = None;
        for _ in 0..entities {
            let entity = words.take(ENTITY)?;
            if entity[6] == PLAYER {
                player = Some((f32::from_bits(entity[0] as u32), f32::from_bits(entity[1] as u32)));
            }
        }
        words.skip(19)?; // background, movement, camera
        words.random()?;
        words.skip(9)?; // the world's size, what is drawn of it
        let [width, height, cells] = [words.count()?, words.count()?, words.count()?];
        if width * height != cells {
            return Err(Error::State {
                what: format!("a grid of {width} x {height} has {cells} cells"),
            });
        }
        let grid = words.take(cells)?;
        let player =
            player.ok_or_else(|| Error::State { what: "no entity is the player".into() })?;
        Ok(State { timeout: timeout.max(0) as u32, time: time.max(0) as u32, player, width, grid })
    }
}

/// What is left to read.
struct Words<'a> {
    bytes: &'a [u8],
}

impl Words<'_> {
    fn raw(&mut self, len: usize) -> Result<&[u8]> {
        let short = || Error::State { what: format!("it ends {len} bytes too early") };
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or_else(short)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn take(&mut self, count: usize) -> Result<Vec<i32>> {
        let bytes = self.raw(count.saturating_mul(4))?;
        Ok(bytes
            .chunks_exact(4)
            .map(|word| i32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect())
    }

    fn skip(&mut self, count: usize) -> Result<()> {
        self.raw(count * 4).map(drop)
    }

    fn int(&mut self) -> Result<i32> {
        Ok(self.take(1)?[0])
    }

    fn count(&mut self) -> Result<usize> {
        let seen = self.int()?;
        usize::try_from(seen).map_err(|_| Error::State { what: format!("a length is {seen}") })
    }

    fn text(&mut self) -> Result<()> {
        let len = self.count()?;
        self.raw(len).map(drop)
    }

    /// A random generator: whether it is seeded, and its state as text.
    fn random(&mut self) -> Result<()> {
        self.skip(1)?;
        self.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_or_foreign_state_is_an_error_and_no_panic() {
        for bytes in [&b""[..], &[1, 0, 0, 0], &[0, 0, 0, 0, 255, 255, 255, 255], &[0; 400]] {
            assert!(State::read(bytes).is_err(), "{bytes:?}");
        }
    }
}

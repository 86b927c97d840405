//! Parses a game's state from Procgen's `get_state`: the clock, the player and the grid.
//!
//! The format is that of `Game::serialize`, `BasicAbstractGame::serialize`, `Entity::serialize` and
//! `Grid::serialize` in Procgen 0.10, state version 0. Numbers are little-endian 32-bit words. A
//! text is a length and that many bytes, so the words after it are not aligned.

use super::{Error, Result};

/// Kind of the player's entity.
const PLAYER: i32 = 0;
/// Number of words of an entity. The first two are its position, the seventh is its kind.
const ENTITY_WORDS: usize = 31;

/// State of a game.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    /// Number of steps after which an episode is truncated.
    pub timeout: u32,
    /// Number of steps of this episode so far.
    pub time: u32,
    /// Position of the player in cells: column and row from the lower left.
    pub player: (f32, f32),
    /// Number of columns of the grid.
    pub width: usize,
    /// Content of each cell, row by row from the bottom.
    pub grid: Vec<i32>,
}

impl State {
    /// Parses a serialised state.
    pub fn read(bytes: &[u8]) -> Result<State> {
        let mut words = Words { bytes };
        let version = words.int()?;
        if version != 0 {
            return Err(Error::State { what: format!("its version is {version}, expected 0") });
        }
        words.skip_text()?; // name of the game
        words.skip(17)?; // options, levels, number of the game
        words.skip_generator()?;
        words.skip_generator()?;
        words.skip(4)?; // reward and end of the last step, action
        let timeout = words.int()?;
        words.skip(4 + 3 + 1)?; // levels, last reward, asset seed
        let time = words.int()?;
        words.skip(1 + 1)?; // whether the game waits, number of cells
        let entities = words.count()?;
        let mut player = None;
        for _ in 0..entities {
            let entity = words.take(ENTITY_WORDS)?;
            if entity[6] == PLAYER {
                player = Some((f32::from_bits(entity[0] as u32), f32::from_bits(entity[1] as u32)));
            }
        }
        words.skip(19)?; // background, movement, camera
        words.skip_generator()?;
        words.skip(9)?; // size of the world, visible part
        let [width, height, cells] = [words.count()?, words.count()?, words.count()?];
        if width * height != cells {
            return Err(Error::State {
                what: format!("its grid of {width} x {height} has {cells} cells"),
            });
        }
        let grid = words.take(cells)?;
        let player = player.ok_or_else(|| Error::State { what: "it has no player".into() })?;
        Ok(State { timeout: timeout.max(0) as u32, time: time.max(0) as u32, player, width, grid })
    }
}

/// Reader of the remaining words.
struct Words<'a> {
    bytes: &'a [u8],
}

impl Words<'_> {
    fn raw(&mut self, len: usize) -> Result<&[u8]> {
        let left = self.bytes.len();
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or_else(|| Error::State {
            what: format!("it ends too early: {left} bytes are left, expected {len}"),
        })?;
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
        usize::try_from(seen).map_err(|_| Error::State {
            what: format!("one of its lengths is {seen}, expected at least 0"),
        })
    }

    fn skip_text(&mut self) -> Result<()> {
        let len = self.count()?;
        self.raw(len).map(drop)
    }

    /// Skips a random generator: whether it is seeded, and its state as text.
    fn skip_generator(&mut self) -> Result<()> {
        self.skip(1)?;
        self.skip_text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_or_unknown_state_is_an_error() {
        for bytes in [&b""[..], &[1, 0, 0, 0], &[0, 0, 0, 0, 255, 255, 255, 255], &[0; 400]] {
            assert!(State::read(bytes).is_err(), "{bytes:?}");
        }
    }
}

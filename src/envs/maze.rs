//! The expert of `maze`: a shortest path to the cheese, read off the game's own state.

use std::collections::VecDeque;

use super::state::State;
use super::{Procgen, Result};

const NOTHING: u32 = 4;
/// Actions that move one cell: right, left, up, down, as (columns, rows) from the lower left.
const MOVES: [(u32, (isize, isize)); 4] = [(7, (1, 0)), (1, (-1, 0)), (5, (0, 1)), (3, (0, -1))];
const WALL: i32 = 51;
const CHEESE: i32 = 2;

/// The first action of a shortest path in one environment of `maze`; to do nothing where there is none.
pub fn expert(game: &Procgen, env: usize) -> Result<u32> {
    let state = game.state(env)?;
    Ok(first_move(&state.grid, state.width, (state.player.0 as usize, state.player.1 as usize)))
}

/// By breadth-first search.
fn first_move(grid: &[i32], width: usize, start: (usize, usize)) -> u32 {
    let at = |(x, y): (usize, usize)| y * width + x;
    let mut first = vec![None; grid.len()];
    let mut queue = VecDeque::from([start]);
    while let Some(place) = queue.pop_front() {
        if grid.get(at(place)) == Some(&CHEESE) {
            return first[at(place)].unwrap_or(NOTHING);
        }
        for (action, (right, up)) in MOVES {
            let (Some(x), Some(y)) =
                (place.0.checked_add_signed(right), place.1.checked_add_signed(up))
            else {
                continue;
            };
            let open = x < width && grid.get(at((x, y))).is_some_and(|cell| *cell != WALL);
            if open && (x, y) != start && first[at((x, y))].is_none() {
                first[at((x, y))] = first[at(place)].or(Some(action));
                queue.push_back((x, y));
            }
        }
    }
    NOTHING
}

/// The state of an environment, as the expert reads it.
impl Procgen {
    fn state(&self, env: usize) -> Result<State> {
        State::read(&self.state_bytes(env)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Drawn as seen: the first line is the top row. `@` is the player, `*` the cheese.
    fn first(maze: [&str; 4]) -> u32 {
        let rows: Vec<&str> = maze.into_iter().rev().collect();
        let cell = |c| match c {
            '#' => WALL,
            '*' => CHEESE,
            _ => 100,
        };
        let (y, x) = rows
            .iter()
            .enumerate()
            .find_map(|(y, row)| Some((y, row.find('@')?)))
            .expect("there is a player");
        first_move(
            &rows.iter().flat_map(|row| row.chars().map(cell)).collect::<Vec<_>>(),
            rows[0].len(),
            (x, y),
        )
    }

    #[test]
    fn the_expert_goes_round_walls_the_shorter_way() {
        assert_eq!(first(["####", "#@ #", "##*#", "####"]), 7);
        assert_eq!(first(["    ", " ## ", "@#*#", "    "]), 3);
        assert_eq!(first(["  * ", " ## ", "@#  ", " ## "]), 5);
        assert_eq!(first(["  * ", "####", "@   ", "    "]), NOTHING);
    }
}

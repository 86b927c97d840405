//! Expert player of `maze`: takes a shortest path to the cheese, found in the game's state.

use std::collections::VecDeque;

use super::state::State;
use super::{Result, VecEnv};

/// Action that does nothing.
const NOTHING: u32 = 4;
/// Actions that move one cell, and the movement in columns and rows: right, left, up, down.
const MOVES: [(u32, (isize, isize)); 4] = [(7, (1, 0)), (1, (-1, 0)), (5, (0, 1)), (3, (0, -1))];
/// Cell value of a wall.
const WALL: i32 = 51;
/// Cell value of the cheese, the goal of the game.
const CHEESE: i32 = 2;

/// Returns the first action of a shortest path to the cheese, or the action that does nothing if
/// there is no path.
pub fn expert(game: &dyn VecEnv, env: usize) -> Result<u32> {
    let state = State::read(&game.state_bytes(env)?)?;
    let start = (state.player.0 as usize, state.player.1 as usize);
    Ok(first_move(&state.grid, state.width, start))
}

/// Finds the first action of a shortest path by breadth-first search.
fn first_move(grid: &[i32], width: usize, start: (usize, usize)) -> u32 {
    let index = |(x, y): (usize, usize)| y * width + x;
    // The first action of the path to each cell reached so far.
    let mut first = vec![None; grid.len()];
    let mut queue = VecDeque::from([start]);
    while let Some(cell) = queue.pop_front() {
        if grid.get(index(cell)) == Some(&CHEESE) {
            return first[index(cell)].unwrap_or(NOTHING);
        }
        for (action, (right, up)) in MOVES {
            let (Some(x), Some(y)) =
                (cell.0.checked_add_signed(right), cell.1.checked_add_signed(up))
            else {
                continue;
            };
            let next = index((x, y));
            let is_open = x < width && grid.get(next).is_some_and(|content| *content != WALL);
            if is_open && (x, y) != start && first[next].is_none() {
                first[next] = first[index(cell)].or(Some(action));
                queue.push_back((x, y));
            }
        }
    }
    NOTHING
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the first move in a maze. The first line is the top row; `@` is the player, `*` the
    /// cheese, `#` a wall.
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
    fn the_expert_takes_the_shorter_way_around_walls() {
        assert_eq!(first(["####", "#@ #", "##*#", "####"]), 7);
        assert_eq!(first(["    ", " ## ", "@#*#", "    "]), 3);
        assert_eq!(first(["  * ", " ## ", "@#  ", " ## "]), 5);
        assert_eq!(first(["  * ", "####", "@   ", "    "]), NOTHING);
    }
}

//! What an agent truly did, where somebody recorded it: rows go in, the action at any frame of any video comes out.

use std::collections::HashMap;

use super::action_rows::ActionRows;
use super::error::{Error, Result};
use super::store::Store;

/// What was done at one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action<'a> {
    /// The number of a button, or of buttons held together.
    Discrete(u32),
    /// A number per axis: forces, angles.
    Continuous(&'a [f32]),
}

/// The true actions at frames of videos, all of one kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Actions {
    /// Where a frame's action lies.
    by_video: HashMap<String, HashMap<u32, usize>>,
    rows: ActionRows,
}

impl Actions {
    /// Reads files of a workspace.
    ///
    /// # Errors
    /// Names the files and what is wrong with them, such as a frame with two actions.
    pub fn read(store: &Store, paths: &[String]) -> Result<Actions> {
        let rows = ActionRows::read(store, paths)?;
        Actions::new(rows).map_err(|reason| Error::Actions { path: paths.join(", "), reason })
    }

    /// Sorts rows by video and frame.
    ///
    /// # Errors
    /// Names the frame that has two actions.
    pub fn new(rows: ActionRows) -> Result<Actions, String> {
        let mut by_video: HashMap<String, HashMap<u32, usize>> = HashMap::new();
        for (row, (video, frame)) in rows.video.iter().zip(&rows.frame_index).enumerate() {
            let of_video = match by_video.get_mut(video) {
                Some(found) => found,
                None => by_video.entry(video.to_owned()).or_default(),
            };
            if of_video.insert(*frame, row).is_some() {
                return Err(format!("frame {frame} of `{video}` has two actions"));
            }
        }
        Ok(Actions { by_video, rows })
    }

    /// What was done at frame `frame_index` of a video, that is between it and the next.
    #[must_use]
    pub fn get(&self, video: &str, frame_index: u32) -> Option<Action<'_>> {
        let row = self.row(video, frame_index)?;
        Some(match self.rows.axes {
            0 => Action::Discrete(self.rows.discrete[row]),
            axes => Action::Continuous(&self.rows.continuous[row * axes..][..axes]),
        })
    }

    /// The same where actions are discrete.
    #[must_use]
    pub fn discrete(&self, video: &str, frame_index: u32) -> Option<u32> {
        match self.get(video, frame_index)? {
            Action::Discrete(action) => Some(action),
            Action::Continuous(_) => None,
        }
    }

    /// How many numbers an action has; none if it is one of a few.
    #[must_use]
    pub fn axes(&self) -> Option<usize> {
        (self.rows.axes > 0).then_some(self.rows.axes)
    }

    /// How many discrete actions there are: every one of them is a number below.
    #[must_use]
    pub fn count(&self) -> usize {
        self.rows.discrete.iter().max().map_or(0, |most| *most as usize + 1)
    }

    /// The row of a frame's action.
    #[must_use]
    pub fn row(&self, video: &str, frame_index: u32) -> Option<usize> {
        self.by_video.get(video)?.get(&frame_index).copied()
    }

    /// All rows.
    #[must_use]
    pub fn rows(&self) -> &ActionRows {
        &self.rows
    }

    /// The videos, and the row of each of their frames that has one.
    pub fn videos(&self) -> impl Iterator<Item = (&str, &HashMap<u32, usize>)> {
        self.by_video.iter().map(|(video, frames)| (video.as_str(), frames))
    }
}

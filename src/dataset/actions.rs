//! True actions, looked up by video and frame. Start at [`Actions::read`].

use std::collections::HashMap;

use super::action_rows::ActionRows;
use super::error::{Error, Result};
use super::store::Store;

/// The true action at one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action<'a> {
    /// A discrete action, such as the number of a button or of a combination of buttons.
    Discrete(u32),
    /// A continuous action: one number per axis, such as forces or angles.
    Continuous(&'a [f32]),
}

/// True actions of frames, all discrete or all continuous.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Actions {
    /// The row of each frame's action, by video and frame index.
    by_video: HashMap<String, HashMap<u32, usize>>,
    rows: ActionRows,
}

impl Actions {
    /// Reads action files of a workspace.
    ///
    /// # Errors
    /// Fails for invalid files, and for frames with two actions.
    pub fn read(store: &Store, paths: &[String]) -> Result<Actions> {
        let rows = ActionRows::read(store, paths)?;
        Actions::new(rows).map_err(|reason| Error::Actions { path: paths.join(", "), reason })
    }

    /// Indexes rows by video and frame.
    ///
    /// # Errors
    /// Fails for a frame with two actions, and names it.
    pub fn new(rows: ActionRows) -> Result<Actions, String> {
        let mut by_video: HashMap<String, HashMap<u32, usize>> = HashMap::new();
        for (row, (video, frame)) in rows.video.iter().zip(&rows.frame_index).enumerate() {
            // Most rows belong to a known video: `entry` alone would clone the name for each row.
            let frames = match by_video.get_mut(video) {
                Some(found) => found,
                None => by_video.entry(video.to_owned()).or_default(),
            };
            if frames.insert(*frame, row).is_some() {
                return Err(format!("frame {frame} of `{video}` has two actions"));
            }
        }
        Ok(Actions { by_video, rows })
    }

    /// Returns the action at a frame of a video: the one between this frame and the next.
    #[must_use]
    pub fn get(&self, video: &str, frame_index: u32) -> Option<Action<'_>> {
        let row = self.row(video, frame_index)?;
        Some(match self.rows.axes {
            0 => Action::Discrete(self.rows.discrete[row]),
            axes => Action::Continuous(&self.rows.continuous[row * axes..][..axes]),
        })
    }

    /// Returns the discrete action at a frame of a video; `None` if actions are continuous.
    #[must_use]
    pub fn discrete(&self, video: &str, frame_index: u32) -> Option<u32> {
        match self.get(video, frame_index)? {
            Action::Discrete(action) => Some(action),
            Action::Continuous(_) => None,
        }
    }

    /// Returns the number of axes of an action; `None` if actions are discrete.
    #[must_use]
    pub fn axes(&self) -> Option<usize> {
        (self.rows.axes > 0).then_some(self.rows.axes)
    }

    /// Returns the number of discrete actions: the largest one plus 1.
    #[must_use]
    pub fn count(&self) -> usize {
        self.rows.discrete.iter().max().map_or(0, |most| *most as usize + 1)
    }

    /// Returns the row of a frame's action.
    #[must_use]
    pub fn row(&self, video: &str, frame_index: u32) -> Option<usize> {
        self.by_video.get(video)?.get(&frame_index).copied()
    }

    /// Returns all rows.
    #[must_use]
    pub fn rows(&self) -> &ActionRows {
        &self.rows
    }

    /// Returns each video with the row of every frame with an action.
    pub fn videos(&self) -> impl Iterator<Item = (&str, &HashMap<u32, usize>)> {
        self.by_video.iter().map(|(video, frames)| (video.as_str(), frames))
    }
}

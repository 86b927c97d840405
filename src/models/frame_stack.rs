//! The last frames of an episode, for a policy that sees several.

/// The last frames of an episode. Before its beginning, the first frame is repeated.
#[derive(Clone, Debug)]
pub struct FrameStack {
    /// Frames that the policy sees.
    frames: usize,
    /// `[frame, height, width, channel]`, the oldest first; empty before the first frame
    pixels: Vec<u8>,
}

impl FrameStack {
    /// Creates a stack before the first frame of an episode.
    pub fn new(frames: usize) -> Self {
        FrameStack { frames, pixels: Vec::new() }
    }

    /// Begins another episode.
    pub fn reset(&mut self) {
        self.pixels.clear();
    }

    /// Adds the current frame in place of the oldest one.
    ///
    /// # Shapes
    /// - `frame`: `[height, width, channel]`
    pub fn push(&mut self, frame: &[u8]) {
        if self.pixels.is_empty() {
            self.pixels = frame.repeat(self.frames);
        } else {
            self.pixels.drain(..frame.len());
            self.pixels.extend_from_slice(frame);
        }
    }

    /// Returns the frames that the policy sees.
    ///
    /// # Shapes
    /// - output: `[frame, height, width, channel]`, the oldest first
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_episode_begins_with_its_first_frame_repeated() {
        let mut stack = FrameStack::new(3);
        let mut seen = |frame: [u8; 2]| {
            stack.push(&frame);
            stack.pixels().to_vec()
        };
        assert_eq!(seen([1, 2]), [1, 2, 1, 2, 1, 2]);
        assert_eq!(seen([3, 4]), [1, 2, 1, 2, 3, 4]);
        assert_eq!(seen([5, 6]), [1, 2, 3, 4, 5, 6]);
        assert_eq!(seen([7, 8]), [3, 4, 5, 6, 7, 8]);
        stack.reset();
        stack.push(&[9, 9]);
        assert_eq!(stack.pixels(), [9; 6]);
    }
}

//! A simple estimate of the motion that moves the whole picture or its border, as a camera does.
//!
//! Both frames become 16 x 16 grey cells, so that a shift of some pixels is less than a cell. The
//! shift is then the least-squares solution of the optical flow equation with one flow for all
//! cells (Lucas and Kanade, 1981). A picture without contrast in a direction has shift 0 in it.

/// Cells in a row.
const CELLS: usize = 16;
/// The width of the border, in cells: an agent in the middle does not reach it.
const BORDER: usize = 3;

/// Motion between two frames: the shift right and down, in cells, and the change of brightness, in
/// [-1, 1].
pub(super) struct CameraMotion {
    /// Of the whole frame.
    pub global: [f32; 3],
    /// Of the frame's border.
    pub border: [f32; 3],
}

impl CameraMotion {
    /// Estimates the motion between two square frames of `side` pixels.
    ///
    /// # Shapes
    /// - `frames`: `[height, width, channel]` each
    pub(super) fn of(frames: [&[u8]; 2], side: usize) -> Self {
        let [last, next] = frames.map(|frame| cells(frame, side));
        let is_border = |at: usize| !(BORDER..CELLS - BORDER).contains(&at);
        CameraMotion {
            global: flow(&last, &next, |_, _| true),
            border: flow(&last, &next, |row, column| is_border(row) || is_border(column)),
        }
    }
}

/// Averages a frame into cells of grey, in [0, 1].
fn cells(frame: &[u8], side: usize) -> Vec<f32> {
    let channels = frame.len() / (side * side);
    let mut sums = vec![(0.0_f32, 0.0_f32); CELLS * CELLS];
    for (at, pixel) in frame.chunks_exact(channels).enumerate() {
        let (row, column) = (at / side * CELLS / side, at % side * CELLS / side);
        let (sum, count) = &mut sums[row * CELLS + column];
        *sum += pixel.iter().map(|byte| f32::from(*byte)).sum::<f32>();
        *count += 255.0 * channels as f32;
    }
    // Frames smaller than the cells leave some empty.
    sums.into_iter().map(|(sum, count)| if count > 0.0 { sum / count } else { 0.0 }).collect()
}

/// Solves for the one flow of all `counted` cells.
fn flow(last: &[f32], next: &[f32], counted: impl Fn(usize, usize) -> bool) -> [f32; 3] {
    let mut brightness = 0.0;
    let mut count = 0.0;
    // Sums of products of the gradients right and down, and of these with the change.
    let [mut right_right, mut right_down, mut down_down] = [0.0; 3];
    let [mut right_change, mut down_change] = [0.0; 2];
    for row in 1..CELLS - 1 {
        for column in (1..CELLS - 1).filter(|column| counted(row, *column)) {
            let at = row * CELLS + column;
            // The gradients of the mean of both frames, and the change.
            let mean = |at: usize| (last[at] + next[at]) / 2.0;
            let right = (mean(at + 1) - mean(at - 1)) / 2.0;
            let down = (mean(at + CELLS) - mean(at - CELLS)) / 2.0;
            let change = next[at] - last[at];
            right_right += right * right;
            right_down += right * down;
            down_down += down * down;
            right_change += right * change;
            down_change += down * change;
            brightness += change;
            count += 1.0;
        }
    }
    let determinant = right_right * down_down - right_down * right_down;
    let brightness = brightness / count;
    if determinant <= 1e-4 * right_right * down_down || determinant <= 0.0 {
        return [0.0, 0.0, brightness];
    }
    let shift_right = (right_down * down_change - down_down * right_change) / determinant;
    let shift_down = (right_down * right_change - right_right * down_change) / determinant;
    [shift_right, shift_down, brightness]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 64;

    /// Draws a smooth pattern, shifted by some pixels. A dark square stands in the middle.
    fn frame(right: f32, down: f32, light: f32, square: usize) -> Vec<u8> {
        let pixel = |at: usize| {
            let (row, column) = (at / SIDE, at % SIDE);
            let (x, y) = (column as f32 - right, row as f32 - down);
            let wave = (x * 0.21).sin() + (y * 0.17).cos() + (x * 0.1 + y * 0.13).sin();
            let is_square = (24..34).contains(&row) && (square..square + 10).contains(&column);
            let grey = if is_square { 0.0 } else { 128.0 + 30.0 * wave + light };
            [grey as u8; 3]
        };
        (0..SIDE * SIDE).flat_map(pixel).collect()
    }

    #[test]
    fn the_shift_of_a_picture_is_found_and_a_moving_agent_leaves_the_border_still() {
        let still = frame(0.0, 0.0, 0.0, 20);
        for (right, down) in [(2.0, 0.0), (0.0, -2.0), (-1.0, 1.0)] {
            let moved = CameraMotion::of([&still, &frame(right, down, 0.0, 20)], SIDE);
            // A cell has 4 pixels.
            let [seen_right, seen_down, _] = moved.border.map(|shift| shift * 4.0);
            assert!(
                (seen_right - right).abs() < 0.4 && (seen_down - down).abs() < 0.4,
                "{:?} for {right} and {down}",
                moved.border
            );
        }
        let agent = CameraMotion::of([&still, &frame(0.0, 0.0, 0.0, 26)], SIDE);
        assert!(agent.border.iter().all(|value| value.abs() < 0.02), "{:?}", agent.border);
        let light = CameraMotion::of([&still, &frame(0.0, 0.0, 20.0, 20)], SIDE);
        assert!((light.border[2] - 20.0 / 255.0).abs() < 0.01, "{:?}", light.border);
        let flat = vec![77; SIDE * SIDE * 3];
        assert_eq!(CameraMotion::of([&flat, &flat], SIDE).global, [0.0; 3]);
    }
}

//! The rules for the settings of a game that several stages share.

use super::FieldFaults;
use crate::envs::{GameSetting, Levels, Mode};
use crate::video::Fit;

/// The settings of a game.
pub(super) struct GameRules<'a> {
    pub game: &'a GameSetting,
    pub mode: Mode,
    pub levels: Levels,
    /// Width and height of the frames, if the stage sets it.
    pub size: Option<usize>,
    pub fit: Fit,
}

impl GameRules<'_> {
    /// Adds the faults of the settings.
    pub(super) fn check(&self, faults: &mut FieldFaults) {
        match self.game {
            GameSetting::Procgen(_) => self.check_procgen(faults),
            GameSetting::Gymnasium(game) => {
                if let Some((seen, cure)) = game.fault() {
                    faults.expect(false, "game", seen, cure);
                }
                self.check_gymnasium(faults);
            }
        }
    }

    fn check_procgen(&self, faults: &mut FieldFaults) {
        if let Some(size) = self.size {
            let holds = [16, 32, 64].contains(&size);
            faults.expect_value(holds, "size", size, "expected 64, 32 or 16");
        }
        faults.expect(
            self.fit.is_default(),
            "fit",
            "is not used by Procgen",
            "remove it: Procgen's frames are square",
        );
        faults.expect(
            self.levels.is_valid(),
            "levels",
            format_args!("end at {}", self.levels.end()),
            "expected numbers below 2,147,483,648",
        );
    }

    fn check_gymnasium(&self, faults: &mut FieldFaults) {
        if let Some(size) = self.size {
            let holds = (8..=1024).contains(&size);
            faults.expect_value(holds, "size", size, "expected 8 to 1024; the paper uses 64");
        }
        faults.expect(
            self.mode == Mode::default(),
            "mode",
            "is not used by Gymnasium",
            "remove it: `make` has the arguments of an environment",
        );
        faults.expect(
            self.levels == Levels::default(),
            "levels",
            "are not used by Gymnasium",
            "remove them: every episode has a seed that follows from the pipeline's `seed`",
        );
    }
}

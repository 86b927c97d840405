//! The setting `game` of stages: a game of Procgen, or an environment of Gymnasium.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::{
    Game, Gymnasium, GymnasiumGame, Levels, Mode, Procgen, ProcgenConfig, ProcgenPackage, Result,
    Seeding, VecEnv,
};

/// A game of Procgen by its name, or an environment of Gymnasium.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum GameSetting {
    /// A game of Procgen.
    Procgen(Game),
    /// An environment of Gymnasium.
    Gymnasium(GymnasiumGame),
}

/// Environments of a game.
#[derive(Clone, Debug)]
pub struct EnvConfig {
    /// Difficulty of Procgen's levels.
    pub mode: Mode,
    /// The levels of Procgen to play.
    pub levels: Levels,
    /// Seed of the episodes, below 2^31.
    pub seed: u32,
    /// Whether every episode of Gymnasium has a seed, or only the first of each environment.
    pub seeding: Seeding,
    /// Number of environments.
    pub count: usize,
    /// Number of Procgen's threads; 0 steps all environments on the caller's thread.
    pub threads: usize,
}

impl GameSetting {
    /// Returns the game of Procgen, if it is one.
    pub fn procgen(&self) -> Option<Game> {
        match self {
            GameSetting::Procgen(game) => Some(*game),
            GameSetting::Gymnasium(_) => None,
        }
    }

    /// Returns what decides the game, for keys of tasks.
    pub fn identity(&self) -> Value {
        match self {
            GameSetting::Procgen(game) => json!(game),
            GameSetting::Gymnasium(game) => game.identity(),
        }
    }

    /// Returns a name that can be part of a path.
    pub fn file_name(&self) -> String {
        let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        self.to_string().chars().map(|c| if is_safe(c) { c } else { '_' }).collect()
    }

    /// Starts environments. `folders` are virtual environments with the games.
    ///
    /// # Errors
    /// Fails if the game is not installed or cannot be played.
    pub fn open(&self, folders: &[PathBuf], config: &EnvConfig) -> Result<Box<dyn VecEnv>> {
        let EnvConfig { mode, levels, seed, seeding, count, threads } = *config;
        Ok(match self {
            GameSetting::Procgen(game) => {
                let config = ProcgenConfig { game: *game, mode, levels, seed, count, threads };
                Box::new(Procgen::new(&ProcgenPackage::find(folders)?, &config)?)
            }
            GameSetting::Gymnasium(game) => {
                Box::new(Gymnasium::new(game, folders, (seed, seeding), count)?)
            }
        })
    }
}

impl fmt::Display for GameSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GameSetting::Procgen(game) => write!(f, "{game}"),
            GameSetting::Gymnasium(game) => f.write_str(&game.gymnasium),
        }
    }
}

// Not derived: an untagged enum would hide which key or value is wrong.
impl<'de> Deserialize<'de> for GameSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GameVisitor)
    }
}

struct GameVisitor;

impl<'de> Visitor<'de> for GameVisitor {
    type Value = GameSetting;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a Procgen game, or a mapping such as `{ gymnasium: NAME }`")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<GameSetting, E> {
        Game::deserialize(StrDeserializer::new(name)).map(GameSetting::Procgen)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<GameSetting, A::Error> {
        GymnasiumGame::deserialize(MapAccessDeserializer::new(map)).map(GameSetting::Gymnasium)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Result<GameSetting, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_is_procgen_and_a_mapping_is_gymnasium() {
        assert_eq!(read(json!("maze")), Ok(GameSetting::Procgen(Game::Maze)));
        let game = read(json!({"gymnasium": "ALE/Pong-v5", "timeout_secs": 5})).expect("settings");
        assert_eq!(game.file_name(), "ALE_Pong-v5");
        // The timeout does not change what is played.
        let identity = json!({"gymnasium": "ALE/Pong-v5", "make": {}, "imports": []});
        assert_eq!(game.identity(), identity);
        assert_eq!(read(serde_json::to_value(&game).expect("JSON")), Ok(game));
        assert_eq!(GameSetting::Procgen(Game::Maze).identity(), json!("maze"));
    }

    #[test]
    fn wrong_keys_and_types_are_named() {
        let error = |value| read(value).expect_err("it is wrong");
        assert!(error(json!("tetris")).contains("unknown variant `tetris`, expected one of"));
        assert!(error(json!({"gymnasum": "a"})).contains("unknown field `gymnasum`, expected"));
        assert!(error(json!({"make": {}})).contains("missing field `gymnasium`"));
        assert!(error(json!(3)).contains("expected the name of a Procgen game, or a mapping"));
        let wrong = error(json!({"gymnasium": "a", "imports": "minigrid"}));
        assert!(
            wrong.contains("invalid type: string \"minigrid\", expected a sequence"),
            "{wrong}"
        );
    }
}

//! What the properties of latent actions say, in sentences.

use super::{LatentQuality, SPLICE_LEAK, TRANSFER_LEAK};

/// A property, as the report shows it.
pub struct Property {
    /// Its name in `verdict.json` and SQL.
    pub name: &'static str,
    /// Its value, if it is defined.
    pub value: Option<f64>,
    /// What it says.
    pub sentence: String,
}

impl LatentQuality {
    /// Returns whether latent actions leak the next frame. `None` if that is unknown.
    pub fn leaks(&self) -> Option<bool> {
        let [splice, transfer] = self.shares();
        if splice >= Some(SPLICE_LEAK) || transfer >= Some(TRANSFER_LEAK) {
            return Some(true);
        }
        (splice.is_some() && transfer.is_some()).then_some(false)
    }

    /// Returns the shares of frames of unrelated clips that are rebuilt, if they are finite.
    fn shares(&self) -> [Option<f64>; 2] {
        let shares = [self.splice_rebuilt, self.transfer_rebuilt];
        shares.map(|share| share.filter(|share| share.is_finite()))
    }

    /// Returns the clause on a leak, if there is one.
    pub fn leak_clause(&self) -> Option<String> {
        self.leaks().filter(|leaks| *leaks)?;
        let share = self.shares().into_iter().flatten().fold(0.0, f64::max);
        Some(format!(
            "the latent action leaks the next frame: from it the world model rebuilds {share:.2} \
             of a frame of an unrelated clip"
        ))
    }

    /// Returns all properties by name, as metrics.
    pub fn row(&self) -> [(&'static str, Option<f64>); 9] {
        let LatentQuality {
            splice_rebuilt,
            transfer_rebuilt,
            cycle_consistency,
            additivity,
            reversibility,
            information_db,
            commonest_code_share,
            global_motion_r2,
            background_motion_r2,
        } = *self;
        [
            ("splice_rebuilt", splice_rebuilt),
            ("transfer_rebuilt", transfer_rebuilt),
            ("cycle_consistency", cycle_consistency),
            ("additivity", additivity),
            ("reversibility", reversibility),
            ("information_db", information_db),
            ("commonest_code_share", commonest_code_share),
            ("global_motion_r2", global_motion_r2),
            ("background_motion_r2", background_motion_r2),
        ]
    }

    /// Returns all properties with a sentence each.
    pub fn properties(&self) -> Vec<Property> {
        let property = |(name, value): (&'static str, Option<f64>)| Property {
            name,
            value,
            sentence: value.filter(|value| value.is_finite()).map_or_else(
                || format!("{} is unknown: it was not measured, or nothing varies.", about(name)),
                |value| sentence(name, value),
            ),
        };
        self.row().into_iter().map(property).collect()
    }
}

/// Returns what a property is about.
fn about(name: &str) -> &'static str {
    match name {
        "splice_rebuilt" => "Whether the latent action of an unrelated frame holds that frame",
        "transfer_rebuilt" => "Whether a latent action paints its frame into another clip",
        "cycle_consistency" => "Whether a latent action means the same in another clip",
        "additivity" => "Whether latent actions add up",
        "reversibility" => "Whether a reversed transition has the opposite latent action",
        "information_db" => "The information in latent actions",
        "commonest_code_share" => "The share of the commonest code",
        "global_motion_r2" => "How much latent actions say about the motion of the whole picture",
        _ => "How much latent actions say about the motion of the background",
    }
}

/// Returns the sentence of a finite value.
fn sentence(name: &str, value: f64) -> String {
    let above = |bound: f64, yes: &str, no: &str| {
        if value >= bound { yes.to_owned() } else { no.to_owned() }
    };
    match name {
        "splice_rebuilt" => format!(
            "From the latent action of a cut to another clip, {value:.2} of the frame after the \
             cut is rebuilt: {}.",
            above(SPLICE_LEAK, "the latent action leaks the next frame", "no leak")
        ),
        "transfer_rebuilt" => format!(
            "A latent action applied in another clip rebuilds {value:.2} of the frame that it \
             comes from: {}.",
            above(TRANSFER_LEAK, "the latent action leaks the next frame", "no leak")
        ),
        "cycle_consistency" => format!(
            "A frame predicted with a latent action in another clip gives it back with a \
             consistency of {value:.2} (1: exactly; 0: no closer than another window's): {}.",
            above(0.5, "it means the same there", "its meaning depends on the clip")
        ),
        "additivity" => format!(
            "The latent action over two transitions and the sum of theirs correlate by \
             {value:.2}: latent actions {}.",
            above(0.5, "add up, mostly", "do not add up")
        ),
        "reversibility" => format!(
            "The latent action of a reversed transition and the negative one correlate by \
             {value:.2}: reversing {}.",
            above(0.5, "mostly flips the sign", "does not flip the sign")
        ),
        "information_db" => format!(
            "With its own latent actions the world model gains {value:.2} dB over shuffled ones: \
             {}.",
            above(0.1, "it uses them", "it hardly uses them")
        ),
        "commonest_code_share" => format!(
            "The commonest code has {value:.2} of all windows: {}.",
            above(0.5, "most windows look alike to the model", "the codes are spread")
        ),
        "global_motion_r2" => format!(
            "A linear fit from latent actions to the motion of the whole picture has R2 \
             {value:.2}: {}.",
            above(0.5, "they follow it", "they hardly follow it")
        ),
        _ => format!(
            "A linear fit from latent actions to the motion of the picture's border has R2 \
             {value:.2}: {}.",
            above(
                0.5,
                "they follow the background, so check that the agent moves the camera",
                "they hardly follow the background"
            )
        ),
    }
}

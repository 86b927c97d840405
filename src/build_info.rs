//! What this program is: its version, the commit it was built from, its features and libraries.
//! For `--version`, `lapo doctor` and whatever records who made a result.

use std::sync::OnceLock;

use serde::Serialize;

/// The facts of one build. They do not change while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuildInfo {
    /// The version, such as `0.1.0`.
    pub version: &'static str,
    /// The first 12 digits of the commit, with `-dirty` where the sources differed from it; `unknown` outside of a checkout.
    pub commit: &'static str,
    /// The features that are compiled in: `video`, `cuda`.
    pub features: Vec<&'static str>,
    /// The version of libavcodec that is loaded, such as `59.37.100`. `None` without the feature `video`.
    pub libav: Option<String>,
}

/// Returns the facts of this program.
pub fn build_info() -> &'static BuildInfo {
    static INFO: OnceLock<BuildInfo> = OnceLock::new();
    INFO.get_or_init(|| BuildInfo {
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("LAPO_COMMIT").unwrap_or("unknown"),
        features: [("video", cfg!(feature = "video")), ("cuda", cfg!(feature = "cuda"))]
            .into_iter()
            .filter_map(|(name, is_in)| is_in.then_some(name))
            .collect(),
        libav: libav(),
    })
}

#[cfg(feature = "video")]
fn libav() -> Option<String> {
    Some(crate::video::libav_version())
}

#[cfg(not(feature = "video"))]
fn libav() -> Option<String> {
    None
}

impl BuildInfo {
    /// Returns version and commit in one line, as `lapo -V` prints them.
    pub fn short(&self) -> String {
        format!("{} ({})", self.version, self.commit)
    }

    /// Returns everything, a fact a line, as `lapo --version` prints it.
    pub fn long(&self) -> String {
        let features =
            if self.features.is_empty() { "none".to_owned() } else { self.features.join(", ") };
        format!(
            "{}\nfeatures: {features}\nlibavcodec: {}",
            self.short(),
            self.libav.as_deref().unwrap_or("not compiled in")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_version_names_commit_features_and_libav() {
        let info = BuildInfo {
            version: "1.2.3",
            commit: "0123456789ab",
            features: vec!["video", "cuda"],
            libav: Some("59.37.100".into()),
        };
        assert_eq!(
            info.long(),
            "1.2.3 (0123456789ab)\nfeatures: video, cuda\nlibavcodec: 59.37.100"
        );
        let bare = BuildInfo { features: vec![], libav: None, ..info };
        assert_eq!(
            bare.long(),
            "1.2.3 (0123456789ab)\nfeatures: none\nlibavcodec: not compiled in"
        );
    }

    #[test]
    fn a_commit_is_known_in_a_checkout_and_otherwise_said_to_be_unknown() {
        let commit = build_info().commit.trim_end_matches("-dirty");
        assert!(
            commit == "unknown"
                || commit.len() >= 7 && commit.chars().all(|c| c.is_ascii_hexdigit()),
            "{commit}"
        );
    }
}

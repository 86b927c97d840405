//! The version of lapo, the commit it was built from, its features and libraries.
//!
//! Used by `--version`, `lapo doctor` and every receipt.

use std::sync::OnceLock;

use serde::Serialize;

/// Describes one build of lapo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuildInfo {
    /// The version, such as `0.1.0`.
    pub version: &'static str,
    /// The first 12 digits of the commit, with `-dirty` if the sources differed from it, or
    /// `unknown` outside a checkout.
    pub commit: &'static str,
    /// The compiled-in features: `video`, `cuda`, `vulkan`.
    pub features: Vec<&'static str>,
    /// The version of the loaded libavcodec, such as `59.37.100`. `None` without the feature
    /// `video`.
    pub libav: Option<String>,
}

/// Returns the description of the running program. It is computed once.
pub fn build_info() -> &'static BuildInfo {
    static INFO: OnceLock<BuildInfo> = OnceLock::new();
    INFO.get_or_init(|| BuildInfo {
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("LAPO_COMMIT").unwrap_or("unknown"),
        features: [
            ("video", cfg!(feature = "video")),
            ("cuda", cfg!(feature = "cuda")),
            ("vulkan", cfg!(feature = "vulkan")),
        ]
        .into_iter()
        .filter_map(|(name, is_enabled)| is_enabled.then_some(name))
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
    /// Returns the version and the commit in one line, as `lapo -V` prints them.
    pub fn short(&self) -> String {
        format!("{} ({})", self.version, self.commit)
    }

    /// Returns all fields, one per line, as `lapo --version` prints them.
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
    fn the_commit_is_a_hash_or_unknown() {
        let commit = build_info().commit.trim_end_matches("-dirty");
        assert!(
            commit == "unknown"
                || commit.len() >= 7 && commit.chars().all(|c| c.is_ascii_hexdigit()),
            "{commit}"
        );
    }
}

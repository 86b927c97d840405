//! Flags that several commands share: output format, object stores, games.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args as ClapArgs, ValueEnum};

use crate::dataset::{Access, CacheFolder};

/// How a command prints its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for people
    Table,
    /// JSON
    Json,
}

/// Returns a parser for integers of at least 1.
pub fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// The local cache of object stores. Credentials, region and endpoint come from the environment.
#[derive(Debug, ClapArgs)]
pub struct StorageArgs {
    /// Folder for local copies of files in object stores
    /// [default: ~/.cache/lapo/copies; without a home folder, a private folder in /tmp]
    #[arg(
        long,
        global = true,
        env = "LAPO_CACHE",
        value_name = "FOLDER",
        hide_short_help = true,
        help_heading = "Object stores"
    )]
    cache: Option<PathBuf>,
    /// Approximate size limit of these copies, in GiB
    #[arg(
        long,
        global = true,
        env = "LAPO_CACHE_GIB",
        default_value_t = 16,
        hide_short_help = true,
        help_heading = "Object stores"
    )]
    cache_gib: u64,
}

impl StorageArgs {
    /// Returns how to reach object stores: these flags and the clouds' environment variables.
    pub fn access(&self) -> Access {
        let is_cloud_setting =
            |name: &str| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|cloud| name.starts_with(cloud));
        // A variable that is not UTF-8 is no setting of a cloud, and no error either.
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let folder = self
            .cache
            .clone()
            .or_else(|| cache_folder("copies"))
            .map_or(CacheFolder::Private, CacheFolder::At);
        Access::new(
            variables.filter(|(name, _)| is_cloud_setting(name)),
            folder,
            self.cache_gib.saturating_mul(1 << 30),
        )
    }
}

/// Returns a subfolder of lapo's cache; `None` without a home folder and `XDG_CACHE_HOME`.
fn cache_folder(name: &str) -> Option<PathBuf> {
    let xdg_cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    cache_folder_in(xdg_cache, std::env::home_dir(), name)
}

/// Ignores relative and empty paths, as the XDG specification demands.
fn cache_folder_in(
    xdg_cache: Option<PathBuf>,
    home: Option<PathBuf>,
    name: &str,
) -> Option<PathBuf> {
    let home = home.filter(|home| home.is_absolute());
    let cache = xdg_cache
        .filter(|cache| cache.is_absolute())
        .or_else(|| home.map(|home| home.join(".cache")))?;
    Some(cache.join("lapo").join(name))
}

/// Where games are installed.
#[derive(Clone, Debug, ClapArgs)]
pub struct GameArgs {
    /// Folder of Procgen's Python package, or of a virtual environment with it
    /// [default: ~/.cache/lapo/procgen]
    #[arg(long, env = "LAPO_PROCGEN")]
    procgen: Option<PathBuf>,
    /// Folder of a virtual environment with Gymnasium [default: ~/.cache/lapo/gymnasium if it has
    /// Gymnasium, else python3]
    #[arg(long, env = "LAPO_GYMNASIUM")]
    gymnasium: Option<PathBuf>,
}

impl GameArgs {
    /// Returns whether `--procgen` or `LAPO_PROCGEN` is set.
    pub fn is_set(&self) -> bool {
        self.procgen.is_some()
    }

    /// Returns the folders to search for games.
    pub fn folders(&self) -> Vec<PathBuf> {
        let procgen = self.procgen.clone().or_else(|| cache_folder("procgen"));
        // Errors list the folders, so one that nobody made or named is left out.
        let found = || cache_folder("gymnasium").filter(|folder| folder.is_dir());
        let gymnasium = self.gymnasium.clone().or_else(found);
        procgen.into_iter().chain(gymnasium).collect()
    }

    /// Returns the flags that the user gave.
    pub fn given(&self) -> Vec<(&'static str, &PathBuf)> {
        let flags = [("--procgen", &self.procgen), ("--gymnasium", &self.gymnasium)];
        flags.into_iter().filter_map(|(flag, at)| Some((flag, at.as_ref()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_folder_is_xdg_cache_home_or_else_in_the_home_folder() {
        let folder = |cache: Option<&str>, home: Option<&str>| {
            cache_folder_in(cache.map(Into::into), home.map(Into::into), "copies")
        };
        assert_eq!(folder(Some("/c"), None), Some("/c/lapo/copies".into()));
        assert_eq!(folder(Some("/c"), Some("/h")), Some("/c/lapo/copies".into()));
        for unset in [None, Some(""), Some("relative")] {
            assert_eq!(folder(unset, Some("/h")), Some("/h/.cache/lapo/copies".into()));
            assert_eq!([folder(unset, None), folder(unset, Some(""))], [None, None]);
        }
    }
}

//! How object stores are reached. In: an address such as `s3://bucket/prefix`, and what the environment says of credentials and endpoints;
//! out: a connection, and words in which no secret stands. Start at [`Access::new`].

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::ObjectStore;
use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::cache::{Cache, CacheFolder};
use super::error::{Error, Result, io_error};

/// Schemes of addresses that are understood.
const SCHEMES: [&str; 8] = ["s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss"];
/// A setting is a secret where its name holds one of these.
const SECRET: [&str; 6] = ["key", "secret", "token", "password", "credential", "signature"];
/// Shorter values stand in any text by chance.
const SHORT: usize = 4;

/// Credentials, endpoints and the local cache, shared by all stores that are opened with it. Never printed.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    options: Vec<(String, String)>,
    cache: Cache,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    /// One for all: a connection that rests is served only while its own runtime is.
    runtime: Option<Arc<Runtime>>,
    buckets: HashMap<String, Arc<dyn ObjectStore>>,
}

impl Access {
    /// `options` are named as in the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_SERVICE_ACCOUNT`,
    /// `AZURE_STORAGE_ACCOUNT_NAME`, ...); at most `cache_bytes` of copies are kept in the folder `cache`.
    #[must_use]
    pub fn new(
        options: impl IntoIterator<Item = (String, String)>,
        cache: impl Into<CacheFolder>,
        cache_bytes: u64,
    ) -> Self {
        let mut options: Vec<_> =
            options.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        // Who writes `http://` means it; the library wants it said twice.
        if options
            .iter()
            .any(|(name, value)| name.contains("endpoint") && value.starts_with("http://"))
        {
            options.push(("allow_http".into(), "true".into()));
        }
        Self(Arc::new(Inner {
            options,
            cache: Cache::new(cache.into(), cache_bytes),
            connections: Mutex::default(),
        }))
    }

    pub(super) fn cache(&self) -> &Cache {
        &self.0.cache
    }

    /// A connection to the bucket `base`, such as `s3://bucket`; each is made once.
    pub(super) fn connect(&self, base: &str) -> Result<Arc<dyn ObjectStore>> {
        let wrong = |reason: String| Error::Address { address: self.hide(base), reason };
        let scheme = base.split("://").next().unwrap_or_default();
        if !SCHEMES.contains(&scheme) {
            return Err(wrong(format!(
                "`{scheme}` is no scheme of an object store; expected s3, gs or az, or a folder"
            )));
        }
        if base
            .split('@')
            .next()
            .is_some_and(|user| base.contains('@') && user[scheme.len() + 3..].contains(':'))
        {
            let reason = "it holds a password, which would be written into every record".into();
            return Err(Error::Address { address: format!("{scheme}://..."), reason });
        }
        let mut connections = self.connections();
        if let Some(found) = connections.buckets.get(base) {
            return Ok(found.clone());
        }
        let url = Url::parse(base).map_err(|cause| wrong(cause.to_string()))?;
        let options = self.0.options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let (objects, _) = object_store::parse_url_opts(&url, options)
            .map_err(|cause| wrong(self.hide(&cause.to_string())))?;
        let objects: Arc<dyn ObjectStore> = Arc::from(objects);
        connections.buckets.insert(base.to_owned(), objects.clone());
        Ok(objects)
    }

    /// The options, by name.
    pub(super) fn options(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.options.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What requests run on.
    pub(super) fn runtime(&self) -> Result<Arc<Runtime>> {
        let mut connections = self.connections();
        if let Some(found) = &connections.runtime {
            return Ok(found.clone());
        }
        let made = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(io_error("start a runtime for", "object stores"))?;
        Ok(connections.runtime.insert(Arc::new(made)).clone())
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text without any secret that is known here.
    pub(super) fn hide(&self, text: &str) -> String {
        let secrets = self.0.options.iter().filter(|(name, value)| {
            value.len() >= SHORT && SECRET.iter().any(|word| name.contains(word))
        });
        secrets.fold(text.to_owned(), |text, (_, secret)| text.replace(secret, "***"))
    }
}

impl Default for Access {
    /// Returns access with no credentials, and a private cache of 16 GiB among the system's temporary files.
    fn default() -> Self {
        Self::new([], CacheFolder::Private, 16 << 30)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("cache", &self.0.cache).finish_non_exhaustive()
    }
}

/// An address cut into its bucket and the path within; `None` for a local path.
#[must_use]
pub fn address(uri: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = uri.split_once("://")?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (base, path) = uri.split_at(scheme.len() + 3 + end);
    Some((base, path.trim_matches('/')))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn addresses_are_cut_behind_the_bucket_and_paths_are_none() {
        assert_eq!(address("s3://bucket/a/b*.mp4"), Some(("s3://bucket", "a/b*.mp4")));
        assert_eq!(address("gs://bucket/a/"), Some(("gs://bucket", "a")));
        assert_eq!(address("s3://bucket"), Some(("s3://bucket", "")));
        assert_eq!(
            address("abfss://files@account.dfs.core.windows.net/x"),
            Some(("abfss://files@account.dfs.core.windows.net", "x"))
        );
        assert_eq!(address("data/maze.mp4"), None);
    }

    #[test]
    fn no_secret_is_told() {
        let set = [
            ("AWS_SECRET_ACCESS_KEY", "hush-hush"),
            ("AWS_SESSION_TOKEN", "sesame"),
            ("AWS_REGION", "moon-north-1"),
        ];
        let access = Access::new(
            set.map(|(name, value)| (name.to_owned(), value.to_owned())),
            PathBuf::from("cache"),
            1,
        );
        assert_eq!(access.hide("hush-hush, sesame, moon-north-1"), "***, ***, moon-north-1");
        assert!(
            !format!("{access:?} {:?}", access.connect("s3://bucket").map(|_| ())).contains("hush")
        );
        let error = access.connect("s3://user:pass@bucket").unwrap_err().to_string();
        assert!(!error.contains("pass@") && error.contains("s3://..."), "{error}");
    }

    #[test]
    fn an_unknown_scheme_says_which_are_known() {
        let error = Access::default().connect("ftp://host").unwrap_err();
        assert!(
            error.to_string().contains("`ftp`") && error.to_string().contains("s3, gs or az"),
            "{error}"
        );
    }
}

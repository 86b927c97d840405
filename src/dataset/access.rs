//! Access to object stores: credentials, endpoints and the local cache. Start at [`Access::new`].

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::ObjectStore;
use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::cache::{Cache, CacheFolder};
use super::error::{Error, Result, io_error};

/// Supported schemes.
const SCHEMES: [&str; 8] = ["s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss"];
/// An option is a secret if its name contains one of these.
const SECRET_NAMES: [&str; 6] = ["key", "secret", "token", "password", "credential", "signature"];
/// Shorter secrets are not redacted: they occur in ordinary text by chance.
const MIN_SECRET_LEN: usize = 4;

/// Credentials, endpoints and the local cache, shared by all stores opened with it. Its `Debug`
/// output contains no secrets.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    options: Vec<(String, String)>,
    cache: Cache,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    /// All connections share one runtime: an idle connection is served only by its own runtime.
    runtime: Option<Arc<Runtime>>,
    buckets: HashMap<String, Arc<dyn ObjectStore>>,
}

impl Access {
    /// Creates access from options named as in the environment (`AWS_ACCESS_KEY_ID`,
    /// `AWS_ENDPOINT_URL`, `GOOGLE_SERVICE_ACCOUNT`, `AZURE_STORAGE_ACCOUNT_NAME`, ...). The folder
    /// `cache` holds at most `cache_bytes` of local copies.
    #[must_use]
    pub fn new(
        options: impl IntoIterator<Item = (String, String)>,
        cache: impl Into<CacheFolder>,
        cache_bytes: u64,
    ) -> Self {
        let mut options: Vec<_> =
            options.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        // An `http://` endpoint is deliberate, but `object_store` also requires this option.
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

    /// Connects to the bucket `base`, such as `s3://bucket`, or returns its existing connection.
    pub(super) fn connect(&self, base: &str) -> Result<Arc<dyn ObjectStore>> {
        let invalid = |reason: String| Error::Address { address: self.hide(base), reason };
        let scheme = base.split("://").next().unwrap_or_default();
        if !SCHEMES.contains(&scheme) {
            return Err(invalid(format!(
                "`{scheme}` is not the scheme of an object store, expected s3, gs or az, or a \
                 folder"
            )));
        }
        // Receipts and manifests contain addresses, so a password must not be part of one.
        let user = base.split_once('@').map(|(user, _)| &user[scheme.len() + 3..]);
        if user.is_some_and(|user| user.contains(':')) {
            let reason = "it holds a password, and lapo would write it into every record".into();
            // The address has the password in it, so the message does not show it.
            return Err(Error::Address { address: format!("{scheme}://..."), reason });
        }
        let mut connections = self.connections();
        if let Some(found) = connections.buckets.get(base) {
            return Ok(found.clone());
        }
        let url = Url::parse(base).map_err(|cause| invalid(cause.to_string()))?;
        let options = self.0.options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        // `object_store` ignores options of other kinds of stores.
        let (objects, _) = object_store::parse_url_opts(&url, options)
            .map_err(|cause| invalid(self.hide(&cause.to_string())))?;
        let objects: Arc<dyn ObjectStore> = Arc::from(objects);
        connections.buckets.insert(base.to_owned(), objects.clone());
        Ok(objects)
    }

    /// Returns the options, by name.
    pub(super) fn options(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.options.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the runtime for requests, started on first use.
    pub(super) fn runtime(&self) -> Result<Arc<Runtime>> {
        let mut connections = self.connections();
        if let Some(found) = &connections.runtime {
            return Ok(found.clone());
        }
        // One thread is enough: callers block on their requests.
        let made = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(io_error("start a runtime for", "object stores"))?;
        Ok(connections.runtime.insert(Arc::new(made)).clone())
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `text` with every known secret replaced by `***`.
    pub(super) fn hide(&self, text: &str) -> String {
        let secrets = self.0.options.iter().filter(|(name, value)| {
            value.len() >= MIN_SECRET_LEN && SECRET_NAMES.iter().any(|word| name.contains(word))
        });
        secrets.fold(text.to_owned(), |text, (_, secret)| text.replace(secret, "***"))
    }
}

impl Default for Access {
    /// Returns access without credentials, with a private cache of 16 GiB among the system's
    /// temporary files.
    fn default() -> Self {
        Self::new([], CacheFolder::Private, 16 << 30)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("cache", &self.0.cache).finish_non_exhaustive()
    }
}

/// Splits an address into its bucket and the path within. Returns `None` for a local path.
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
    fn addresses_are_split_after_the_bucket_and_local_paths_are_not_addresses() {
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
    fn secrets_are_redacted_in_messages_and_debug_output() {
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
    fn the_error_for_an_unknown_scheme_lists_the_known_ones() {
        let error = Access::default().connect("ftp://host").unwrap_err();
        assert!(
            error.to_string().contains("`ftp`") && error.to_string().contains("s3, gs or az"),
            "{error}"
        );
    }
}

//! Lists the objects of a bucket. Start at [`list_objects`].
//!
//! `object_store` rejects a whole page of a listing for one key it cannot parse: a key with an
//! empty part, with `.`, or with a control character. S3 allows all of these.
//!
//! So the page is requested again with half the size, until it consists of the odd key alone. The
//! listing then continues after this key.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Error as PathError;
use object_store::{Error as Cause, ObjectStoreScheme};
use url::Url;

use super::access::Access;
use super::error::{Error, Result};
use super::paths::StoredFile;
use super::remote::stored;

/// The largest page; no store returns more objects.
const PAGE: usize = 1000;
/// Requests for a page with temporary faults, on top of the retries of `object_store`.
const TRIES: u32 = 5;

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListedObject {
    /// A readable object.
    Object(StoredFile),
    /// An object with a key `object_store` cannot address.
    Odd {
        /// The key.
        key: String,
        /// The fault of the key.
        reason: String,
    },
}

/// The start of the next page.
#[derive(Clone)]
enum Position {
    Start,
    Token(String),
    After(String),
}

/// Lists the objects below `folder`, or all objects of the bucket if `folder` is empty.
///
/// # Errors
/// Fails if the store does not answer. An odd key is no error.
pub fn list_objects(base: &str, folder: &str, access: &Access) -> Result<Vec<ListedObject>> {
    let store = lister(base, access)?;
    let runtime = access.runtime()?;
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut found = Vec::new();
    let mut from = Position::Start;
    let mut page_size = PAGE;
    loop {
        let (page_token, offset) = match from.clone() {
            Position::Start => (None, None),
            Position::Token(token) => (Some(token), None),
            Position::After(key) => (None, Some(key)),
        };
        let options = PaginatedListOptions {
            offset,
            page_token,
            max_keys: Some(page_size),
            ..PaginatedListOptions::default()
        };
        let page = with_retries(|| {
            runtime.block_on(store.list_paginated(
                Some(&prefix).filter(|p| !p.is_empty()).map(|p| &**p),
                options.clone(),
            ))
        });
        match page {
            Ok(page) => {
                found.extend(
                    page.result
                        .objects
                        .into_iter()
                        .map(|object| ListedObject::Object(stored(object))),
                );
                // After the odd key, pages grow back to the full size.
                page_size = PAGE.min(page_size * 2);
                match page.page_token {
                    Some(token) => from = Position::Token(token),
                    None => return Ok(found),
                }
            }
            // One key of the page is odd: halve the page to find it.
            Err(Cause::InvalidPath { .. }) if page_size > 1 => page_size /= 2,
            // A page of one object: its key is the odd one.
            Err(Cause::InvalidPath { source }) => {
                let (key, reason) = odd_key(source);
                found.push(ListedObject::Odd { key: key.clone(), reason });
                from = Position::After(key);
            }
            Err(cause) => return Err(listing_failed(base, folder, &cause, access)),
        }
    }
}

fn listing_failed(base: &str, folder: &str, cause: &Cause, access: &Access) -> Error {
    let redacted = Some(access.hide(&cause.to_string()));
    let mut failed = Error::storage("list", &format!("{base}/{folder}"), cause, redacted);
    // The store's own message is a page of XML.
    if let Error::Storage { message, kind: Some(ErrorKind::NotFound), .. } = &mut failed {
        *message = "there is no such bucket".into();
    }
    failed
}

/// Repeats a request while it fails with a temporary fault.
fn with_retries<T>(mut request: impl FnMut() -> Result<T, Cause>) -> Result<T, Cause> {
    for tries in 1..TRIES {
        match request() {
            // Waits 80, 160, 320 and 640 ms.
            Err(Cause::Generic { .. }) => std::thread::sleep(Duration::from_millis(40 << tries)),
            answer => return answer,
        }
    }
    request()
}

/// Returns the key `object_store` failed to parse, and the fault.
fn odd_key(source: PathError) -> (String, String) {
    match source {
        PathError::EmptySegment { path } => (path, "a part of its key is empty".into()),
        PathError::BadSegment { path, source } => (path, first_line(&source.to_string())),
        other => (other.to_string(), other.to_string()),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

/// Connects to a bucket as [`Access::connect`] does, for paginated listings.
fn lister(base: &str, access: &Access) -> Result<Arc<dyn PaginatedListStore>> {
    let invalid = |reason: String| Error::Address { address: access.hide(base), reason };
    // Reports faults of the address with its better messages.
    access.connect(base)?;
    let url = Url::parse(base).map_err(|cause| invalid(cause.to_string()))?;
    let (scheme, _) = ObjectStoreScheme::parse(&url).map_err(|cause| invalid(cause.to_string()))?;
    let rejected = |cause: Cause| invalid(access.hide(&cause.to_string()));
    /// Builds a client from the options known to its builder.
    macro_rules! build {
        ($builder:ty) => {{
            let known = |builder: $builder, (name, value): (&str, &str)| match name.parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder,
            };
            Arc::new(
                access
                    .options()
                    .fold(<$builder>::new().with_url(base), known)
                    .build()
                    .map_err(rejected)?,
            )
        }};
    }
    Ok(match scheme {
        ObjectStoreScheme::AmazonS3 => build!(AmazonS3Builder),
        ObjectStoreScheme::GoogleCloudStorage => build!(GoogleCloudStorageBuilder),
        ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder),
        _ => {
            return Err(invalid(
                "it is not an address of S3, Google Cloud Storage or Azure".into(),
            ));
        }
    })
}

//! Lists a bucket's objects one by one.
//!
//! In: a bucket and a folder in it. Out: every object, or the key of one that cannot be addressed. Start at [`list_objects`].
//!
//! `object_store` gives up a page of a listing for one key that it cannot parse: with an empty part, with `.`, with a control character.
//! S3 allows them all. So a page that fails for such a key is asked for again, smaller and smaller, until the odd key stands alone; then the
//! listing goes on behind it.

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
use super::place::Stored;
use super::remote::stored;

/// Most objects of a page; no store gives more.
const PAGE: usize = 1000;
/// How often a page is asked for that fails in passing, on top of what the library tries.
const TRIES: u32 = 5;

/// An object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// One that can be read.
    Object(Stored),
    /// One whose key cannot be addressed: the key, and what is odd about it.
    Odd {
        /// The key.
        key: String,
        /// What is odd about it.
        reason: String,
    },
}

/// Where a listing goes on.
#[derive(Clone)]
enum Position {
    Start,
    Token(String),
    Behind(String),
}

/// Lists the objects whose keys begin with `folder` and a slash; all, where it is empty.
///
/// # Errors
/// Where the store cannot be asked. An odd key is no error.
pub fn list_objects(base: &str, folder: &str, access: &Access) -> Result<Vec<Listed>> {
    let (store, runtime) = (lister(base, access)?, access.runtime()?);
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let (mut found, mut from, mut most) = (Vec::new(), Position::Start, PAGE);
    loop {
        let (page_token, offset) = match from.clone() {
            Position::Start => (None, None),
            Position::Token(token) => (Some(token), None),
            Position::Behind(key) => (None, Some(key)),
        };
        let options = PaginatedListOptions {
            offset,
            page_token,
            max_keys: Some(most),
            ..PaginatedListOptions::default()
        };
        let page = again(|| {
            runtime.block_on(store.list_paginated(
                Some(&prefix).filter(|p| !p.is_empty()).map(|p| &**p),
                options.clone(),
            ))
        });
        match page {
            Ok(page) => {
                found.extend(
                    page.result.objects.into_iter().map(|object| Listed::Object(stored(object))),
                );
                most = PAGE.min(most * 2);
                match page.page_token {
                    Some(token) => from = Position::Token(token),
                    None => return Ok(found),
                }
            }
            Err(Cause::InvalidPath { .. }) if most > 1 => most /= 2,
            Err(Cause::InvalidPath { source }) => {
                let (key, reason) = odd_key(source);
                found.push(Listed::Odd { key: key.clone(), reason });
                from = Position::Behind(key);
            }
            Err(cause) => {
                let mut failed = Error::storage(
                    "list",
                    &format!("{base}/{folder}"),
                    &cause,
                    Some(access.hide(&cause.to_string())),
                );
                // The store's own words are a page of XML.
                if let Error::Storage { said, kind: Some(ErrorKind::NotFound), .. } = &mut failed {
                    *said = "there is no such bucket".into();
                }
                return Err(failed);
            }
        }
    }
}

/// Tries a request until it is answered for good.
fn again<T>(mut request: impl FnMut() -> Result<T, Cause>) -> Result<T, Cause> {
    for tries in 1..TRIES {
        match request() {
            Err(Cause::Generic { .. }) => std::thread::sleep(Duration::from_millis(40 << tries)),
            answer => return answer,
        }
    }
    request()
}

/// Returns a key that the library cannot parse, and why.
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

/// Connects to a bucket as [`Access::connect`] does, for listings.
fn lister(base: &str, access: &Access) -> Result<Arc<dyn PaginatedListStore>> {
    let wrong = |reason: String| Error::Address { address: access.hide(base), reason };
    // Says what is wrong with the address.
    access.connect(base)?;
    let url = Url::parse(base).map_err(|cause| wrong(cause.to_string()))?;
    let (scheme, _) = ObjectStoreScheme::parse(&url).map_err(|cause| wrong(cause.to_string()))?;
    let refused = |cause: Cause| wrong(access.hide(&cause.to_string()));
    /// Gives a builder the options that it knows.
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
                    .map_err(refused)?,
            )
        }};
    }
    Ok(match scheme {
        ObjectStoreScheme::AmazonS3 => build!(AmazonS3Builder),
        ObjectStoreScheme::GoogleCloudStorage => build!(GoogleCloudStorageBuilder),
        ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder),
        _ => return Err(wrong("it is no address of an object store".into())),
    })
}

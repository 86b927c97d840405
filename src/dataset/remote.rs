//! A workspace in an object store: atomic creates, reads of ranges, and uploads in parts. Start at
//! [`Remote::create`].
//!
//! The `object_store` library repeats failed requests, with growing and random waits. This module
//! handles lost replies: it reads the object back to find out whether the request succeeded.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Read, Seek, Write};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    Error as Cause, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutPayload, WriteMultipart,
};
use tokio::runtime::Runtime;

use super::access::Access;
use super::error::{Error, Result, io_error};
use super::paths::{Created, FileInfo, StoredFile, object};

/// The number of attempts at a request with a transient fault. The library retries within each.
const TRIES: u32 = 5;
/// No attempt begins later than this after the first.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of one part of a large file.
const PART: u64 = 8 << 20;
/// The number of concurrent transfers of parts.
const PARTS: usize = 4;
/// The number of concurrent requests for small files.
const REQUESTS: usize = 32;

/// A folder of an object store.
pub(super) struct Remote {
    /// The address, or another name unique to this store.
    name: String,
    objects: Arc<dyn ObjectStore>,
    runtime: Arc<Runtime>,
    access: Access,
}

impl Remote {
    pub(super) fn new(name: String, objects: Arc<dyn ObjectStore>, access: Access) -> Result<Self> {
        Ok(Self { name, objects, runtime: access.runtime()?, access })
    }

    /// Opens the folder or bucket at an address.
    pub(super) fn open(base: &str, path: &str, access: &Access) -> Result<Self> {
        let (bucket, prefix) = (access.connect(base)?, object(path)?);
        let name = if path.is_empty() { base.to_owned() } else { format!("{base}/{path}") };
        Self::new(name, Arc::new(PrefixStore::new(bucket, prefix)), access.clone())
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// Creates a file unless it exists. If a reply is lost, the retry finds a file and reads it
    /// back: equal bytes count as created.
    pub(super) fn create(&self, path: &str, bytes: &[u8]) -> Result<Created> {
        let key = object(path)?;
        self.retry(|| {
            let payload = PutPayload::from(Bytes::copy_from_slice(bytes));
            match self.runtime.block_on(self.objects.put_opts(
                &key,
                payload,
                PutMode::Create.into(),
            )) {
                Ok(_) => Ok(Created::New),
                // Stores report "being created by another writer" in the same way as "exists", so
                // only the file itself decides. No file: a conflict, to be retried.
                Err(Cause::AlreadyExists { path: at, source }) => match self.read(path)? {
                    Some(found) if found == bytes => Ok(Created::New),
                    Some(_) => Ok(Created::Exists),
                    None => Err(self.failed("create", path)(Cause::Generic {
                        store: "conflict",
                        source: format!("{at}: {source}").into(),
                    })),
                },
                Err(cause) => Err(self.failed("create", path)(cause)),
            }
        })
    }

    /// Returns the content of a file, or `None` if it does not exist.
    pub(super) fn read(&self, path: &str) -> Result<Option<Bytes>> {
        self.retry(|| self.runtime.block_on(self.get(path)))
    }

    /// Returns the contents of many small files, in their order.
    pub(super) fn read_all(&self, paths: &[String]) -> Result<Vec<Option<Bytes>>> {
        let all = || {
            futures::stream::iter(paths).map(|path| self.get(path)).buffered(REQUESTS).try_collect()
        };
        self.retry(|| self.runtime.block_on(all()))
    }

    /// Returns one range of a file. Fails if the file has changed since it was found.
    pub(super) fn read_part(&self, found: &StoredFile, from: u64, count: u64) -> Result<Bytes> {
        Ok(self.read_parts(found, std::slice::from_ref(&(from..from + count)))?.remove(0))
    }

    /// Returns ranges of a file, in their order, with concurrent requests. Fails if the file has
    /// changed since it was found.
    pub(super) fn read_parts(
        &self,
        found: &StoredFile,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>> {
        self.retry(|| {
            let mut parts = Vec::with_capacity(ranges.len());
            self.each_part(found, ranges, REQUESTS, |part| {
                parts.push(part);
                Ok(())
            })?;
            Ok(parts)
        })
    }

    /// Calls `each` with ranges of a file, in their order, and keeps at most `at_once` of them in
    /// memory.
    fn each_part(
        &self,
        found: &StoredFile,
        ranges: &[Range<u64>],
        at_once: usize,
        mut each: impl FnMut(Bytes) -> Result<()>,
    ) -> Result<()> {
        let key = object(&found.path)?;
        let part = |range: &Range<u64>| {
            let options = GetOptions {
                range: Some(GetRange::Bounded(range.clone())),
                // All ranges come from one content, or the request fails.
                if_match: found.etag.clone(),
                ..GetOptions::default()
            };
            async { self.objects.get_opts(&key, options).await?.bytes().await }
        };
        let mut parts = pin!(futures::stream::iter(ranges).map(part).buffered(at_once));
        self.runtime.block_on(async {
            while let Some(part) =
                parts.try_next().await.map_err(self.failed("read", &found.path))?
            {
                each(part)?;
            }
            Ok(())
        })
    }

    /// Returns a copy of a file on the local disk. A new copy is checked against the size and
    /// digest in `info`, an existing copy only against the size.
    pub(super) fn local(&self, path: &str, info: Option<&FileInfo>) -> Result<File> {
        let found = self.require(path, info)?;
        let fetch = |file: &mut File| self.retry(|| self.fetch(&found, info, file));
        self.access.cache().file(&self.copy_name(&found), Some(found.bytes), fetch)
    }

    /// Returns the existing copy of a file on the local disk, if there is one.
    pub(super) fn copy_of(&self, found: &StoredFile) -> Result<Option<File>> {
        self.access.cache().find(&self.copy_name(found), Some(found.bytes))
    }

    /// Deletes the copy of a file on the local disk.
    pub(super) fn forget(&self, path: &str) -> Result<()> {
        let forget = |found| self.access.cache().forget(&self.copy_name(&found));
        self.metadata(path)?.map_or(Ok(()), forget)
    }

    /// Returns a file's metadata after a check of its size. Fails if the file does not exist.
    pub(super) fn require(&self, path: &str, info: Option<&FileInfo>) -> Result<StoredFile> {
        let found = self.metadata(path)?.ok_or_else(|| Error::Missing { path: path.into() })?;
        info.map_or(Ok(()), |info| info.check_size(found.bytes))?;
        Ok(found)
    }

    /// Downloads a file and checks its digest.
    fn fetch(&self, found: &StoredFile, info: Option<&FileInfo>, file: &mut File) -> Result<()> {
        let path = found.path.as_str();
        let mut hasher = blake3::Hasher::new();
        // A retry starts over, after the first part of a failed download.
        file.rewind().and_then(|()| file.set_len(0)).map_err(io_error("write a copy of", path))?;
        self.each_part(found, &part_ranges(found), PARTS, |part| {
            hasher.update(&part);
            file.write_all(&part).map_err(io_error("write a copy of", path))
        })?;
        info.map_or(Ok(()), |info| info.check_digest(hasher.finalize()))
    }

    /// Returns a file's metadata, or `None` if it does not exist.
    pub(super) fn metadata(&self, path: &str) -> Result<Option<StoredFile>> {
        let key = object(path)?;
        self.retry(|| match self.runtime.block_on(self.objects.head(&key)) {
            // The path in the reply still has the store's prefix.
            Ok(found) => Ok(Some(StoredFile { path: path.to_owned(), ..stored(found) })),
            Err(Cause::NotFound { .. }) => Ok(None),
            Err(cause) => Err(self.failed("read the metadata of", path)(cause)),
        })
    }

    /// Returns every file under the folder `prefix`, unsorted.
    pub(super) fn files(&self, prefix: &str) -> Result<Vec<StoredFile>> {
        let key = object(prefix)?;
        let found = || self.objects.list(Some(&key)).map_ok(stored).try_collect();
        self.retry(|| self.runtime.block_on(found()).map_err(self.failed("list", prefix)))
    }

    /// Returns the names of the folders directly under `prefix`.
    pub(super) fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let key = object(prefix)?;
        let list = || {
            self.runtime
                .block_on(self.objects.list_with_delimiter(Some(&key)))
                .map_err(self.failed("list", prefix))
        };
        let found = self.retry(list)?;
        Ok(found
            .common_prefixes
            .iter()
            .filter_map(|folder| folder.filename().map(str::to_owned))
            .collect())
    }

    /// Deletes files, many with one request. They need not exist.
    pub(super) fn delete(&self, paths: &[String]) -> Result<()> {
        let keys = paths.iter().map(|path| object(path)).collect::<Result<Vec<Path>>>()?;
        let failed = self.failed("delete", paths.first().map_or("", String::as_str));
        self.retry(|| {
            let mut deleted = self
                .objects
                .delete_stream(futures::stream::iter(keys.clone().into_iter().map(Ok)).boxed());
            self.runtime.block_on(async {
                while let Some(reply) = deleted.next().await {
                    match reply {
                        Ok(_) | Err(Cause::NotFound { .. }) => {}
                        Err(cause) => return Err(failed(cause)),
                    }
                }
                Ok(())
            })
        })
    }

    /// Uploads a finished file, and keeps the temporary file `part` as the local copy.
    pub(super) fn upload(
        &self,
        path: &str,
        mut file: File,
        bytes: u64,
        part: &std::path::Path,
    ) -> Result<()> {
        let key = object(path)?;
        let found = self.retry(|| {
            file.rewind().map_err(io_error("read back", path))?;
            let sent = if bytes <= PART {
                let mut whole = Vec::new();
                (&file).read_to_end(&mut whole).map_err(io_error("read back", path))?;
                self.runtime
                    .block_on(self.objects.put(&key, whole.into()))
                    .map(|_| ())
                    .map_err(self.failed("upload", path))
            } else {
                self.runtime.block_on(self.upload_parts(path, &key, &file))
            };
            match (sent, self.metadata(path)?) {
                (Ok(()), Some(found)) => Ok(found),
                // The last reply was lost, but the upload succeeded.
                (Err(_), Some(found)) if found.bytes == bytes && self.is_same(&found, &file)? => {
                    Ok(found)
                }
                (Err(error), _) => Err(error),
                (Ok(()), None) => Err(Error::Missing { path: path.into() }),
            }
        })?;
        self.access.cache().keep(part, &self.copy_name(&found))
    }

    /// Returns whether an object's content equals a local file of the same size.
    fn is_same(&self, found: &StoredFile, mut file: &File) -> Result<bool> {
        file.rewind().map_err(io_error("read back", &found.path))?;
        for from in (0..found.bytes).step_by(PART as usize) {
            let theirs = self.read_part(found, from, PART.min(found.bytes - from))?;
            let mut ours = vec![0; theirs.len()];
            file.read_exact(&mut ours).map_err(io_error("read back", &found.path))?;
            if theirs != ours {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Uploads a file in parts.
    ///
    /// Parts from a killed process stay in the bucket, invisible, and cost money. `object_store`
    /// cannot list them, so a bucket needs a rule to abort incomplete multipart uploads after some
    /// days (S3: `AbortIncompleteMultipartUpload`).
    async fn upload_parts(&self, path: &str, key: &Path, mut file: &File) -> Result<()> {
        let upload = self.objects.put_multipart(key).await.map_err(self.failed("upload", path))?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, PART as usize);
        let mut part = vec![0; PART as usize];
        loop {
            let read = file.read(&mut part).map_err(io_error("read back", path))?;
            if read == 0 {
                break;
            }
            if let Err(cause) = parts.wait_for_capacity(PARTS).await {
                // Remaining parts cost money. If the abort fails too, the first fault is reported.
                let _ = parts.abort().await;
                return Err(self.failed("upload", path)(cause));
            }
            parts.write(&part[..read]);
        }
        parts.finish().await.map(|_| ()).map_err(self.failed("upload", path))
    }

    /// Repeats an idempotent request while its faults are transient, at most [`TRIES`] times. The
    /// library itself does not repeat a listing with a truncated answer.
    fn retry<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        for tries in 1..TRIES {
            match attempt() {
                Err(error) if error.is_transient() && begun.elapsed() < PATIENCE => {}
                result => return result,
            }
            // Exponential backoff with jitter, so that not all writers retry at once.
            let most = 40 << tries;
            std::thread::sleep(Duration::from_millis(
                most / 2 + RandomState::new().build_hasher().finish() % most,
            ));
        }
        attempt()
    }

    async fn get(&self, path: &str) -> Result<Option<Bytes>> {
        let key = object(path)?;
        let bytes = async { self.objects.get(&key).await?.bytes().await };
        match bytes.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Cause::NotFound { .. }) => Ok(None),
            Err(cause) => Err(self.failed("read", path)(cause)),
        }
    }

    /// Returns the name of the local copy. It is unique to the store, the path and the content.
    fn copy_name(&self, found: &StoredFile) -> String {
        let (name, path, version) = (&self.name, &found.path, found.version());
        blake3::hash(format!("{name}\n{path}\n{version}\n{}", found.bytes).as_bytes())
            .to_hex()
            .to_string()
    }

    /// Converts an error of the library, without the secrets in its message.
    fn failed<'a>(&'a self, action: &'static str, path: &'a str) -> impl Fn(Cause) -> Error + 'a {
        move |cause| {
            Error::storage(
                action,
                &format!("{}/{path}", self.name),
                &cause,
                Some(self.access.hide(&cause.to_string())),
            )
        }
    }
}

/// Divides a file into the ranges of its parts.
fn part_ranges(found: &StoredFile) -> Vec<Range<u64>> {
    (0..found.bytes)
        .step_by(PART as usize)
        .map(|from| from..(from + PART).min(found.bytes))
        .collect()
}

/// Converts the metadata of an object.
pub(super) fn stored(found: ObjectMeta) -> StoredFile {
    StoredFile {
        path: found.location.to_string(),
        bytes: found.size,
        modified: found.last_modified.into(),
        etag: found.e_tag,
    }
}

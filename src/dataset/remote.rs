//! What an object store needs to be a workspace: a create that one writer wins, files read in place, and large files sent in parts.
//!
//! In: paths relative to the workspace, bytes. Out: the same answers as a folder gives. Start at [`Remote::create`]. Requests that fail
//! in passing are made again by the library, with growing and random waits; what is here decides what a lost reply may have meant.

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
use super::place::{Created, FileInfo, Stored, object};

/// How often a request is tried that the store answers with a passing fault, on top of what the library tries.
const TRIES: u32 = 5;
/// No further try begins later: a store that is gone has been waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a part of a large file.
const PART: u64 = 8 << 20;
/// Parts under way at once.
const PARTS: usize = 4;
/// Small files asked for at once.
const REQUESTS: usize = 32;

/// A folder of an object store.
pub(super) struct Remote {
    /// Its address, or another name no other store has.
    name: String,
    objects: Arc<dyn ObjectStore>,
    runtime: Arc<Runtime>,
    access: Access,
}

impl Remote {
    pub(super) fn new(name: String, objects: Arc<dyn ObjectStore>, access: Access) -> Result<Self> {
        Ok(Self { name, objects, runtime: access.runtime()?, access })
    }

    /// The folder or bucket at an address.
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

    /// Creates a file unless one is there. A reply that got lost is no harm: what is found is read back, and the same bytes count as ours.
    pub(super) fn create(&self, path: &str, bytes: &[u8]) -> Result<Created> {
        let place = object(path)?;
        self.again(|| {
            let payload = PutPayload::from(Bytes::copy_from_slice(bytes));
            match self.runtime.block_on(self.objects.put_opts(
                &place,
                payload,
                PutMode::Create.into(),
            )) {
                Ok(_) => Ok(Created::New),
                // "Somebody is about to create it" is told like "it is there": only what is found decides.
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

    /// The bytes of a file, or `None` where nothing is.
    pub(super) fn read(&self, path: &str) -> Result<Option<Bytes>> {
        self.again(|| self.runtime.block_on(self.get(path)))
    }

    /// The bytes of many small files, in their order.
    pub(super) fn read_all(&self, paths: &[String]) -> Result<Vec<Option<Bytes>>> {
        let all = || {
            futures::stream::iter(paths).map(|path| self.get(path)).buffered(REQUESTS).try_collect()
        };
        self.again(|| self.runtime.block_on(all()))
    }

    /// Returns some bytes of a file; fails if it is no longer the one that was found.
    pub(super) fn read_part(&self, found: &Stored, from: u64, count: u64) -> Result<Bytes> {
        Ok(self.read_parts(found, std::slice::from_ref(&(from..from + count)))?.remove(0))
    }

    /// Returns some stretches of a file, in their order, many asked for at once; fails if it is no longer the one that was found.
    pub(super) fn read_parts(&self, found: &Stored, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.again(|| {
            let mut parts = Vec::with_capacity(ranges.len());
            self.each_part(found, ranges, REQUESTS, |part| {
                parts.push(part);
                Ok(())
            })?;
            Ok(parts)
        })
    }

    /// Hands over some stretches of a file, in their order, `at_once` of which are in memory.
    fn each_part(
        &self,
        found: &Stored,
        ranges: &[Range<u64>],
        at_once: usize,
        mut each: impl FnMut(Bytes) -> Result<()>,
    ) -> Result<()> {
        let place = object(&found.path)?;
        let part = |range: &Range<u64>| {
            let options = GetOptions {
                range: Some(GetRange::Bounded(range.clone())),
                if_match: found.etag.clone(),
                ..GetOptions::default()
            };
            async { self.objects.get_opts(&place, options).await?.bytes().await }
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

    /// Returns a copy of a file on this machine's disk. What is fetched is checked against `info`; of a copy that is there, the size is.
    pub(super) fn local(&self, path: &str, info: Option<&FileInfo>) -> Result<File> {
        let found = self.require(path, info)?;
        let fetch = |file: &mut File| self.again(|| self.fetch(&found, info, file));
        self.access.cache().file(&self.copy_name(&found), Some(found.bytes), fetch)
    }

    /// Returns the copy of a file on this machine's disk, if there is one.
    pub(super) fn copy_of(&self, found: &Stored) -> Result<Option<File>> {
        self.access.cache().find(&self.copy_name(found), Some(found.bytes))
    }

    /// Deletes the copy of a file on this machine's disk.
    pub(super) fn forget(&self, path: &str) -> Result<()> {
        self.look(path)?.map_or(Ok(()), |found| self.access.cache().forget(&self.copy_name(&found)))
    }

    /// Returns what is known of a file that must be there, with the size that `info` says.
    pub(super) fn require(&self, path: &str, info: Option<&FileInfo>) -> Result<Stored> {
        let found = self.look(path)?.ok_or_else(|| Error::Missing { path: path.into() })?;
        info.map_or(Ok(()), |info| info.check_size(found.bytes))?;
        Ok(found)
    }

    /// Writes the bytes of a file to another, and checks them.
    fn fetch(&self, found: &Stored, info: Option<&FileInfo>, file: &mut File) -> Result<()> {
        let path = found.path.as_str();
        let mut hasher = blake3::Hasher::new();
        file.rewind().and_then(|()| file.set_len(0)).map_err(io_error("write a copy of", path))?;
        self.each_part(found, &whole(found), PARTS, |part| {
            hasher.update(&part);
            file.write_all(&part).map_err(io_error("write a copy of", path))
        })?;
        info.map_or(Ok(()), |info| info.check_digest(hasher.finalize()))
    }

    /// What is known of a file without its bytes, or `None` where nothing is.
    pub(super) fn look(&self, path: &str) -> Result<Option<Stored>> {
        let place = object(path)?;
        self.again(|| match self.runtime.block_on(self.objects.head(&place)) {
            // The library's prefix is still before the path that is found.
            Ok(found) => Ok(Some(Stored { path: path.to_owned(), ..stored(found) })),
            Err(Cause::NotFound { .. }) => Ok(None),
            Err(cause) => Err(self.failed("look at", path)(cause)),
        })
    }

    /// Every file under the folder `prefix`, in no order.
    pub(super) fn files(&self, prefix: &str) -> Result<Vec<Stored>> {
        let place = object(prefix)?;
        let found = || self.objects.list(Some(&place)).map_ok(stored).try_collect();
        self.again(|| self.runtime.block_on(found()).map_err(self.failed("list", prefix)))
    }

    /// The names of the folders right under `prefix`.
    pub(super) fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let place = object(prefix)?;
        let list = || {
            self.runtime
                .block_on(self.objects.list_with_delimiter(Some(&place)))
                .map_err(self.failed("list", prefix))
        };
        let found = self.again(list)?;
        Ok(found
            .common_prefixes
            .iter()
            .filter_map(|folder| folder.filename().map(str::to_owned))
            .collect())
    }

    /// Deletes files, which need not be there, many with one request.
    pub(super) fn delete(&self, paths: &[String]) -> Result<()> {
        let places = paths.iter().map(|path| object(path)).collect::<Result<Vec<Path>>>()?;
        self.again(|| {
            let mut deleted = self
                .objects
                .delete_stream(futures::stream::iter(places.clone().into_iter().map(Ok)).boxed());
            self.runtime.block_on(async {
                while let Some(gone) = deleted.next().await {
                    match gone {
                        Ok(_) | Err(Cause::NotFound { .. }) => {}
                        Err(cause) => {
                            return Err(self
                                .failed("delete", paths.first().map_or("", String::as_str))(
                                cause,
                            ));
                        }
                    }
                }
                Ok(())
            })
        })
    }

    /// Sends a finished file, which must be at its beginning, and keeps it as the local copy.
    pub(super) fn upload(
        &self,
        path: &str,
        mut file: File,
        bytes: u64,
        part: &std::path::Path,
    ) -> Result<()> {
        let place = object(path)?;
        let found = self.again(|| {
            file.rewind().map_err(io_error("read back", path))?;
            let sent = if bytes <= PART {
                let mut whole = Vec::new();
                (&file).read_to_end(&mut whole).map_err(io_error("read back", path))?;
                self.runtime
                    .block_on(self.objects.put(&place, whole.into()))
                    .map(|_| ())
                    .map_err(self.failed("upload", path))
            } else {
                self.runtime.block_on(self.upload_parts(path, &place, &file))
            };
            match (sent, self.look(path)?) {
                (Ok(()), Some(found)) => Ok(found),
                // Where the last reply got lost it is there all the same.
                (Err(_), Some(found)) if found.bytes == bytes && self.is_same(&found, &file)? => {
                    Ok(found)
                }
                (Err(error), _) => Err(error),
                (Ok(()), None) => Err(Error::Missing { path: path.into() }),
            }
        })?;
        self.access.cache().keep(part, &self.copy_name(&found))
    }

    /// Whether what is there are the bytes of a local file.
    fn is_same(&self, found: &Stored, mut file: &File) -> Result<bool> {
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

    /// Sends a file in parts.
    ///
    /// Parts that a killed process sent stay in the bucket, unseen, and cost money. `object_store` cannot list them: a bucket needs a rule
    /// that aborts incomplete multipart uploads after some days (S3: `AbortIncompleteMultipartUpload`).
    async fn upload_parts(&self, path: &str, place: &Path, mut file: &File) -> Result<()> {
        let upload =
            self.objects.put_multipart(place).await.map_err(self.failed("upload", path))?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, PART as usize);
        let mut part = vec![0; PART as usize];
        loop {
            let read = file.read(&mut part).map_err(io_error("read back", path))?;
            if read == 0 {
                break;
            }
            if let Err(cause) = parts.wait_for_capacity(PARTS).await {
                // Parts that stay behind cost money; the first fault is the one to tell.
                let _ = parts.abort().await;
                return Err(self.failed("upload", path)(cause));
            }
            parts.write(&part[..read]);
        }
        parts.finish().await.map(|_| ()).map_err(self.failed("upload", path))
    }

    /// Tries something that may be done twice until it is done, or fails for good. The library tries again where a request fails, but not
    /// where the answer to a listing breaks off.
    fn again<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        for tries in 1..TRIES {
            match attempt() {
                Err(error) if error.is_transient() && begun.elapsed() < PATIENCE => {}
                answer => return answer,
            }
            // Longer and longer, and not all writers at once.
            let most = 40 << tries;
            std::thread::sleep(Duration::from_millis(
                most / 2 + RandomState::new().build_hasher().finish() % most,
            ));
        }
        attempt()
    }

    async fn get(&self, path: &str) -> Result<Option<Bytes>> {
        let place = object(path)?;
        let bytes = async { self.objects.get(&place).await?.bytes().await };
        match bytes.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Cause::NotFound { .. }) => Ok(None),
            Err(cause) => Err(self.failed("read", path)(cause)),
        }
    }

    /// A name that no other content ever has.
    fn copy_name(&self, found: &Stored) -> String {
        let (name, path, version) = (&self.name, &found.path, found.version());
        blake3::hash(format!("{name}\n{path}\n{version}\n{}", found.bytes).as_bytes())
            .to_hex()
            .to_string()
    }

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

/// Cuts a file into parts.
fn whole(found: &Stored) -> Vec<Range<u64>> {
    (0..found.bytes)
        .step_by(PART as usize)
        .map(|from| from..(from + PART).min(found.bytes))
        .collect()
}

/// Returns what a store says of an object.
pub(super) fn stored(found: ObjectMeta) -> Stored {
    Stored {
        path: found.location.to_string(),
        bytes: found.size,
        modified: found.last_modified.into(),
        etag: found.e_tag,
    }
}

//! In-memory object stores with injected faults, for tests. Start at [`faulty_store`].

use std::collections::VecDeque;
use std::fmt;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::{Access, Store};

/// The fate of one put.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// It succeeds.
    Pass,
    /// It fails before anything is written.
    Before(ErrorKind),
    /// It succeeds, but the reply is lost.
    LostReply,
}

#[derive(Debug)]
struct FaultyObjectStore {
    /// The folder of local copies, deleted with the store.
    _copies: tempfile::TempDir,
    inner: InMemory,
    faults: Mutex<VecDeque<Fault>>,
    /// Whether conditional puts overwrite.
    overwrites: bool,
    /// Bytes read so far.
    read: Arc<AtomicU64>,
}

/// Returns an in-memory store. Its next puts meet `faults`, one each.
pub fn faulty_store(faults: &[Fault]) -> Store {
    build(faults, false).0
}

/// Returns an in-memory store without support for conditional puts.
pub fn overwriting_store() -> Store {
    build(&[], true).0
}

/// Returns an in-memory store and a counter of bytes read from it.
pub fn metered_store() -> (Store, Arc<AtomicU64>) {
    build(&[], false)
}

fn build(faults: &[Fault], overwrites: bool) -> (Store, Arc<AtomicU64>) {
    let copies = tempfile::tempdir().expect("a folder can be made");
    let access = Access::new([], copies.path().to_owned(), 1 << 30);
    let read = Arc::<AtomicU64>::default();
    let bucket = FaultyObjectStore {
        _copies: copies,
        inner: InMemory::new(),
        faults: Mutex::new(faults.iter().copied().collect()),
        overwrites,
        read: Arc::clone(&read),
    };
    // The prefix tests that every path is relative to the workspace.
    let objects = Arc::new(PrefixStore::new(bucket, "a/folder"));
    (Store::over("faulty", objects, &access).expect("a runtime starts"), read)
}

impl fmt::Display for FaultyObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a faulty store")
    }
}

fn failure(kind: ErrorKind) -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: Box::new(std::io::Error::from(kind)) }
}

#[async_trait]
impl ObjectStore for FaultyObjectStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let fault = self.faults.lock().expect("no test panics here").pop_front();
        if let Some(Fault::Before(kind)) = fault {
            return Err(failure(kind));
        }
        let options = if self.overwrites {
            PutOptions { mode: PutMode::Overwrite, ..options }
        } else {
            options
        };
        // A lost reply: the object is stored, but the caller sees an error.
        let put = self.inner.put_opts(location, payload, options).await?;
        if matches!(fault, Some(Fault::LostReply)) {
            Err(failure(ErrorKind::TimedOut))
        } else {
            Ok(put)
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let is_head = options.head;
        let found = self.inner.get_opts(location, options).await?;
        if !is_head {
            self.read.fetch_add(found.range.end - found.range.start, Ordering::Relaxed);
        }
        Ok(found)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

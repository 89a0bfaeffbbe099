//! Blobs on their way in, by (owner, id), within quotas.

use crate::config::Limits;
use bytes::Bytes;
use cipherform_proto::{Assembler, BlobHeader, Chunk, Fault, Id, Missing, Owner, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Locks, whatever became of the last holder: every critical section here leaves its data whole at each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The uploads under way.
pub(crate) struct Uploads {
    limits: Limits,
    entries: Mutex<HashMap<(Owner, Id), Arc<Entry>>>,
}

struct Entry {
    header: BlobHeader,
    /// Bytes reserved from the quota: the exact size of the blob.
    reserved: u64,
    /// Behind its own lock, so that hashing one client's chunk does not make the others wait.
    content: Mutex<Content>,
    touched: Mutex<Instant>,
}

enum Content {
    Receiving(Box<Assembler>),
    Complete(Bytes),
}

impl Uploads {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, entries: Mutex::default() }
    }

    /// Reserves room for the blob of `header`, which is `exact` bytes long.
    pub(crate) fn begin(&self, owner: Owner, header: BlobHeader, exact: u64) -> Result<Id> {
        let assembler = Assembler::new(&header, exact)?;
        self.sweep();
        let mut entries = lock(&self.entries);
        let limit = self.limits.uploads_per_owner;
        if entries.keys().filter(|(o, _)| *o == owner).count() >= limit {
            return Err(busy("uploads of this session", limit as u64));
        }
        let reserved: u64 = entries.values().map(|entry| entry.reserved).sum();
        let limit = self.limits.upload_bytes;
        if exact > limit {
            return Err(Fault::TooLarge { what: "upload".into(), limit, got: exact });
        }
        if reserved.saturating_add(exact) > limit {
            return Err(busy("upload memory", limit));
        }
        let id = Id::random()?;
        let content = Mutex::new(Content::Receiving(Box::new(assembler)));
        let touched = Mutex::new(Instant::now());
        let entry = Arc::new(Entry { header, reserved: exact, content, touched });
        entries.insert((owner, id), entry);
        Ok(id)
    }

    fn get(&self, owner: Owner, id: Id) -> Result<Arc<Entry>> {
        let entry = lock(&self.entries).get(&(owner, id)).cloned();
        let entry = entry.ok_or_else(|| Fault::not_found("upload", id.to_string()))?;
        *lock(&entry.touched) = Instant::now();
        Ok(entry)
    }

    /// Takes one chunk.
    pub(crate) fn accept(&self, owner: Owner, id: Id, chunk: Chunk) -> Result<()> {
        let entry = self.get(owner, id)?;
        match &mut *lock(&entry.content) {
            Content::Receiving(assembler) => assembler.accept(chunk),
            Content::Complete(_) => Ok(()),
        }
    }

    /// What is here and what is not.
    pub(crate) fn status(&self, owner: Owner, id: Id) -> Result<Missing> {
        let entry = self.get(owner, id)?;
        Ok(match &*lock(&entry.content) {
            Content::Receiving(assembler) => assembler.missing(),
            Content::Complete(bytes) => {
                let total = bytes.len() as u64;
                Missing { received: total, total, ranges: Vec::new() }
            }
        })
    }

    /// The whole blob; the upload stays until it is discarded. A blob whose digest is wrong is discarded at once, because
    /// no further chunk could repair it.
    pub(crate) fn complete(&self, owner: Owner, id: Id) -> Result<(BlobHeader, Bytes)> {
        let entry = self.get(owner, id)?;
        let mut content = lock(&entry.content);
        if let Content::Receiving(assembler) = &mut *content {
            let Missing { received, total, .. } = assembler.missing();
            if received != total {
                return Err(Fault::Incomplete { received, total });
            }
            let taken = std::mem::replace(&mut *content, Content::Complete(Bytes::new()));
            let finished = match taken {
                Content::Receiving(assembler) => assembler.finish(),
                Content::Complete(bytes) => Ok(bytes),
            };
            match finished {
                Ok(bytes) => *content = Content::Complete(bytes),
                Err(fault) => {
                    drop(content);
                    self.discard(owner, id);
                    return Err(fault);
                }
            }
        }
        match &*content {
            Content::Complete(bytes) => Ok((entry.header.clone(), bytes.clone())),
            Content::Receiving(_) => Err(Fault::Internal),
        }
    }

    /// Forgets an upload, if there is one.
    pub(crate) fn discard(&self, owner: Owner, id: Id) {
        lock(&self.entries).remove(&(owner, id));
    }

    /// Drops uploads that nobody has touched for too long.
    pub(crate) fn sweep(&self) {
        let expiry = self.limits.upload_expiry();
        lock(&self.entries).retain(|_, entry| lock(&entry.touched).elapsed() <= expiry);
    }
}

/// A refusal for now.
pub(crate) fn busy(what: &str, limit: u64) -> Fault {
    Fault::Busy { what: what.into(), limit, retry_after_ms: 1000 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cipherform_proto::{BlobKind, Chunked, SessionToken};

    fn owner() -> Owner {
        Owner::of(&SessionToken::random().unwrap())
    }

    fn blob(bytes: &[u8]) -> (BlobHeader, Vec<Chunk>) {
        let chunked = Chunked::new(Bytes::copy_from_slice(bytes));
        let header = chunked.header(BlobKind::Ciphertext, [0; 32], "m", 0);
        (header, chunked.chunks().collect())
    }

    #[test]
    fn only_the_owner_sees_an_upload() {
        let uploads = Uploads::new(Limits::default());
        let (mine, theirs) = (owner(), owner());
        let (header, chunks) = blob(b"abc");
        let id = uploads.begin(mine, header.clone(), 3).unwrap();
        let absent = uploads.status(mine, Id::random().unwrap()).unwrap_err();
        let foreign = uploads.status(theirs, id).unwrap_err();
        assert!(matches!(absent, Fault::NotFound { .. }));
        assert!(matches!(foreign, Fault::NotFound { .. }));
        assert!(uploads.accept(theirs, id, chunks[0].clone()).is_err());
        assert!(uploads.complete(theirs, id).is_err());
        uploads.discard(theirs, id);
        assert_eq!(uploads.complete(mine, id), Err(Fault::Incomplete { received: 0, total: 3 }));
        uploads.accept(mine, id, chunks[0].clone()).unwrap();
        for _ in 0..2 {
            let (got, bytes) = uploads.complete(mine, id).unwrap();
            assert_eq!((got, bytes.as_ref()), (header.clone(), &b"abc"[..]));
        }
        // A repeated chunk after completion is still no error.
        uploads.accept(mine, id, chunks[0].clone()).unwrap();
        assert!(uploads.status(mine, id).unwrap().ranges.is_empty());
    }

    #[test]
    fn quotas_hold_and_are_given_back() {
        let limits = Limits { upload_bytes: 10, uploads_per_owner: 2, ..Limits::default() };
        let uploads = Uploads::new(limits);
        let (a, b) = (owner(), owner());
        let (header, _) = blob(&[0; 4]);
        let (big, _) = blob(&[0; 11]);
        assert!(matches!(uploads.begin(a, big, 11), Err(Fault::TooLarge { limit: 10, .. })));
        let first = uploads.begin(a, header.clone(), 4).unwrap();
        uploads.begin(a, header.clone(), 4).unwrap();
        let third = uploads.begin(a, header.clone(), 4);
        assert!(matches!(third, Err(Fault::Busy { limit: 2, .. })));
        assert!(matches!(uploads.begin(b, header.clone(), 4), Err(Fault::Busy { limit: 10, .. })));
        uploads.discard(a, first);
        uploads.begin(b, header, 4).unwrap();
    }

    #[test]
    fn stale_uploads_expire() {
        let uploads = Uploads::new(Limits { upload_expiry_s: 0, ..Limits::default() });
        let (header, _) = blob(b"abc");
        let me = owner();
        let id = uploads.begin(me, header, 3).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
        uploads.sweep();
        assert!(matches!(uploads.status(me, id), Err(Fault::NotFound { .. })));
    }

    #[test]
    fn a_wrong_digest_ends_the_upload() {
        let uploads = Uploads::new(Limits::default());
        let (mut header, chunks) = blob(b"abc");
        header.digest = [1; 32];
        let me = owner();
        let id = uploads.begin(me, header, 3).unwrap();
        uploads.accept(me, id, chunks[0].clone()).unwrap();
        assert!(matches!(uploads.complete(me, id), Err(Fault::Malformed { .. })));
        assert!(matches!(uploads.status(me, id), Err(Fault::NotFound { .. })));
    }
}

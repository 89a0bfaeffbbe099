//! Key sets.

use super::{Handlers, blocking, owner};
use crate::convert;
use cipherform_ckks::SeededKey;
use cipherform_proto::wire::{commit_parts, key_sets};
use cipherform_proto::{BlobKind, Fault, Id, Owner, pb, wire::KeySetInfo};
use tonic::{Request, Response, Status, async_trait};

impl Handlers {
    /// Validates and expands an uploaded key and puts it into its set.
    fn commit_key(&self, owner: Owner, upload: Id, set: Option<Id>) -> Result<KeySetInfo, Fault> {
        let (header, bytes) = self.0.uploads.complete(owner, upload)?;
        if header.kind != BlobKind::EvaluationKey {
            return Err(Fault::malformed("upload", "it is not an evaluation key"));
        }
        // Whatever comes of it, a complete upload is used up: no further chunk could change it.
        self.0.uploads.discard(owner, upload);
        let served = self.0.registry.get(&header.model)?;
        let spec = served.key(header.index)?;
        let seeded = SeededKey::from_bytes(served.context(), &bytes)
            .map_err(|error| convert::bytes(served.params(), &bytes, &error))?;
        let got = seeded.spec();
        if got.kind != spec.kind {
            let detail = format!("it is {:?} where the plan has {:?}", got.kind, spec.kind);
            return Err(Fault::malformed("evaluation key", detail));
        }
        if got.level != spec.level {
            return Err(Fault::LevelMismatch {
                what: format!("evaluation key {}", header.index),
                expected: spec.level as u32,
                got: got.level as u32,
            });
        }
        let key = seeded.expand(served.context()).map_err(|error| convert::ckks(&error))?;
        self.0.keys.insert(owner, set, &served, header.index, key)
    }
}

#[async_trait]
impl pb::keys_server::Keys for Handlers {
    async fn commit(
        &self,
        request: Request<pb::CommitRequest>,
    ) -> Result<Response<pb::KeySet>, Status> {
        let owner = owner(&request)?;
        let (upload, set) = commit_parts(&request.into_inner())?;
        let handlers = self.clone();
        let info = blocking(move || handlers.commit_key(owner, upload, set)).await?;
        Ok(Response::new(info.into()))
    }

    async fn list(
        &self,
        request: Request<pb::ListKeysRequest>,
    ) -> Result<Response<pb::KeySets>, Status> {
        Ok(Response::new(key_sets(self.0.keys.list(owner(&request)?))))
    }

    async fn delete(&self, request: Request<pb::KeySetId>) -> Result<Response<pb::KeySet>, Status> {
        let owner = owner(&request)?;
        let id = Id::try_from(&request.into_inner())?;
        Ok(Response::new(self.0.keys.delete(owner, id)?.into()))
    }
}

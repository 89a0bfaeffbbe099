//! Key sets.

use super::{Handlers, blocking, owner};
use crate::convert;
use crate::registry::Served;
use cipherform_ckks::{KeySpec, SeededKey, SwitchingKey};
use cipherform_proto::wire::{commit_parts, key_sets};
use cipherform_proto::{BlobKind, Fault, Id, Owner, pb, wire::KeySetInfo};
use tonic::{Request, Response, Status, async_trait};

impl Handlers {
    /// Validates and expands an uploaded key and puts it into its set. The order is that of costs: what can be refused by
    /// looking is refused before the key is unpacked. An upload that was refused for its set stays, so that it can be
    /// committed to another one or later; one that was taken, or that is no key of the plan, is used up.
    fn commit_key(&self, owner: Owner, upload: Id, set: Option<Id>) -> Result<KeySetInfo, Fault> {
        let shared = &self.0;
        let (header, bytes) = shared.uploads.complete(owner, upload)?;
        if header.kind != BlobKind::EvaluationKey {
            return Err(Fault::malformed("upload", "it is not an evaluation key"));
        }
        let served = shared.registry.get(&header.model)?;
        let spec = served.key(header.index)?;
        let opened = shared.keys.open(owner, set, &served, header.index)?;
        if let Some(info) = opened.present {
            shared.uploads.discard(owner, upload);
            return Ok(info);
        }
        let key = match expand(&served, opened.device, header.index, spec, &bytes) {
            Ok(key) => key,
            Err(fault) => {
                // No further chunk could make a key of it.
                shared.uploads.discard(owner, upload);
                shared.keys.abandon(owner, &opened);
                return Err(fault);
            }
        };
        let info = shared.keys.insert(owner, opened.id, &served, header.index, key)?;
        shared.uploads.discard(owner, upload);
        Ok(info)
    }
}

/// Key `index` of the plan, which is `spec`, from its bytes onto a device.
fn expand(
    served: &Served,
    device: usize,
    index: u32,
    spec: KeySpec,
    bytes: &[u8],
) -> Result<SwitchingKey, Fault> {
    let context = served.on(device)?.context();
    let seeded = SeededKey::from_bytes(context, bytes)
        .map_err(|error| convert::bytes(served.params(), bytes, &error))?;
    let got = seeded.spec();
    if got.kind != spec.kind {
        let detail = format!("it is {:?} where the plan has {:?}", got.kind, spec.kind);
        return Err(Fault::malformed("evaluation key", detail));
    }
    if got.level != spec.level {
        return Err(Fault::LevelMismatch {
            what: format!("evaluation key {index}"),
            expected: spec.level as u32,
            got: got.level as u32,
        });
    }
    seeded.expand(context).map_err(|error| convert::ckks(&error))
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

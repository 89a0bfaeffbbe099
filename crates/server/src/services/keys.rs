//! Key sets.

use super::{Handlers, blocking, owner};
use crate::convert;
use crate::key_store::Key;
use crate::registry::Served;
use cipherform_ckks::{SeededKey, SwitchingKey};
use cipherform_exact::{LabelKeys, SeededLabelKeys};
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
        let served = shared.registry.get(&header.model)?;
        match header.kind {
            BlobKind::EvaluationKey => drop(served.key(header.index)?),
            BlobKind::LabelKeys => drop(served.label_keys(header.index)?),
            _ => return Err(Fault::malformed("upload", "it is not an evaluation key")),
        }
        let opened = shared.keys.open(owner, set, &served, header.index)?;
        if let Some(info) = opened.present {
            shared.uploads.discard(owner, upload);
            return Ok(info);
        }
        let expanded = match header.kind {
            BlobKind::LabelKeys => expand_label(&served, header.index, &bytes).map(Key::Label),
            _ => expand(&served, opened.device, header.index, &bytes).map(Key::Evaluation),
        };
        let key = match expanded {
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

/// The keys of the plan's exact step from their bytes.
fn expand_label(served: &Served, index: u32, bytes: &[u8]) -> Result<LabelKeys, Fault> {
    let step = served.label_keys(index)?;
    let seeded = SeededLabelKeys::from_bytes(step, bytes);
    let keys = seeded.and_then(SeededLabelKeys::expand);
    keys.map_err(|error| convert::label_keys(served.params(), &error))
}

/// Key `index` of the plan from its bytes onto a device.
fn expand(served: &Served, device: usize, index: u32, bytes: &[u8]) -> Result<SwitchingKey, Fault> {
    let spec = served.key(index)?;
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
        // Waited for here, where it costs no thread; and kept by the work, which goes on when its caller is gone.
        let expansions = self.0.keys.expansions.clone();
        let permit = expansions.acquire_owned().await.map_err(|_| Fault::Internal)?;
        let commit = move || {
            let _permit = permit;
            handlers.commit_key(owner, upload, set)
        };
        let info = blocking(commit).await?;
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

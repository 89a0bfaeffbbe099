//! Key sets in memory, by (owner, id): filled key by key, used by jobs, dropped when nobody has used them for long.

use crate::config::Limits;
use crate::convert;
use crate::registry::Served;
use crate::uploads::{busy, lock};
use cipherform_ckks::{EvaluationKeys, SwitchingKey};
use cipherform_proto::wire::{KeySetInfo, MAX_MISSING};
use cipherform_proto::{Fault, Id, Owner, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The key sets of all owners.
pub(crate) struct KeyStore {
    limits: Limits,
    sets: Mutex<HashMap<(Owner, Id), KeySet>>,
}

struct KeySet {
    served: Arc<Served>,
    /// Which keys of the plan are present.
    present: Vec<bool>,
    /// Unique until the set is complete; afterwards shared with the jobs that use it.
    keys: Arc<EvaluationKeys>,
    touched: Instant,
}

impl KeySet {
    fn info(&self, id: Id) -> KeySetInfo {
        let missing = self.present.iter().enumerate().filter(|(_, present)| !**present);
        KeySetInfo {
            id,
            model: self.served.summary.name.clone(),
            description: self.served.summary.description,
            present: self.present.iter().filter(|present| **present).count() as u32,
            required: self.present.len() as u32,
            bytes: self.keys.bytes(),
            missing: missing.map(|(i, _)| i as u32).take(MAX_MISSING).collect(),
        }
    }
}

impl KeyStore {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, sets: Mutex::default() }
    }

    /// Puts `key`, number `index` of the plan, into a set, or into a new one. A key that is already there is kept.
    pub(crate) fn insert(
        &self,
        owner: Owner,
        set: Option<Id>,
        served: &Arc<Served>,
        index: u32,
        key: SwitchingKey,
    ) -> Result<KeySetInfo> {
        let mut sets = lock(&self.sets);
        let id = match set {
            Some(id) => id,
            None => self.reserve(&mut sets, owner, served)?,
        };
        let set = sets.get_mut(&(owner, id)).ok_or_else(|| absent(id))?;
        if set.served.summary.description != served.summary.description {
            let detail = format!("it is for model {}", set.served.summary.name);
            return Err(Fault::malformed("key set", detail));
        }
        set.touched = Instant::now();
        let present = set.present.get_mut(index as usize).ok_or(Fault::Internal)?;
        if !*present {
            // An incomplete set is never lent to a job, so the set is ours alone.
            let keys = Arc::get_mut(&mut set.keys).ok_or(Fault::Internal)?;
            keys.insert(key).map_err(|error| convert::ckks(&error))?;
            *present = true;
        }
        Ok(set.info(id))
    }

    /// Makes room for a complete set of `served` and opens an empty one. What the set will take is known from the plan,
    /// so that a client is refused before it uploads, not after.
    fn reserve(
        &self,
        sets: &mut HashMap<(Owner, Id), KeySet>,
        owner: Owner,
        served: &Arc<Served>,
    ) -> Result<Id> {
        let (limit, need) = (self.limits.key_bytes, served.key_bytes);
        if need > limit {
            return Err(Fault::TooLarge { what: "key set".into(), limit, got: need });
        }
        self.drop_expired(sets);
        if sets.keys().filter(|(o, _)| *o == owner).count() >= self.limits.key_sets_per_owner {
            return Err(busy("key sets of this session", self.limits.key_sets_per_owner as u64));
        }
        loop {
            let used: u64 = sets.values().map(|set| set.served.key_bytes).sum();
            if used + need <= limit {
                break;
            }
            // The set that was unused for longest goes, but none that a job uses or that was touched a moment ago.
            let hold = self.limits.key_hold();
            let idle = |set: &KeySet| Arc::strong_count(&set.keys) == 1;
            let oldest = sets
                .iter()
                .filter(|(_, set)| idle(set) && set.touched.elapsed() >= hold)
                .min_by_key(|(_, set)| set.touched)
                .map(|(key, _)| *key)
                .ok_or_else(|| busy("key memory", limit))?;
            sets.remove(&oldest);
        }
        let id = Id::random()?;
        let present = vec![false; served.model.description().plan().keys().len()];
        let keys = Arc::new(EvaluationKeys::new(served.context()));
        let set = KeySet { served: served.clone(), present, keys, touched: Instant::now() };
        sets.insert((owner, id), set);
        Ok(id)
    }

    /// A complete set for a job of `served`.
    pub(crate) fn lend(
        &self,
        owner: Owner,
        id: Id,
        served: &Served,
    ) -> Result<Arc<EvaluationKeys>> {
        let mut sets = lock(&self.sets);
        let set = sets.get_mut(&(owner, id)).ok_or_else(|| absent(id))?;
        if set.served.summary.description != served.summary.description {
            let detail = format!("it is for model {}", set.served.summary.name);
            return Err(Fault::malformed("key set", detail));
        }
        let keys = set.keys.missing(served.model.description().plan().keys());
        if !keys.is_empty() {
            let count = keys.len() as u64;
            return Err(Fault::KeyMissing { keys, count });
        }
        set.touched = Instant::now();
        Ok(set.keys.clone())
    }

    /// The owner's sets.
    pub(crate) fn list(&self, owner: Owner) -> Vec<KeySetInfo> {
        let sets = lock(&self.sets);
        let mine = sets.iter().filter(|((o, _), _)| *o == owner);
        mine.map(|((_, id), set)| set.info(*id)).collect()
    }

    /// Drops a set; a job that uses it keeps it until it ends.
    pub(crate) fn delete(&self, owner: Owner, id: Id) -> Result<KeySetInfo> {
        let set = lock(&self.sets).remove(&(owner, id)).ok_or_else(|| absent(id))?;
        Ok(set.info(id))
    }

    /// Drops the sets that nobody has used for too long.
    pub(crate) fn sweep(&self) {
        self.drop_expired(&mut lock(&self.sets));
    }

    fn drop_expired(&self, sets: &mut HashMap<(Owner, Id), KeySet>) {
        let expiry = self.limits.key_expiry();
        sets.retain(|_, set| set.touched.elapsed() <= expiry || Arc::strong_count(&set.keys) > 1);
    }
}

fn absent(id: Id) -> Fault {
    Fault::not_found("key set", id.to_string())
}

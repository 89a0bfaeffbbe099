//! Key sets in memory, by (owner, id): filled key by key, used by jobs, dropped when nobody has used them for long.

use crate::config::Limits;
use crate::registry::Served;
use crate::uploads::{busy, lock};
use cipherform_ckks::{EvaluationKeys, SecretId, SwitchingKey};
use cipherform_exact::{LabelKeys, LabelParameters};
use cipherform_proto::wire::{KeySetInfo, MAX_MISSING};
use cipherform_proto::{Fault, Id, Owner, Result};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::Semaphore;

/// Keys that are expanded at once. An expanded key is several times its upload, and no quota sees it before it is in its set.
const EXPANSIONS: usize = 2;

/// The key sets of all owners.
pub(crate) struct KeyStore {
    limits: Limits,
    sets: Mutex<HashMap<(Owner, Id), KeySet>>,
    /// Held by whoever expands a key.
    pub(crate) expansions: Arc<Semaphore>,
}

struct KeySet {
    served: Arc<Served>,
    /// Which keys of the plan are present.
    present: Vec<bool>,
    /// Keys that are being expanded: each is expanded once, however often it is committed.
    under_way: HashSet<u32>,
    /// Where the keys are, and where the jobs run that use them.
    device: usize,
    /// Unique until the set is complete; afterwards shared with the jobs that use it.
    keys: Arc<KeyRing>,
    touched: Instant,
}

/// All keys of a plan.
#[derive(Debug)]
pub(crate) struct KeyRing {
    pub(crate) evaluation: EvaluationKeys,
    /// Those of the plan's exact step, if it has one.
    pub(crate) label: Option<LabelKeys>,
}

/// A key on its way into a set.
pub(crate) enum Key {
    Evaluation(SwitchingKey),
    Label(LabelKeys),
}

/// A key set about to get a key.
pub(crate) struct Opened {
    pub(crate) id: Id,
    /// Which key of the plan it is.
    index: u32,
    /// The device of the set.
    pub(crate) device: usize,
    /// Whether it was made for this key.
    new: bool,
    /// The set as it is, if the key is already there.
    pub(crate) present: Option<KeySetInfo>,
}

impl KeyRing {
    fn bytes(&self, served: &Served) -> u64 {
        let label = served.label().filter(|_| self.label.is_some());
        self.evaluation.bytes() + label.map_or(0, LabelParameters::key_bytes)
    }

    /// Whether all keys are of one secret.
    pub(crate) fn are_of(&self, secret: SecretId) -> bool {
        self.evaluation.secret_id() == Some(secret)
            && self.label.as_ref().is_none_or(|label| label.secret_id() == secret)
    }
}

impl KeySet {
    fn is_complete(&self) -> bool {
        !self.present.contains(&false)
    }

    /// Whether a job holds it.
    fn is_lent(&self) -> bool {
        Arc::strong_count(&self.keys) > 1
    }

    /// Refuses a set of another model.
    fn check(&self, served: &Served) -> Result<()> {
        if self.served.summary.description != served.summary.description {
            let detail = format!("it is for model {}", self.served.summary.name);
            return Err(Fault::malformed("key set", detail));
        }
        Ok(())
    }

    fn info(&self, id: Id) -> KeySetInfo {
        let missing = self.present.iter().enumerate().filter(|(_, present)| !**present);
        KeySetInfo {
            id,
            model: self.served.summary.name.clone(),
            description: self.served.summary.description,
            present: self.present.iter().filter(|present| **present).count() as u32,
            required: self.present.len() as u32,
            bytes: self.keys.bytes(&self.served),
            missing: missing.map(|(i, _)| i as u32).take(MAX_MISSING).collect(),
        }
    }
}

impl KeyStore {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, sets: Mutex::default(), expansions: Arc::new(Semaphore::new(EXPANSIONS)) }
    }

    /// The set into which key `index` of the plan will go: `set` after a look at it, or a new one with room reserved for
    /// all of its keys. Asked before a key is unpacked, which takes time and memory; until it is inserted or abandoned, the
    /// key is refused to others as busy.
    pub(crate) fn open(
        &self,
        owner: Owner,
        set: Option<Id>,
        served: &Arc<Served>,
        index: u32,
    ) -> Result<Opened> {
        let mut sets = lock(&self.sets);
        let Some(id) = set else {
            let (id, device) = self.reserve(&mut sets, owner, served, index)?;
            return Ok(Opened { id, index, device, new: true, present: None });
        };
        let set = sets.get_mut(&(owner, id)).ok_or_else(|| absent(id))?;
        set.check(served)?;
        let present = set.present.get(index as usize).copied().unwrap_or_default();
        let present = present.then(|| set.info(id));
        if present.is_none() && !set.under_way.insert(index) {
            return Err(busy("commits of this key", 1));
        }
        Ok(Opened { id, index, device: set.device, new: false, present })
    }

    /// Puts `key`, number `index` of the plan, into an opened set. A key that is already there is kept.
    pub(crate) fn insert(
        &self,
        owner: Owner,
        id: Id,
        served: &Served,
        index: u32,
        key: Key,
    ) -> Result<KeySetInfo> {
        let mut sets = lock(&self.sets);
        let set = sets.get_mut(&(owner, id)).ok_or_else(|| absent(id))?;
        set.check(served)?;
        set.under_way.remove(&index);
        let present = set.present.get_mut(index as usize).ok_or(Fault::Internal)?;
        if !*present {
            // An incomplete set is never lent to a job, so the set is ours alone.
            let keys = Arc::get_mut(&mut set.keys).ok_or(Fault::Internal)?;
            match key {
                Key::Evaluation(key) => keys
                    .evaluation
                    .insert(key)
                    .map_err(|error| Fault::malformed("evaluation key", error.to_string()))?,
                Key::Label(key) => keys.label = Some(key),
            }
            *present = true;
            // Only a new key keeps an incomplete set alive, so that it cannot be held with one key for ever.
            set.touched = Instant::now();
        }
        Ok(set.info(id))
    }

    /// Takes back the opening of a set for a key which turned out to be none, and the set if it was made for it.
    pub(crate) fn abandon(&self, owner: Owner, opened: &Opened) {
        let mut sets = lock(&self.sets);
        if let Some(set) = sets.get_mut(&(owner, opened.id)) {
            set.under_way.remove(&opened.index);
        }
        let empty = |set: &KeySet| !set.present.contains(&true);
        if opened.new && sets.get(&(owner, opened.id)).is_some_and(empty) {
            sets.remove(&(owner, opened.id));
        }
    }

    /// Makes room for a complete set of `served` and opens an empty one for key `index`. What the set will take is known from the plan,
    /// so that a client is refused before it uploads, not after.
    fn reserve(
        &self,
        sets: &mut HashMap<(Owner, Id), KeySet>,
        owner: Owner,
        served: &Arc<Served>,
        index: u32,
    ) -> Result<(Id, usize)> {
        let (limit, need) = (self.limits.key_bytes, served.key_bytes);
        if need > limit {
            return Err(Fault::TooLarge { what: "key set".into(), limit, got: need });
        }
        self.drop_expired(sets);
        if sets.keys().filter(|(o, _)| *o == owner).count() >= self.limits.key_sets_per_owner {
            return Err(busy("key sets of this session", self.limits.key_sets_per_owner as u64));
        }
        let used = |sets: &HashMap<(Owner, Id), KeySet>, device| -> u64 {
            let here = sets.values().filter(|set| set.device == device);
            here.map(|set| set.served.key_bytes).sum()
        };
        let devices = 0..served.devices();
        let device = devices.min_by_key(|&device| used(sets, device)).ok_or(Fault::Internal)?;
        while used(sets, device) + need > limit {
            // An incomplete set goes first, then the one that was unused for longest; but none that a job uses or that was
            // touched a moment ago.
            let hold = self.limits.key_hold();
            let oldest = sets
                .iter()
                .filter(|(_, set)| set.device == device)
                .filter(|(_, set)| !set.is_lent() && set.touched.elapsed() >= hold)
                .min_by_key(|(_, set)| (set.is_complete(), set.touched))
                .map(|(key, _)| *key)
                .ok_or_else(|| busy("key memory", limit))?;
            sets.remove(&oldest);
        }
        let id = Id::random()?;
        let present = vec![false; served.key_count()];
        let evaluation = EvaluationKeys::new(served.on(device)?.context());
        let keys = Arc::new(KeyRing { evaluation, label: None });
        let (served, under_way) = (served.clone(), HashSet::from([index]));
        let touched = Instant::now();
        let set = KeySet { served, present, under_way, device, keys, touched };
        sets.insert((owner, id), set);
        Ok((id, device))
    }

    /// A complete set for a job of `served`, and the device on which it is.
    pub(crate) fn lend(
        &self,
        owner: Owner,
        id: Id,
        served: &Served,
    ) -> Result<(Arc<KeyRing>, usize)> {
        let mut sets = lock(&self.sets);
        let set = sets.get_mut(&(owner, id)).ok_or_else(|| absent(id))?;
        set.check(served)?;
        let keys = set.keys.evaluation.missing(served.plan().keys());
        let lacks_label = served.label().is_some() && set.keys.label.is_none();
        if !keys.is_empty() || lacks_label {
            let count = keys.len() as u64 + u64::from(lacks_label);
            return Err(Fault::KeyMissing { keys, count });
        }
        set.touched = Instant::now();
        Ok((set.keys.clone(), set.device))
    }

    /// The owner's sets.
    pub(crate) fn list(&self, owner: Owner) -> Vec<KeySetInfo> {
        let sets = lock(&self.sets);
        let mine = sets.iter().filter(|((o, _), _)| *o == owner);
        mine.map(|((_, id), set)| set.info(*id)).collect()
    }

    /// Drops a set, unless a job waits or runs that uses it: the job would keep the memory, and nobody would count it.
    pub(crate) fn delete(&self, owner: Owner, id: Id) -> Result<KeySetInfo> {
        let mut sets = lock(&self.sets);
        let set = sets.get(&(owner, id)).ok_or_else(|| absent(id))?;
        // Sets are lent under the same lock, so that none is lent between this look and the end.
        if set.is_lent() {
            let users = Arc::strong_count(&set.keys) as u64 - 1;
            return Err(busy("use of the key set by jobs", users));
        }
        let info = set.info(id);
        sets.remove(&(owner, id));
        Ok(info)
    }

    /// Drops the sets that nobody has used for too long, and those that nobody went on filling.
    pub(crate) fn sweep(&self) {
        self.drop_expired(&mut lock(&self.sets));
    }

    fn drop_expired(&self, sets: &mut HashMap<(Owner, Id), KeySet>) {
        // One key reserves the memory of a whole set, so a set in the making has the short life of an upload.
        let (complete, incomplete) = (self.limits.key_expiry(), self.limits.upload_expiry());
        sets.retain(|_, set| {
            let expiry = if set.is_complete() { complete } else { incomplete };
            set.is_lent() || set.touched.elapsed() <= expiry
        });
    }
}

fn absent(id: Id) -> Fault {
    Fault::not_found("key set", id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use cipherform_ckks::{Context, presets};
    use cipherform_nn::{HeModel, RandomModel};
    use cipherform_proto::SessionToken;
    use cipherform_ring::Device;
    use std::time::Duration;

    fn owner() -> Owner {
        Owner::of(&SessionToken::random().unwrap())
    }

    /// A small model under toy parameters (not secure) on some devices.
    fn served_on(devices: &[Device]) -> Arc<Served> {
        let shape = RandomModel {
            tokens: 4,
            width: 8,
            heads: 2,
            ffn: 16,
            classes: 4,
            ..RandomModel::default()
        };
        let model = shape.generate().unwrap();
        let replica = |device| {
            let context = Context::new(presets::get("toy11_deep").unwrap(), device).unwrap();
            HeModel::new(&model, &context).unwrap()
        };
        let mut registry = Registry::new();
        registry.add_replicas(devices.iter().map(replica).collect()).unwrap();
        registry.get(&model.config.name).unwrap()
    }

    fn served() -> Arc<Served> {
        served_on(&[Device::cpu()])
    }

    /// Opens a set and, if asked to, marks its keys as present.
    fn fill(store: &KeyStore, owner: Owner, served: &Arc<Served>, complete: bool) -> Id {
        let id = store.open(owner, None, served, 0).map(|opened| opened.id).unwrap();
        let mut sets = lock(&store.sets);
        let set = sets.get_mut(&(owner, id)).unwrap();
        set.under_way.clear();
        set.present[0] = true;
        if complete {
            set.present.fill(true);
        }
        id
    }

    fn ids(store: &KeyStore, owner: Owner) -> Vec<Id> {
        store.list(owner).into_iter().map(|info| info.id).collect()
    }

    #[test]
    fn an_incomplete_set_lives_as_long_as_an_upload() {
        let served = served();
        let store = KeyStore::new(Limits { upload_expiry_s: 0, ..Limits::default() });
        let me = owner();
        let whole = fill(&store, me, &served, true);
        let half = fill(&store, me, &served, false);
        assert_eq!(ids(&store, me).len(), 2);
        std::thread::sleep(Duration::from_millis(2));
        // A look at it, for a key that is already there, does not prolong it.
        assert!(store.open(me, Some(half), &served, 0).unwrap().present.is_some());
        store.sweep();
        assert_eq!(ids(&store, me), [whole]);
    }

    #[test]
    fn incomplete_sets_make_room_first() {
        let served = served();
        let limits = Limits { key_bytes: 2 * served.key_bytes, key_hold_s: 0, ..Limits::default() };
        let store = KeyStore::new(limits);
        let (a, b, c) = (owner(), owner(), owner());
        // The complete set is older, and stays.
        let whole = fill(&store, a, &served, true);
        std::thread::sleep(Duration::from_millis(2));
        fill(&store, b, &served, false);
        let new = fill(&store, c, &served, true);
        assert_eq!(
            (ids(&store, a), ids(&store, b), ids(&store, c)),
            (vec![whole], vec![], vec![new])
        );
    }

    #[test]
    fn key_sets_are_spread_over_the_devices() {
        let served = served_on(&[Device::cpu(); 2]);
        // Room for one set on each.
        let limits = Limits { key_bytes: served.key_bytes, ..Limits::default() };
        let store = KeyStore::new(limits);
        let me = owner();
        let opened = [0, 1].map(|_| store.open(me, None, &served, 0).unwrap());
        assert_eq!(opened.each_ref().map(|opened| opened.device), [0, 1]);
        assert!(matches!(store.open(me, None, &served, 0), Err(Fault::Busy { .. })));
        // The room that a set leaves is on its device.
        store.delete(me, opened[1].id).unwrap();
        assert_eq!(store.open(me, None, &served, 0).unwrap().device, 1);
    }

    #[test]
    fn a_set_in_use_is_not_deleted() {
        let served = served();
        // Room for one set.
        let limits = Limits { key_bytes: served.key_bytes, key_hold_s: 0, ..Limits::default() };
        let store = KeyStore::new(limits);
        let me = owner();
        let id = fill(&store, me, &served, true);
        let job = lock(&store.sets)[&(me, id)].keys.clone();
        assert!(matches!(store.delete(me, id), Err(Fault::Busy { limit: 1, .. })));
        // The memory that the job holds is still counted.
        let refused = store.open(me, None, &served, 0).map(|opened| opened.id);
        assert!(matches!(refused, Err(Fault::Busy { .. })), "{refused:?}");
        drop(job);
        store.delete(me, id).unwrap();
        assert_eq!(ids(&store, me), []);
        assert!(matches!(store.delete(me, id), Err(Fault::NotFound { .. })));
    }

    #[test]
    fn only_a_new_and_empty_set_is_abandoned() {
        let served = served();
        let store = KeyStore::new(Limits::default());
        let me = owner();
        let new = store.open(me, None, &served, 0).unwrap();
        store.abandon(me, &new);
        assert_eq!(ids(&store, me), []);
        let id = fill(&store, me, &served, false);
        for opened in
            [store.open(me, Some(id), &served, 1).unwrap(), Opened { id, new: true, ..new }]
        {
            store.abandon(me, &opened);
            assert_eq!(ids(&store, me), [id]);
        }
    }

    #[test]
    fn a_key_is_expanded_once_at_a_time() {
        let served = served();
        let store = KeyStore::new(Limits::default());
        let me = owner();
        let id = fill(&store, me, &served, false);
        let open = || store.open(me, Some(id), &served, 1);
        let opened: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let busy = |got: &&Result<Opened>| matches!(got, Err(Fault::Busy { .. }));
        assert_eq!(opened.iter().filter(busy).count(), 7);
        let first = opened.into_iter().find_map(Result::ok).unwrap();
        // Other keys of the set do not wait for it; and a set made for a key has that key under way.
        store.open(me, Some(id), &served, 2).unwrap();
        let new = store.open(me, None, &served, 3).unwrap();
        assert!(matches!(store.open(me, Some(new.id), &served, 3), Err(Fault::Busy { .. })));
        store.abandon(me, &first);
        open().unwrap();
    }
}

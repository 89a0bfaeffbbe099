//! Which switching keys are in the device's memory.
//!
//! The keys of a context share a budget. A key that is not there when it is asked for comes from the host, with the limbs
//! of the level asked for and no others; those used longest ago make room, but none that an operation holds. Keys do
//! not change, so one that has been put aside before takes no transfer to be put aside again. One lock guards all keys
//! of a context, also while words travel: nothing below it may wait for other threads of a pool.
//!
//! The budget is for what can be asked for again. A copy that an operation still holds after a higher level of the key
//! was brought, or after its last handle went, is beyond it until that operation ends: one key at most with one worker.

use crate::error::{Error, Result};
use crate::params::Parameters;
use crate::rlwe::{KeySpec, SwitchingKey};
use cipherform_ring::{Parked, RingPoly};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The digits of a key on the device, for as long as this lives.
#[derive(Clone)]
pub(crate) struct Resident(Arc<Vec<[RingPoly; 2]>>);

impl Deref for Resident {
    type Target = [[RingPoly; 2]];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// A key, wherever its words are. They go when the last handle does.
pub(crate) struct KeyHandle {
    memory: Arc<KeyMemory>,
    id: u64,
}

impl fmt::Debug for KeyHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHandle({})", self.id)
    }
}

impl Drop for KeyHandle {
    fn drop(&mut self) {
        let mut state = self.memory.lock();
        state.put_off(self.id);
        state.keys.remove(&self.id);
    }
}

/// The keys of one context.
#[derive(Default)]
pub(crate) struct KeyMemory(Mutex<State>);

#[derive(Default)]
struct State {
    /// None: whatever the device has.
    budget: Option<u64>,
    used: u64,
    /// Counts uses and names keys.
    clock: u64,
    keys: BTreeMap<u64, Entry>,
}

struct Entry {
    params: Parameters,
    spec: KeySpec,
    last_use: u64,
    /// The digits on the device and the level up to which they serve.
    device: Option<(Resident, usize)>,
    /// All digits and limbs, unless these are on the device and have never been put aside.
    host: Option<Arc<Vec<[Parked; 2]>>>,
}

impl Entry {
    fn bytes(&self, level: usize) -> u64 {
        SwitchingKey::expanded_bytes(&self.params, KeySpec { level, ..self.spec })
    }
}

impl KeyHandle {
    /// Takes a whole key, which is on the device; it is put aside if there is no room for it.
    pub(super) fn new(
        memory: &Arc<KeyMemory>,
        params: &Parameters,
        spec: KeySpec,
        digits: Vec<[RingPoly; 2]>,
    ) -> Result<Self> {
        let mut state = memory.lock();
        let id = state.tick();
        let (params, device) = (params.clone(), Some((Resident(Arc::new(digits)), spec.level)));
        let entry = Entry { params, spec, last_use: id, device, host: None };
        let bytes = entry.bytes(spec.level);
        state.keys.insert(id, entry);
        state.used += bytes;
        let fitted = state.fit();
        drop(state);
        // Made here, so that a failure takes the key out again.
        let handle = Self { memory: memory.clone(), id };
        fitted.map(|()| handle)
    }

    /// The digits on the device, with the limbs of a level at least.
    pub(super) fn get(&self, level: usize) -> Result<Resident> {
        let mut state = self.memory.lock();
        let now = state.tick();
        let entry = state.keys.get_mut(&self.id).ok_or_else(gone)?;
        entry.last_use = now;
        match (&entry.device, &entry.host) {
            (Some((resident, up_to)), _) if *up_to >= level => Ok(resident.clone()),
            (_, Some(host)) => {
                let host = host.clone();
                state.bring(self.id, &host, level)
            }
            (_, None) => Err(gone()),
        }
    }
}

fn gone() -> Error {
    Error::InvalidArgument { op: "evaluation key", detail: "its words are nowhere".into() }
}

impl KeyMemory {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the budget and puts aside what is over.
    pub(crate) fn limit(&self, bytes: Option<u64>) -> Result<()> {
        let mut state = self.lock();
        state.budget = bytes;
        state.fit()
    }

    /// Bytes on the device.
    pub(crate) fn used(&self) -> u64 {
        self.lock().used
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Brings the digits and limbs of a level to the device.
    fn bring(&mut self, id: u64, host: &[[Parked; 2]], level: usize) -> Result<Resident> {
        // What serves a lower level only makes room first.
        self.put_off(id);
        let entry = self.keys.get(&id).ok_or_else(gone)?;
        let (needed, spec) = (entry.bytes(level), KeySpec { level, ..entry.spec });
        let (limbs, digits) = (spec.limbs(&entry.params), spec.digits(&entry.params).len());
        while self.budget.is_some_and(|budget| self.used + needed > budget) {
            if !self.put_oldest_aside()? {
                let (budget, held) = (self.budget.unwrap_or(u64::MAX), self.used);
                return Err(Error::KeyMemory { spec, needed, held, budget });
            }
        }
        let restore = |pair: &[Parked; 2]| Ok([pair[0].restore(limbs)?, pair[1].restore(limbs)?]);
        let restored = host.iter().take(digits).map(restore).collect::<Result<Vec<_>>>()?;
        let resident = Resident(Arc::new(restored));
        if let Some(entry) = self.keys.get_mut(&id) {
            entry.device = Some((resident.clone(), level));
            self.used += needed;
        }
        Ok(resident)
    }

    /// Puts keys aside until the rest fits, or is held by operations.
    fn fit(&mut self) -> Result<()> {
        while self.budget.is_some_and(|budget| self.used > budget) {
            if !self.put_oldest_aside()? {
                break;
            }
        }
        Ok(())
    }

    /// Puts aside the key that was used longest ago and that no operation holds. Whether there was one.
    fn put_oldest_aside(&mut self) -> Result<bool> {
        let free = |entry: &Entry| {
            entry.device.as_ref().is_some_and(|(resident, _)| Arc::strong_count(&resident.0) == 1)
        };
        let oldest = self.keys.iter_mut().filter(|(_, e)| free(e)).min_by_key(|(_, e)| e.last_use);
        let Some((&id, entry)) = oldest else { return Ok(false) };
        if let (None, Some((resident, _))) = (&entry.host, &entry.device) {
            let park = |pair: &[RingPoly; 2]| Ok([pair[0].park()?, pair[1].park()?]);
            entry.host = Some(Arc::new(resident.iter().map(park).collect::<Result<_>>()?));
        }
        self.put_off(id);
        Ok(true)
    }

    /// Takes a key off the device.
    fn put_off(&mut self, id: u64) {
        let Some(entry) = self.keys.get_mut(&id) else { return };
        if let Some((_, level)) = entry.device.take() {
            self.used -= entry.bytes(level);
        }
    }
}

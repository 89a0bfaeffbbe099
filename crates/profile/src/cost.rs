//! The countable things, and vectors of them: predicted by a planner, observed by the recorder.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, AddAssign, Mul};

macro_rules! counters {
    ($($variant:ident $name:literal $doc:literal,)*) => {
        /// A countable unit of work. The names are the keys of every JSON report.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Counter { $(#[doc = $doc] #[serde(rename = $name)] $variant,)* }

        impl Counter {
            /// Every counter, in report order.
            pub const ALL: [Counter; [$(Counter::$variant),*].len()] = [$(Counter::$variant),*];

            /// The counter's stable name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)* }
            }
        }
    };
}

counters! {
    Rotations "rotations" "Slot rotations and conjugations, hoisted ones included.",
    Relinearizations "relinearizations" "Degree-2 ciphertexts brought back to degree 1.",
    KeySwitches "key_switches" "All key switches: full, hoisted and lazy.",
    Hoisted "hoisted" "Key switches that shared their digit decomposition with others.",
    Lazy "lazy" "Key switches that shared their mod-down with others.",
    CtCt "ct_ct" "Ciphertext by ciphertext tensor products.",
    CtPt "ct_pt" "Ciphertext by plaintext products.",
    Rescales "rescales" "Divisions by the last prime, one a ciphertext.",
    Bootstraps "bootstraps" "Bootstraps.",
    LimbNtts "limb_ntts" "Number-theoretic transforms of one limb, forward or inverse.",
    LweSwitches "lwe_switches" "Key switches of scalar LWE samples.",
    ProgrammableBootstraps "programmable_bootstraps" "Programmable bootstraps of scalar LWE samples.",
    BytesSent "bytes_sent" "Payload bytes this party sent to its peer.",
    BytesReceived "bytes_received" "Payload bytes this party received from its peer.",
    OfflineBytes "offline_bytes" "Correlation bytes this party used up.",
    Rounds "rounds" "Rounds of messages that an operator waited for.",
}

/// How much of each [`Counter`] something takes. All arithmetic saturates: counts read from a foreign report must
/// not be able to overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost([u64; Counter::ALL.len()]);

/// The counters in which a prediction and an observation differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch(pub Vec<(Counter, u64, u64)>);

impl Cost {
    /// A cost of `n` in one counter.
    #[must_use]
    pub fn of(counter: Counter, n: u64) -> Self {
        let mut cost = Self::default();
        cost.0[counter as usize] = n;
        cost
    }

    /// The value of one counter.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Adds `n` to one counter.
    pub fn count(&mut self, counter: Counter, n: u64) {
        let cell = &mut self.0[counter as usize];
        *cell = cell.saturating_add(n);
    }

    /// Whether every counter is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|&n| n == 0)
    }

    /// Compares this prediction with what was observed, exactly.
    ///
    /// # Errors
    /// [`Mismatch`] lists every counter that differs as (counter, predicted, observed).
    pub fn check(&self, observed: &Cost) -> Result<(), Mismatch> {
        let rows: Vec<_> = Counter::ALL
            .into_iter()
            .map(|c| (c, self.get(c), observed.get(c)))
            .filter(|(_, predicted, seen)| predicted != seen)
            .collect();
        if rows.is_empty() { Ok(()) } else { Err(Mismatch(rows)) }
    }
}

impl Add for Cost {
    type Output = Cost;
    fn add(mut self, rhs: Cost) -> Cost {
        self += rhs;
        self
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, rhs: Cost) {
        for (a, b) in self.0.iter_mut().zip(rhs.0) {
            *a = a.saturating_add(b);
        }
    }
}

impl Mul<u64> for Cost {
    type Output = Cost;
    fn mul(mut self, n: u64) -> Cost {
        self.0.iter_mut().for_each(|a| *a = a.saturating_mul(n));
        self
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(iter: I) -> Cost {
        iter.fold(Cost::default(), Add::add)
    }
}

impl Serialize for Cost {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(Counter::ALL.into_iter().map(|c| (c.name(), self.get(c))))
    }
}

impl<'de> Deserialize<'de> for Cost {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let map = std::collections::BTreeMap::<Counter, u64>::deserialize(d)?;
        let mut cost = Cost::default();
        for (counter, n) in map {
            cost.count(counter, n);
        }
        Ok(cost)
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "predicted and observed counts differ:")?;
        for (counter, predicted, observed) in &self.0 {
            write!(f, " {} {predicted} predicted, {observed} observed;", counter.name())?;
        }
        Ok(())
    }
}

impl std::error::Error for Mismatch {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_reports_exactly_the_differences() {
        let a = Cost::of(Counter::Rotations, 3) + Cost::of(Counter::CtPt, 1) * 4;
        let mut b = a;
        assert!(a.check(&b).is_ok());
        b.count(Counter::Rotations, 1);
        assert_eq!(a.check(&b), Err(Mismatch(vec![(Counter::Rotations, 3, 4)])));
    }

    #[test]
    fn json_uses_the_stable_names() {
        let cost = Cost::of(Counter::LimbNtts, 7);
        let json = serde_json::to_string(&cost).unwrap();
        assert!(json.contains("\"limb_ntts\":7"), "{json}");
        assert_eq!(serde_json::from_str::<Cost>(&json).unwrap(), cost);
    }
}

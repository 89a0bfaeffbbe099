//! The cost table of a machine as a file.

use super::{BOOTSTRAP, Line, MachineCosts};
use crate::error::{Error, Result, read_bounded};
use cipherform_ckks::Parameters;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The format tag of a cost table.
const FORMAT: &str = "cipherform.costs/1";

/// Largest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Ring dimension, as a logarithm, of the nominal machine's entry.
const NOMINAL_LOG_N: u32 = 16;

/// What primitives cost on one device, by ring dimension.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostTable {
    format: String,
    /// The device: `cpu`, `cuda:0`.
    pub device: String,
    /// What it is, in words.
    pub machine: String,
    entries: BTreeMap<u32, MachineCosts>,
}

impl CostTable {
    /// An empty table for a device.
    #[must_use]
    pub fn new(device: &str, machine: &str) -> Self {
        let (device, machine) = (device.to_owned(), machine.to_owned());
        Self { format: FORMAT.to_owned(), device, machine, entries: BTreeMap::new() }
    }

    /// The machine that plans are made for when none was measured: one core with 512-bit vectors.
    #[must_use]
    pub fn nominal() -> Self {
        let mut table = Self::new("nominal", "one core with 512-bit vectors");
        table.insert(NOMINAL_LOG_N, MachineCosts::nominal(NOMINAL_LOG_N));
        table
    }

    /// Adds what was measured for a ring dimension.
    pub fn insert(&mut self, log_n: u32, costs: MachineCosts) {
        self.entries.insert(log_n, costs);
    }

    /// Whether a ring dimension has been measured.
    #[must_use]
    pub fn has(&self, log_n: u32) -> bool {
        self.entries.contains_key(&log_n)
    }

    /// The costs of a set: its dimension's, or another dimension's in proportion.
    #[must_use]
    pub fn of(&self, params: &Parameters) -> MachineCosts {
        let log_n = params.log_n();
        let nearest = self.entries.iter().min_by_key(|(have, _)| have.abs_diff(log_n));
        nearest.map_or_else(
            || MachineCosts::nominal(log_n),
            |(&have, costs)| costs.scaled(have, log_n),
        )
    }

    /// Reads a table.
    ///
    /// # Errors
    /// `Io`, `TooLarge`; `Malformed` for another format or numbers that are no times.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = read_bounded(path, "cost table", LIMIT)?;
        let malformed = |detail: String| Error::Malformed { what: "cost table", detail };
        let table: Self = serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
        if table.format != FORMAT {
            return Err(malformed(format!(
                "format {:?}, this version reads {FORMAT}",
                table.format
            )));
        }
        if !table.entries.values().all(MachineCosts::is_sane) {
            return Err(malformed("a time is negative or not finite; measure again".into()));
        }
        Ok(table)
    }

    /// Writes it.
    ///
    /// # Errors
    /// `Io`; `Malformed` for numbers that JSON does not have.
    pub fn save(&self, path: &Path) -> Result<()> {
        let malformed = |e: serde_json::Error| Error::malformed("cost table", e.to_string());
        let text = serde_json::to_string_pretty(self).map_err(malformed)? + "\n";
        std::fs::write(path, text).map_err(|e| Error::io(path, e))
    }
}

impl MachineCosts {
    /// The nominal machine at a ring dimension: an estimate that only has to rank plans.
    #[must_use]
    pub fn nominal(log_n: u32) -> Self {
        let line = |slope: f64| Line { fixed: 0.0, slope };
        let at_16 = Self {
            key_switch: line(0.45),
            hoisted_more: line(0.25),
            tensor: line(0.25),
            rescale: line(0.8),
            set_level: line(0.9),
            dot_term: line(0.09),
            dense_term: line(0.12),
            add: line(0.05),
            bootstrap: BOOTSTRAP,
        };
        at_16.scaled(NOMINAL_LOG_N, log_n)
    }

    /// In proportion to n log n.
    fn scaled(&self, from: u32, to: u32) -> Self {
        let work = |log_n: u32| f64::from(log_n) * f64::from(log_n).exp2();
        let factor = work(to) / work(from);
        let line = |l: Line| Line { fixed: l.fixed, slope: l.slope * factor };
        Self {
            key_switch: line(self.key_switch),
            hoisted_more: line(self.hoisted_more),
            tensor: line(self.tensor),
            rescale: line(self.rescale),
            set_level: line(self.set_level),
            dot_term: line(self.dot_term),
            dense_term: line(self.dense_term),
            add: line(self.add),
            bootstrap: self.bootstrap,
        }
    }

    fn is_sane(&self) -> bool {
        [
            self.key_switch,
            self.hoisted_more,
            self.tensor,
            self.rescale,
            self.set_level,
            self.dot_term,
            self.dense_term,
            self.add,
            Line { fixed: 0.0, slope: self.bootstrap },
        ]
        .iter()
        .all(|l| l.fixed.is_finite() && l.slope.is_finite() && l.fixed >= 0.0 && l.slope >= 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cipherform_ckks::presets;

    #[test]
    fn a_table_survives_its_file_and_nonsense_does_not() {
        let dir = std::env::temp_dir().join(format!("cipherform-costs-{}", std::process::id()));
        let mut table = CostTable::new("cpu", "a test");
        table.insert(15, MachineCosts::nominal(15));
        table.save(&dir).unwrap();
        assert_eq!(CostTable::load(&dir).unwrap(), table);
        let text = std::fs::read_to_string(&dir).unwrap();
        for (from, to) in [("costs/1", "costs/0"), ("\"fixed\": 0.0", "\"fixed\": -1.0")] {
            std::fs::write(&dir, text.replacen(from, to, 1)).unwrap();
            assert!(matches!(CostTable::load(&dir), Err(Error::Malformed { .. })), "{to}");
        }
        std::fs::remove_file(&dir).unwrap();
        // Another dimension in proportion: half the words and 14 layers of 15.
        let params = presets::get("lev14").unwrap();
        let (known, scaled) = (MachineCosts::nominal(15), table.of(&params));
        let ratio = scaled.key_switch.slope / known.key_switch.slope;
        assert!((ratio - 14.0 / 30.0).abs() < 1e-12, "{ratio}");
    }
}

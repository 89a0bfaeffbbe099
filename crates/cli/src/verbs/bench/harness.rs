//! Timing rows, with another library's rows in between.
//!
//! Not criterion, because three things are needed that it does not do: CPU time (machines are shared, and a peer's time on
//! the wall says nothing), rounds that alternate with another process, and one table as the result of a verb. The
//! statistics are those that such data bear: disturbances only ever add time, so two programs are compared by their minima
//! over the same rounds, and the median and the spread say how calm the machine was. Criterion keeps baselines of the same
//! rows: `cargo bench -p cipherform-benches --bench ckks`.

use crate::output::bar;
use crate::verbs::bench::machine::Machine;
use crate::verbs::bench::peer::Peer;
use anyhow::Result;
use cipherform_profile::{Counter, record};
use cipherform_ring::Ring;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::time::Instant;

/// One repetition, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) wall: f64,
    /// Of all threads of the process.
    pub(crate) cpu: f64,
    /// Until the calls returned, where that is before the work is done: if it is less than `wall`, the device is never
    /// kept waiting.
    pub(crate) asked: Option<f64>,
    /// Kernels of one call.
    pub(crate) launches: u64,
}

/// Runs this many times and says how long one took.
type Timed<'a> = Box<dyn FnMut(&Ring, usize) -> Result<Sample> + Send + 'a>;

/// Calls in one repetition on a device that runs behind its caller, unless a call takes longer than `LONG_MS`: enough to
/// hide the waiting at the end.
const CALLS: usize = 20;
const LONG_MS: f64 = 20.0;

/// Something to time.
pub(crate) struct Row<'a> {
    pub(crate) op: &'static str,
    timed: Timed<'a>,
    /// Bytes that must cross the memory bus: operands, keys and results once each.
    bytes: u64,
}

/// CPU time of this process so far, in milliseconds.
pub(crate) fn cpu_ms() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6
}

impl<'a> Row<'a> {
    /// Times `f`.
    pub(crate) fn new<T>(
        op: &'static str,
        bytes: u64,
        mut f: impl FnMut() -> Result<T> + Send + 'a,
    ) -> Self {
        Self::with_setup(op, bytes, || Ok(()), move |()| f())
    }

    /// Times `f` on what `setup` makes outside the clock; the result is dropped outside it too.
    pub(crate) fn with_setup<S, T>(
        op: &'static str,
        bytes: u64,
        mut setup: impl FnMut() -> Result<S> + Send + 'a,
        mut f: impl FnMut(S) -> Result<T> + Send + 'a,
    ) -> Self {
        let timed = move |ring: &Ring, calls: usize| {
            let operands = (0..calls).map(|_| setup()).collect::<Result<Vec<_>>>()?;
            ring.synchronize()?;
            let (begin, cpu, launches) = (Instant::now(), cpu_ms(), ring.launches());
            let kept = operands.into_iter().map(&mut f).collect::<Result<Vec<_>>>()?;
            let asked = begin.elapsed().as_secs_f64() * 1e3;
            ring.synchronize()?;
            let (wall, cpu) = (begin.elapsed().as_secs_f64() * 1e3, cpu_ms() - cpu);
            drop(kept);
            let each = |total: f64| total / calls as f64;
            Ok(Sample {
                wall: each(wall),
                cpu: each(cpu),
                asked: ring.device().runs_behind().then(|| each(asked)),
                launches: (ring.launches() - launches) / calls as u64,
            })
        };
        Self { op, timed: Box::new(timed), bytes }
    }
}

/// All repetitions of a row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    pub(crate) wall: Vec<f64>,
    pub(crate) cpu: Vec<f64>,
    pub(crate) asked: Vec<f64>,
    pub(crate) launches: u64,
}

/// Smallest of some times.
pub(crate) fn min(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The middle one.
pub(crate) fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Times {
    pub(crate) fn push(&mut self, sample: Sample) {
        self.wall.push(sample.wall);
        self.cpu.push(sample.cpu);
        self.asked.extend(sample.asked);
        self.launches = sample.launches;
    }

    /// Row by row sum, for what is only ever done together.
    fn plus(&self, other: &Self) -> Self {
        let add = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect();
        Self {
            wall: add(&self.wall, &other.wall),
            cpu: add(&self.cpu, &other.cpu),
            asked: add(&self.asked, &other.asked),
            launches: self.launches + other.launches,
        }
    }
}

/// A row's times, and the peer's in the same rounds.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) op: &'static str,
    pub(crate) threads: usize,
    pub(crate) times: Times,
    pub(crate) floor_ms: f64,
    /// Bytes of operands, keys and results, and the rate at which this device copies: the floor of what only moves words.
    bytes: u64,
    copy_gb_per_s: f64,
    pub(crate) peer: Option<Times>,
    /// What the peer's times are, if not a measurement of the same thing.
    pub(crate) peer_note: Option<&'static str>,
}

/// Runs `rounds` rounds: in each, every row with every number of threads, and right after it the peer's row.
///
/// One run before the rounds is not counted; it is recorded instead, for the transforms of the floor.
pub(crate) fn measure(
    ring: &Ring,
    rows: &mut [Row<'_>],
    threads: &[usize],
    rounds: usize,
    mut peer: Option<&mut Peer>,
) -> Result<Vec<Measured>> {
    let pools = threads
        .iter()
        .map(|&t| Ok((t, rayon::ThreadPoolBuilder::new().num_threads(t).build()?)))
        .collect::<Result<Vec<_>>>()?;
    let mut measured = Vec::new();
    let mut calls = Vec::new();
    for (t, pool) in &pools {
        let machine = pool.install(|| Machine::measure(ring))?;
        for row in rows.iter_mut() {
            let (run, recording) = pool.install(|| record(|| (row.timed)(ring, 1)));
            let many = ring.device().runs_behind() && run?.wall < LONG_MS;
            calls.push(if many { CALLS } else { 1 });
            let transforms = recording.total().get(Counter::LimbNtts);
            measured.push(Measured {
                op: row.op,
                threads: *t,
                times: Times::default(),
                floor_ms: machine.floor_ms(transforms, row.bytes, *t),
                bytes: row.bytes,
                copy_gb_per_s: machine.copy_gb_per_s(),
                peer: None,
                peer_note: None,
            });
        }
    }
    let per_pool = rows.len();
    let progress = bar((rounds * measured.len()) as u64, "measuring");
    for _ in 0..rounds {
        for (j, row) in rows.iter_mut().enumerate() {
            for (i, (_, pool)) in pools.iter().enumerate() {
                let Some(result) = measured.get_mut(i * per_pool + j) else { continue };
                progress.set_message(row.op);
                let calls = calls.get(i * per_pool + j).copied().unwrap_or(1);
                result.times.push(pool.install(|| (row.timed)(ring, calls))?);
                if let Some(peer) = peer.as_deref_mut().filter(|peer| peer.has(row.op)) {
                    result.peer.get_or_insert_default().push(peer.run(row.op)?);
                }
                progress.inc(1);
            }
        }
    }
    progress.finish_and_clear();
    Ok(measured)
}

impl Measured {
    /// The row of two operations that follow each other.
    pub(crate) fn together(op: &'static str, a: &Self, b: &Self) -> Self {
        Self {
            op,
            threads: a.threads,
            times: a.times.plus(&b.times),
            floor_ms: a.floor_ms + b.floor_ms,
            bytes: a.bytes + b.bytes,
            copy_gb_per_s: a.copy_gb_per_s,
            peer: a.peer.as_ref().zip(b.peer.as_ref()).map(|(a, b)| a.plus(b)),
            peer_note: None,
        }
    }

    /// Until the calls had returned, on a device that runs behind them.
    fn asked_ms(&self) -> Option<f64> {
        (!self.times.asked.is_empty()).then(|| median(&self.times.asked))
    }

    /// The floor over the smallest time on the wall: how much of what the device can do is reached.
    fn percent_of_floor(&self) -> f64 {
        100.0 * self.floor_ms / min(&self.times.wall)
    }

    /// Our smallest CPU time over the peer's.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|peer| min(&self.times.cpu) / min(&peer.cpu))
    }

    /// One line of the table.
    pub(crate) fn line(&self, target: Option<f64>) -> String {
        let cell = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{x:.2}"));
        let peer = self.peer.as_ref().map(|peer| min(&peer.cpu));
        format!(
            "{:<24} {:>7} {:>9.3} {:>4.0} % {:>9.3} {:>9.3} {:>9.3} {:>9} {:>7} {:>7}{}{}",
            self.op,
            self.threads,
            self.floor_ms,
            self.percent_of_floor(),
            min(&self.times.cpu),
            min(&self.times.wall),
            median(&self.times.wall),
            cell(peer),
            cell(self.ratio()),
            target.map_or("-".to_owned(), |t| format!("<{t:.2}")),
            self.asked_ms()
                .map(|ms| format!("  {ms:.3} to ask, {} launches", self.times.launches))
                .unwrap_or_default(),
            self.peer_note.map(|note| format!("  {note}")).unwrap_or_default(),
        )
    }

    /// The head of the table.
    pub(crate) fn head() -> String {
        format!(
            "{:<24} {:>7} {:>9} {:>6} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}",
            "ms",
            "threads",
            "floor",
            "of it",
            "cpu min",
            "min",
            "median",
            "peer cpu",
            "ratio",
            "target"
        )
    }

    /// The row of the schema `cipherform.bench/1`.
    pub(crate) fn json(&self, device: &str, limbs: Option<usize>, target: Option<f64>) -> Value {
        json!({
            "op": self.op, "device": device, "threads": self.threads, "batch": 1, "limbs": limbs,
            "median_ms": median(&self.times.wall), "min_ms": min(&self.times.wall),
            "cpu_ms": min(&self.times.cpu), "cpu_median_ms": median(&self.times.cpu),
            "runs": self.times.wall.len(),
            "floor_ms": self.floor_ms, "percent_of_floor": self.percent_of_floor(),
            "bytes": self.bytes, "gb_per_s": self.bytes as f64 / min(&self.times.wall) / 1e6,
            "copy_gb_per_s": self.copy_gb_per_s,
            "asked_ms": self.asked_ms(), "launches": self.times.launches,
            "peer": self.peer.as_ref().map(|peer| json!({
                "name": Peer::NAME, "note": self.peer_note,
                "median_ms": median(&peer.wall), "min_ms": min(&peer.wall),
                "cpu_ms": min(&peer.cpu), "cpu_median_ms": median(&peer.cpu),
            })),
            "ratio": self.ratio(), "target_ratio": target,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cipherform_ring::{Device, RnsBasis};

    #[test]
    fn minima_are_compared_and_rounds_counted() {
        let mut calls = 0;
        let mut rows = vec![Row::with_setup(
            "spin",
            0,
            || Ok(()),
            |()| {
                calls += 1;
                let begin = cpu_ms();
                while cpu_ms() - begin < 2.0 {}
                Ok(())
            },
        )];
        let basis = RnsBasis::new(16, &[97], &[], &[]).unwrap();
        let ring = Ring::new(basis, &Device::reference()).unwrap();
        let measured = measure(&ring, &mut rows, &[1], 3, None).unwrap();
        drop(rows);
        assert_eq!(calls, 4);
        let [row] = measured.as_slice() else { panic!("one row") };
        assert!(row.times.cpu.len() == 3 && min(&row.times.cpu) >= 2.0);
        assert!(row.ratio().is_none());
        let mut with_peer = row.clone();
        with_peer.peer =
            Some(Times { wall: vec![9.0; 3], cpu: vec![12.0, 4.0, 8.0], ..Times::default() });
        with_peer.times.cpu = vec![3.0, 2.0, 1.0];
        assert!((with_peer.ratio().unwrap() - 0.25).abs() < 1e-12);
        let both = Measured::together("both", &with_peer, &with_peer);
        assert!((min(&both.times.cpu) - 2.0).abs() < 1e-12);
        assert!((median(&[5.0, 1.0, 3.0]) - 3.0).abs() < 1e-12);
    }
}

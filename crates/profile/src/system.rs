//! What the report's header asks of the operating system, and the recorder's own cost.

use crate::recorder::{primitive, record};
use std::time::Instant;

/// The value of a `name: value` line of a file under /proc.
fn proc_field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
}

/// The largest resident size this process has had; `None` where the system does not tell (it is Linux's `VmHWM`).
#[must_use]
pub fn peak_rss_bytes() -> Option<u64> {
    let value = proc_field("/proc/self/status", "VmHWM")?;
    value.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The processor's model name; `None` where the system does not tell.
#[must_use]
pub fn cpu_model() -> Option<String> {
    proc_field("/proc/cpuinfo", "model name")
}

/// What opening and closing one recorded span costs here and now, in nanoseconds. Takes about a millisecond.
#[must_use]
pub fn span_cost_ns() -> f64 {
    const SPANS: u32 = 10_000;
    let (elapsed, _) = record(|| {
        let start = Instant::now();
        for _ in 0..SPANS {
            let _span = primitive("probe");
        }
        start.elapsed()
    });
    elapsed.as_secs_f64() * 1e9 / f64::from(SPANS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_is_at_least_what_was_touched() {
        let block = std::hint::black_box(vec![1_u8; 32 << 20]);
        assert!(block.iter().map(|&b| u64::from(b)).sum::<u64>() > 0);
        assert!(peak_rss_bytes().unwrap() > 32 << 20);
    }

    #[test]
    fn a_span_costs_something_but_not_much() {
        let ns = span_cost_ns();
        assert!(ns > 0.0 && ns < 100_000.0, "{ns}");
    }
}

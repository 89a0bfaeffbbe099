//! How figures and foreign text are written, the same in every export.

/// Milliseconds with one decimal and groups of three digits: `1 236.8`; small times keep more digits.
pub(crate) fn millis(ms: f64) -> String {
    if ms != 0.0 && ms.abs() < 0.095 {
        return format!("{ms:.3}");
    }
    let text = format!("{:.1}", ms.abs());
    let (whole, rest) = text.split_at(text.len().saturating_sub(2));
    let mut out = String::from(if ms < 0.0 { "-" } else { "" });
    out.push_str(&grouped(whole));
    out.push_str(rest);
    out
}

/// A count in groups of three digits.
pub(crate) fn number(n: u64) -> String {
    grouped(&n.to_string())
}

fn grouped(digits: &str) -> String {
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// A count, or nothing for zero: a sparse table reads better.
pub(crate) fn count(n: u64) -> String {
    if n == 0 { String::new() } else { number(n) }
}

/// A size with a decimal unit.
pub(crate) fn bytes(n: u64) -> String {
    let value = n as f64;
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

/// A fraction in percent, without the sign.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.1}", fraction * 100.0)
}

/// How far `seen` lies from `expected`, in percent with a sign; nothing to say about an expectation of zero.
pub(crate) fn deviation(seen: f64, expected: f64) -> String {
    if expected == 0.0 {
        String::new()
    } else {
        format!("{:+.1} %", (seen / expected - 1.0) * 100.0)
    }
}

/// `20>19`, or what is known of it.
pub(crate) fn levels(level_in: Option<usize>, level_out: Option<usize>) -> String {
    match (level_in, level_out) {
        (Some(a), Some(b)) if a == b => a.to_string(),
        (Some(a), Some(b)) => format!("{a}>{b}"),
        (Some(a), None) | (None, Some(a)) => a.to_string(),
        (None, None) => String::new(),
    }
}

/// Text of a foreign report on one line without control characters, which a terminal would obey.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!(millis(1_236_845.26), "1 236 845.3");
        assert_eq!(millis(-12.34), "-12.3");
        assert_eq!(millis(0.0123), "0.012");
        assert_eq!(millis(0.0), "0.0");
        assert_eq!(number(1_000), "1 000");
        assert_eq!(number(999), "999");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(22_020_096), "22.0 MB");
        assert_eq!(bytes(1_300_000_000), "1.30 GB");
        assert_eq!(deviation(9.0, 10.0), "-10.0 %");
        assert_eq!(levels(Some(20), Some(19)), "20>19");
        assert_eq!(clean("a\u{1b}[31m\nb"), "a\u{fffd}[31m\u{fffd}b");
    }
}

//! What every verb prints with: JSON files, progress, sizes.

use anyhow::{Context as _, Result};
use cipherform_profile::Style;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

/// Writes pretty JSON to `path`, when one was asked for.
pub(crate) fn write_json(path: Option<&Path>, value: &serde_json::Value) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(value)?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// A bar with an ETA; hidden when standard error is no terminal.
pub(crate) fn bar(length: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    let style =
        ProgressStyle::with_template("{prefix:24} [{bar:32}] {percent:>3}%  {msg}  eta {eta}");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(what.to_owned());
    bar
}

/// Colours when standard output is a terminal.
pub(crate) fn style() -> Style {
    if std::io::stdout().is_terminal() { Style::Ansi } else { Style::Plain }
}

/// `1.23 GB`, decimal units.
pub(crate) fn bytes(n: u64) -> String {
    let x = n as f64;
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", x / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", x / 1e6),
        _ => format!("{:.2} GB", x / 1e9),
    }
}

/// `12.3 ms` or `1.23 s`.
pub(crate) fn time(t: Duration) -> String {
    if t.as_secs_f64() < 1.0 {
        format!("{:.1} ms", t.as_secs_f64() * 1e3)
    } else {
        format!("{:.2} s", t.as_secs_f64())
    }
}
